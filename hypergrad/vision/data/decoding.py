"""Pictures decoded in order, in this process or in several."""

import functools
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from hypergrad.errors import InvalidInputError
from hypergrad.optional import require
from hypergrad.vision.data.pictures import PURPOSE, Picture, Pixels, decode

#: Pictures that a process gets at a time.
CHUNK = 32


def decode_all(pictures: Sequence[Picture], side: int, workers: int) -> Iterator[Pixels | str]:
    """Pixels, or what is wrong, of each picture, in order.

    At most a few chunks a process are in flight, so that the results of a fast decoder do not fill the memory when the
    disk is slow.

    Args:
        pictures: the files.
        side: height and width of the result.
        workers: processes, started afresh (``spawn``: forking after CUDA or threads have started is not safe); 0
            decodes in this one.

    Raises:
        InvalidInputError: a process died.
        MissingLibraryError: Pillow is not installed.
    """
    require("PIL.Image", PURPOSE, "vision")  # here, so that it is an error and not the fault of each file
    if workers == 0:
        yield from (decode(picture, side) for picture in pictures)
        return
    chunks = (pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK))
    work = functools.partial(_decode_chunk, side=side)
    workers = min(workers, -(-len(pictures) // CHUNK))
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting: deque[Future[list[Pixels | str]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InvalidInputError(
            "A process that decodes image files ended abruptly: there was too little memory for it, or a script lacks "
            '`if __name__ == "__main__":` around what it does. Pass workers=0 to decode in one process.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_chunk(pictures: Sequence[Picture], side: int) -> list[Pixels | str]:
    return [decode(picture, side) for picture in pictures]
