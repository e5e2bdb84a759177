"""Several workers, each a process of its own."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any, cast

import torch

from hypergrad.baselines.attempt import Finished, SearchFailedError
from hypergrad.baselines.bookkeeping import Book, Plan, load_book
from hypergrad.baselines.ledger import CLAIM, finished
from hypergrad.baselines.processes import own_claim
from hypergrad.baselines.working import Objective, work
from hypergrad.errors import InvalidInputError


def work_in_processes(objective: Objective, plan: Plan, book: Book, workers: int) -> Generator[Finished, None, None]:
    """Yield what came of each attempt, as it ends. A worker that is killed fails its cell, and the others go on.

    Raises:
        InvalidInputError: the objective cannot be sent to another process.
        SearchFailedError: a worker met an error that is not the objective's.
    """
    try:
        payload = pickle.dumps((objective, plan))
    except Exception as error:
        raise InvalidInputError(
            f"The objective cannot be sent to a worker process ({type(error).__name__}: {error}). Define it at the top "
            "level of a module, or take workers=1."
        ) from error
    if plan.trials is not None:
        workers = min(workers, len(book.read().waiting(plan.trials)))
    context = multiprocessing.get_context("spawn")
    # A pipe each: with a common queue, a worker that is killed while it holds the queue's lock would block the others.
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    # No daemons: those may not have processes of their own.
    processes = [context.Process(target=_worker, args=(payload, send)) for _, send in pipes]
    try:
        for process, (_, send) in zip(processes, pipes, strict=True):
            process.start()
            send.close()  # so that the pipe ends with the worker
        yield from _follow(book, {receive: p for p, (receive, _) in zip(processes, pipes, strict=True)})
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _follow(book: Book, working: dict[Any, Any]) -> Iterator[Finished]:
    """What the workers tell, until all have ended."""
    while working:
        for receive in cast(list[Any], wait(list(working))):
            try:
                kind, content = receive.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                process = working.pop(receive)
                process.join()
                yield from _buried(book, process)
                continue
            if kind == "error":
                raise SearchFailedError(f"A worker of the search met an error:\n{content}")
            yield content


def _buried(book: Book, process: Any) -> list[Finished]:
    """The cells on which a worker died."""
    if process.exitcode == 0:
        return []
    host, left = own_claim()["host"], []
    for trial in book.read().running():
        claim = trial.user_attrs.get(CLAIM, {})
        if claim.get("host") == host and claim.get("pid") == process.pid:
            book.bury(trial, f"its worker process ended with exit code {process.exitcode} (killed, perhaps for memory)")
            left.append(finished(book.storage.get_trial(trial._trial_id)))
    return sorted(left, key=lambda a: a.number)


def _worker(payload: bytes, send: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        objective, plan = pickle.loads(payload)
        with closing(load_book(plan.storage, plan.name)) as book:
            for ended in work(objective, plan, book):
                send.send(("ended", ended))
    except KeyboardInterrupt:  # this worker was asked to stop, and has ended its attempt; the others go on
        raise SystemExit(128 + signal.SIGTERM) from None
    except BaseException:
        with contextlib.suppress(OSError):
            send.send(("error", traceback.format_exc()))


def _die_with_parent() -> None:
    """A command that is killed takes its workers along, and whoever resumes finds their cells dead, not busy."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
