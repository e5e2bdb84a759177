"""Workers of a search that are killed, stopped for a while, and started again; then each cell must be complete once."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from _faults_jobs import value_of, warm_up
from _faults_process import Process
from _faults_runs import Trial

from hypergrad.baselines.bookkeeping import load_book
from hypergrad.baselines.storages import absolute

CELLS = 12
NAME = "faults"


class Searches:
    """Searches with two workers over one storage.

    Args:
        place: an empty folder.
        rng: where and when the faults fall.
    """

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place, self.rng, self._count = place, rng, 0
        place.mkdir(parents=True)
        warm_up("search")

    def folder(self) -> Path:
        self._count += 1
        path = self.place / f"{self._count:03d}"
        path.mkdir()
        return path

    def worker(self, folder: Path, *, fresh: bool = False, **more: Any) -> Process:
        job = {"kind": "search", "folder": str(folder), "name": NAME, **more}
        return Process(job, folder / "processes", fresh=fresh)


def kills(searches: Searches, count: int, per_search: int = 3) -> Iterator[Trial]:
    """kill -9 of one of two workers at random instants, or before a change of a file; a new one takes its place.

    All kills of a search survive, or none does: the cells are looked at in the end.
    """
    rng, done = searches.rng, 0
    while done < count:
        folder = searches.folder()
        own: list[tuple[float, bool]] = []
        workers = [searches.worker(folder), searches.worker(folder)]
        while len(own) < min(per_search, count - done):
            which, fresh = rng.randrange(2), (done + len(own)) % 10 == 9
            if len(own) % per_search == 1:  # one of them at a change of the journal, or of its lock
                _end(workers[which])
                workers[which] = searches.worker(folder, operation=rng.randint(1, 40))
                killed = workers[which].wait() == -signal.SIGKILL
            else:
                if fresh:
                    _end(workers[which])
                    workers[which] = searches.worker(folder, fresh=True)
                    time.sleep(4)
                time.sleep(rng.uniform(0, 0.4))
                workers[which].send(signal.SIGKILL)
                killed = workers[which].wait() == -signal.SIGKILL
            if killed:
                own.append((len(begun(folder)) / CELLS, fresh))
                workers[which] = searches.worker(folder)
            elif all(not worker.running() for worker in workers):
                break  # the search was over
        note = finish(searches, folder, workers)
        lost = len(begun(folder)) - CELLS
        done += len(own)
        for i, (at, fresh) in enumerate(own):
            share = lost // len(own) + (i < lost % len(own))  # attempts are begun again by the search, not by the kill
            yield Trial("kill -9 of a search worker", not note, "attempt", min(at, 1.0), share, None, fresh, note)
        if not note:
            shutil.rmtree(folder)


def _end(process: Process) -> None:
    process.send(signal.SIGTERM)
    process.wait()


def finish(searches: Searches, folder: Path, workers: list[Process]) -> str:
    """Let the workers finish, and one more look for what is left; what is wrong with the cells then."""
    for process in workers:
        process.wait()
    last = searches.worker(folder)
    if last.wait():
        return f"the last worker ended with {last.status}: {last.said()}"
    return check(f"journal:{folder}/journal.log")


def check(storage: str) -> str:
    """By Optuna's own account: each cell complete once, with its own value."""
    with closing(load_book(absolute(storage), NAME)) as book:
        trials = book.study.get_trials()
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    counts = Counter(t.user_attrs["cell"] for t in complete)
    if counts != dict.fromkeys(range(CELLS), 1):
        return f"complete: {dict(sorted(counts.items()))}"
    left = Counter(t.state.name for t in trials if t.state.name not in ("COMPLETE", "FAIL"))
    if left:
        return f"left: {dict(left)}"
    wrong = [t.number for t in complete if t.value != value_of(t.params)]
    return f"wrong values in {wrong}" if wrong else ""


def begun(folder: Path) -> list[str]:
    """A line for each attempt that was begun."""
    path = folder / "begun.log"
    return path.read_text().splitlines() if path.exists() else []


def stalled(searches: Searches, count: int) -> Iterator[Trial]:
    """A worker stands still for longer than a living one does, and wakes up when its cell is another's."""
    for _ in range(count):
        folder = searches.folder()
        slow = searches.worker(folder, stale=1.0, slow=0.3)
        end = time.monotonic() + 60
        while not begun(folder) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(searches.rng.uniform(0, 0.3))
        slow.send(signal.SIGSTOP)
        other = searches.worker(folder, stale=1.0, slow=0.3)
        end = time.monotonic() + 60
        while len(set(_cells(folder))) < CELLS and other.running() and time.monotonic() < end:
            time.sleep(0.02)
        other.wait()
        os.kill(slow.pid, signal.SIGCONT)
        status = slow.wait()
        note = finish(searches, folder, [])
        if not note and status not in (0, 1):
            note = f"the slow worker ended with {status}: {slow.said()}"
        lost = len(begun(folder)) - CELLS
        yield Trial("search worker stalled", not note, "attempt", None, lost, note=note)


def _cells(folder: Path) -> list[str]:
    return [line.split()[0] for line in begun(folder)]
