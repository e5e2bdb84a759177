"""Many image files, decoded once into a memory-mapped file of 8-bit pixels that later runs use again."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.files import write_atomically
from hypergrad.progress import Progress
from hypergrad.vision.data.decoding import decode_all
from hypergrad.vision.data.pictures import Picture, decode

#: Raised when the same files would be decoded to other pixels, so that old files are not used again.
VERSION = 1
#: Pictures from which on the progress of decoding is shown.
WORTH_SHOWING = 1000
#: Seconds after which an unfinished file that nobody writes to is one that a killed process left.
ABANDONED = 24 * 3600.0


@dataclass(frozen=True)
class Decoded:
    """Pictures as pixels.

    Attributes:
        images: 8-bit, memory-mapped, ``(n, 3, S, S)``.
        rows: which of the pictures they are, ``(n,)``: all, or all that are not broken.
        broken: name and fault of each that could not be decoded.
    """

    images: Tensor
    rows: Tensor
    broken: tuple[str, ...]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/hypergrad``, or ``~/.cache/hypergrad`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "hypergrad"


def decoded(pictures: Sequence[Picture], *, name: str, root: Path, side: int, workers: int) -> Decoded:
    """The pixels of pictures, decoded now or taken from the cache.

    The pixels go to a file of a temporary name in the cache folder, which is renamed when it is whole; then a record of
    what it was made from (names, sizes and times of the files, the size in pixels) is written beside it. A file
    without a record that agrees is never used, so a decoding that was killed, and files that changed, are done anew.

    Args:
        pictures: in the order of the rows.
        name: of the set and the part, ``"pets-train"``; with the root and the size it names the files in the cache.
        root: of the set.
        side: height and width of the result.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        InvalidInputError: a file is not there, none can be decoded, or the cache cannot be written.
    """
    folder = cache_folder()
    place = hashlib.sha256(os.path.realpath(root).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stem = f"{name}-{side}-{place}"
    digest = _digest(pictures, side)
    broken = _record(folder / f"{stem}.json", digest, len(pictures), side)
    # A file may have been unreadable for a reason outside of it (its permissions): see whether it still is.
    if broken is None or any(not isinstance(decode(pictures[row], side), str) for row in broken):
        broken = _decode(pictures, folder, stem, digest, name, side, workers)
    faults = tuple(f"{pictures[row].name} ({fault})" for row, fault in broken.items())
    rows = torch.tensor([row for row in range(len(pictures)) if row not in broken], dtype=torch.int64)
    if not len(rows):
        return Decoded(torch.empty((0, 3, side, side), dtype=torch.uint8), rows, faults)
    mapped = np.memmap(_pixels(folder, stem, digest), np.uint8, "r", shape=(len(rows), 3, side, side))
    with warnings.catch_warnings():
        # torch warns that the memory is read-only. It is meant to be: a private copy would count as memory in use,
        # and a writable mapping would let a mistake spoil the cache.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Decoded(torch.from_numpy(mapped), rows, faults)


def _digest(pictures: Sequence[Picture], side: int) -> str:
    """Of all that the pixels depend on, as far as can be told without reading the files."""
    text = hashlib.sha256(f"{VERSION} {side}".encode())
    for picture in pictures:
        if isinstance(picture.source, bytes):
            state = hashlib.sha256(picture.source).hexdigest()
        else:
            try:
                status = picture.source.stat()
            except OSError as error:
                raise InvalidInputError(
                    f"The image file {picture.source} cannot be read ({error.strerror}); the set lists it. Get it anew."
                ) from error
            state = f"{status.st_size} {status.st_mtime_ns}"
        text.update(f"\n{picture.name}\0{state}\0{picture.cut_bottom}".encode("utf-8", "surrogateescape"))
    return text.hexdigest()


def _pixels(folder: Path, stem: str, digest: str) -> Path:
    # The digest in the name: a new file beside an old record is not mistaken for the one that the record describes.
    return folder / f"{stem}-{digest[:16]}.u8"


def _record(path: Path, digest: str, count: int, side: int) -> dict[int, str] | None:
    """Rows and faults of the broken pictures, if the pixels are there and were made from these pictures."""
    try:
        held = json.loads(path.read_bytes())
        broken = {int(row): str(fault) for row, fault in held["broken"].items()}
        size = _pixels(path.parent, path.stem, digest).stat().st_size
        whole = size == (count - len(broken)) * 3 * side**2 and all(0 <= row < count for row in broken)
        return broken if held["digest"] == digest and whole and size > 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # no record, or not one of ours: it is written anew


def _decode(
    pictures: Sequence[Picture], folder: Path, stem: str, digest: str, name: str, side: int, workers: int
) -> dict[int, str]:
    broken: dict[int, str] = {}
    temporary = folder / f"{stem}-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _check_space(folder, len(pictures) * 3 * side * side)
        shown = len(pictures) >= WORTH_SHOWING
        progress = Progress(len(pictures), f"decoding {name}", enabled=shown)
        with open(temporary, "xb") as file, progress:
            for row, found in enumerate(decode_all(pictures, side, workers)):
                if isinstance(found, str):
                    broken[row] = found
                else:
                    file.write(found.data)
                progress.update(row + 1)
            file.flush()
            os.fsync(file.fileno())
        if len(broken) < len(pictures):  # else there is nothing to keep
            os.replace(temporary, _pixels(folder, stem, digest))
            held = {"digest": digest, "version": VERSION, "side": side, "pictures": len(pictures), "broken": broken}
            write_atomically(folder / f"{stem}.json", json.dumps(held, indent=1) + "\n")
            for old in folder.glob(f"{stem}-*.u8"):
                if old != _pixels(folder, stem, digest):
                    old.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"The pixels of {name} cannot be written to {folder} ({error.strerror or error}). Set XDG_CACHE_HOME to "
            f"a folder that can be written to and has {_gigabytes(len(pictures) * 3 * side * side)} to spare."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return broken


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidInputError(
            f"The pixels need {_gigabytes(needed)} in {folder}, which has {_gigabytes(free)} left. Set XDG_CACHE_HOME "
            "to a folder on a larger disk, or choose a smaller image_size."
        )


def _sweep(folder: Path) -> None:
    """Delete what killed processes left; files that another process still writes are younger than that."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
