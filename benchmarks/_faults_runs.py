"""Faults of a training and of a solve: kill -9 anywhere, signals, a full disk; each goes on then, and is compared."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _faults_jobs import SOLVE_STEPS, STOPPED, TRAIN_STEPS, warm_up
from _faults_process import Process

TOTAL = {"train": TRAIN_STEPS, "solve": SOLVE_STEPS}
#: What a clock said, and where.
_CLOCKS = {"seconds", "cpu_seconds", "search_seconds", "wall_seconds"}


@dataclass(frozen=True)
class Trial:
    """One fault, and what came of it.

    Attributes:
        fault: its name in the table.
        survived: whether the end was that of the uninterrupted run, bit for bit, or what else was to be.
        phase: what the process was at.
        at: share of the run's inner steps that was done.
        steps, seconds: inner steps and time of work that were done again; None where nothing was.
        fresh: with real interpreters rather than forks.
        note: what happened, where it is not what was to be, or of several good ends which.
    """

    fault: str
    survived: bool
    phase: str = ""
    at: float | None = None
    steps: int | None = None
    seconds: float | None = None
    fresh: bool = False
    note: str = ""


class Runs:
    """Runs of one kind, compared with an uninterrupted one.

    Args:
        kind: "train" or "solve".
        place: an empty folder.
        rng: where and when the faults fall.
    """

    def __init__(self, kind: str, place: Path, rng: random.Random) -> None:
        self.kind, self.place, self.rng, self.total = kind, place, rng, TOTAL[kind]
        self._count = itertools.count()
        place.mkdir(parents=True, exist_ok=True)
        warm_up(kind)
        whole = place / "whole"
        process = self.start(whole)
        if process.wait():
            raise RuntimeError(f"The uninterrupted run failed: {process.said()}")
        self.expected = left(whole)
        probe = process.probe
        #: Seconds to the first step, of a step, and from the last one to the end.
        self.startup = probe["first_at"] - process.begun_at
        self.step = (probe["last_at"] - probe["first_at"]) / (self.total - 1)
        self.finishing = process.ended_at - probe["last_at"]

    def folder(self) -> Path:
        return self.place / f"{next(self._count):04d}"

    def start(self, folder: Path, *, fresh: bool = False, **more: Any) -> Process:
        job = {"kind": self.kind, "folder": str(folder), "each_step": True, **more}
        if self.kind == "solve":
            folder.mkdir(exist_ok=True)
        return Process(job, folder.parent / f"{folder.name}.processes", fresh=fresh)

    def instant(self, process: Process) -> bool:
        """Wait for an instant drawn at random from the run, uniform in its steps; False where it ended before."""
        place = self.rng.uniform(0, self.total + 1)
        whole, part = int(place), place - int(place)
        if whole == 0:
            time.sleep(part * (3.0 if process.fresh else self.startup))
        else:
            process.reach(whole)
            time.sleep(part * (self.step if whole < self.total else self.finishing))
        return process.running()

    def ended(self, fault: str, process: Process, folder: Path, **resumed: Any) -> Trial:
        """Go on after a fault that ended the process, and compare."""
        steps, seconds = process.probe.lost(process.ended_at)
        at, phase = process.probe["steps"] / self.total, process.probe.phase
        last = self.start(folder, fresh=process.fresh, **resumed)
        status = last.wait()
        note = f"status {status}: {last.said()}" if status else different(left(folder), self.expected)
        self.clear(folder, keep=bool(note))
        return Trial(fault, not note, phase, at, steps, seconds, process.fresh, note)

    def clear(self, folder: Path, *, keep: bool) -> None:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def kills(runs: Runs, count: int, *, forget: bool = False, fresh_every: int = 10) -> Iterator[Trial]:
    """kill -9 at random instants, half of them with a checkpoint after each step."""
    fault = "kill -9" if not forget else "control: momentum lost"
    done = 0
    while done < count:
        each, fresh = forget or done % 2 == 0, done % fresh_every == fresh_every - 1
        folder = runs.folder()
        process = runs.start(folder, fresh=fresh, each_step=each)
        if runs.instant(process) and not (forget and process.probe["steps"] < 2):
            process.send(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            continue  # it was over by then
        done += 1
        yield runs.ended(fault, process, folder, each_step=each, forget=forget)


def operations(runs: Runs, count: int) -> Iterator[Trial]:
    """kill -9 before a file is opened for writing, a folder is made, or one of them renamed or removed."""
    folder = runs.folder()
    counted = runs.start(folder, operation=0)
    counted.wait()
    total = int(counted.probe["operations"])
    # One whole save in the middle, the beginning and the end, and others at random.
    save = total // runs.total
    chosen = dict.fromkeys([*range(total // 2, total // 2 + save), *range(1, 6), *range(total, total - save, -1)])
    numbers = list(chosen) if count >= len(chosen) else runs.rng.sample(list(chosen), count)
    numbers += runs.rng.sample([n for n in range(1, total + 1) if n not in chosen], count - len(numbers))
    for number in numbers:
        folder = runs.folder()
        process = runs.start(folder, operation=number)
        if process.wait() == -signal.SIGKILL:
            yield runs.ended("kill -9 before a change of a file", process, folder)
        else:
            yield Trial("kill -9 before a change of a file", False, note=f"operation {number} did not come")


def again_and_again(runs: Runs, count: int) -> Iterator[Trial]:
    """One run that is killed every few steps until it is done."""
    for _ in range(count):
        folder, steps, seconds, killed = runs.folder(), 0, 0.0, 0
        while True:
            process = runs.start(folder)
            process.until(lambda probe: probe["first_at"] > 0)
            process.reach(int(process.probe["steps"]) + runs.rng.randint(1, 5))
            time.sleep(runs.rng.random() * runs.step)
            process.send(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            killed += 1
            lost = process.probe.lost(process.ended_at)
            steps, seconds = steps + lost[0], seconds + lost[1]
        note = "" if process.status == 0 else f"status {process.status}: {process.said()}"
        note = note or different(left(folder), runs.expected)
        runs.clear(folder, keep=bool(note))
        yield Trial("kill -9 until it is done", not note, "", None, steps, seconds, note=note or f"{killed} kills")


def signals(runs: Runs, count: int) -> Iterator[Trial]:
    """SIGTERM, or SIGINT, at a random instant: status 75 with a checkpoint, and nothing done twice."""
    done = 0
    while done < count:
        fresh, folder = done % 10 == 9, runs.folder()
        process = runs.start(folder, fresh=fresh, each_step=False)
        number = signal.SIGTERM if done % 2 == 0 else signal.SIGINT
        process.until(lambda probe: probe["first_at"] > 0)
        if not runs.instant(process):
            process.wait()
            continue
        process.send(number)
        status = process.wait()
        if status == 0:
            continue  # it came after the last place where the run could stop
        done += 1
        trial = runs.ended(number.name, process, folder, each_step=False)
        if status != STOPPED or trial.steps:
            said = f"status {status}, {trial.steps} steps lost; {trial.note}; {process.said()}"
            trial = replace(trial, survived=False, note=said)
        yield replace(trial, seconds=None)


def second_signal(runs: Runs, count: int) -> Iterator[Trial]:
    """A second signal ends a process that a slow disk keeps from ending, at once; the checkpoint before is used."""
    for _ in range(count):
        folder = runs.folder()
        process = runs.start(folder, each_step=False, slow_save=20.0)
        process.reach(runs.rng.randint(1, runs.total // 2))
        process.send(signal.SIGTERM)
        time.sleep(1.2)
        asked = time.monotonic()
        process.send(signal.SIGTERM)
        status = process.wait()
        took = process.ended_at - asked
        trial = runs.ended("second signal", process, folder)
        if status != 128 + signal.SIGTERM or took > 2:
            trial = replace(trial, survived=False, note=f"status {status} after {took:.1f} s; {trial.note}")
        yield trial


def full_disk(runs: Runs, count: int) -> Iterator[Trial]:
    """No room for a few steps: a file system that is filled and emptied where one can be mounted, else as if."""
    for _ in range(count):
        first = runs.rng.randint(2, runs.total - 6)
        last = first + runs.rng.randint(2, 5)
        with small_disk(runs.folder()) as disk:
            # The process looks for its folder where a path is, so a whole disk is one run's.
            folder = runs.folder() if disk is None else disk / "run"
            fault = "full disk, as if" if disk is None else "full disk"
            if disk is None:
                process = runs.start(folder, full=[first, last])
            else:
                process = _started_on(disk, runs, folder)
                process.reach(first)
                fill(disk / "ballast")
                process.reach(last)
                (disk / "ballast").unlink()
            if process.wait() == 0:
                note, said = different(left(folder), runs.expected), process.log.read_text(errors="replace")
                lost = re.findall(r"policies/\d+\.json", note)
                # The one file that docs/failures.md gives up; a warning must name it.
                fine = note in ("", f"differs: {', '.join(lost)}") and all(
                    f"The policy of epoch {int(Path(name).stem)} could not be written" in said
                    and not (folder / name).exists()
                    for name in lost
                )
                note = f"it went on{' without ' if lost else ''}{', '.join(lost)}" if fine else note
                yield Trial(fault, fine, "", first / runs.total, 0, None, note=note)
                continue
            trial = runs.ended(fault, process, folder)
            yield replace(trial, note=trial.note or f"it stopped, and could go on: {process.said()}")


def _started_on(disk: Path, runs: Runs, folder: Path) -> Process:
    """With the log and the probe elsewhere: those must not fail."""
    folder.parent.mkdir(exist_ok=True)
    elsewhere = runs.place / f"disk-{disk.name}.processes"
    if runs.kind == "solve":
        folder.mkdir(exist_ok=True)
    return Process({"kind": runs.kind, "folder": str(folder), "each_step": True}, elsewhere)


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A file system of 4 MiB; None where this process may mount none."""
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=4m tmpfs '{place}' 2>/dev/null"):
        yield None
        return
    try:
        yield place
    finally:
        os.system(f"umount -l '{place}'")


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    os.write(handle, b"x" * size)
            except OSError:
                continue
    finally:
        os.close(handle)


def left(folder: Path) -> dict[str, Any]:
    """Everything that a run has left, without times and places."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_dir() or name == "environment.json" or name.startswith("checkpoints"):
            continue
        if name == "metrics.jsonl":
            found[name] = [_timeless(json.loads(line)) for line in file.read_text().splitlines()]
        elif name == "result.json":
            found[name] = _timeless(json.loads(file.read_text()))
        else:
            found[name] = file.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _CLOCKS}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def different(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The names of the files that differ; empty where none does."""
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return f"differs: {', '.join(names)}" if names else ""


#: Name on the command line to the trials.
FAULTS: dict[str, Callable[[Runs, int], Iterator[Trial]]] = {
    "kills": kills,
    "operations": operations,
    "again": again_and_again,
    "signals": signals,
    "second": second_signal,
    "full": full_disk,
}
