"""Ranks of a solve that die, stand still, are slow, or get a signal; a launcher starts all of them again."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from _faults_jobs import SOLVE_STEPS, STOPPED, warm_up
from _faults_probe import Probe
from _faults_process import SCRIPT, Process
from _faults_runs import Trial, different, left

RANKS = 2


class Ranks:
    """Solves over two ranks, compared with an uninterrupted one.

    Args:
        place: an empty folder.
        rng: where and when the faults fall.
    """

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place, self.rng = place, rng
        self._count = itertools.count()
        place.mkdir(parents=True)
        warm_up("solve")
        folder = self.folder()
        processes = self.start(folder)
        if any(p.wait() for p in processes):
            raise RuntimeError(f"The uninterrupted run failed: {processes[0].said()}")
        self.expected = left(folder)
        probe = processes[0].probe
        self.step = (probe["last_at"] - probe["first_at"]) / (SOLVE_STEPS - 1)

    def folder(self) -> Path:
        path = self.place / f"{next(self._count):03d}"
        path.mkdir()
        return path

    def start(self, folder: Path, **more: Any) -> list[Process]:
        store = folder.parent / f"{folder.name}.{time.monotonic_ns()}.store"
        job = {"kind": "rank", "folder": str(folder), "each_step": True, "store": str(store), "ranks": RANKS, **more}
        processes = folder.parent / f"{folder.name}.processes"
        return [Process({**job, "rank": rank}, processes) for rank in range(RANKS)]

    def ended(self, fault: str, processes: list[Process], folder: Path, statuses: list[int], note: str = "") -> Trial:
        """Start all ranks again after a fault, and compare."""
        probe = processes[0].probe
        steps, seconds = probe.lost(processes[0].ended_at)
        again = self.start(folder)
        after = [p.wait() for p in again]
        if any(after):
            note = f"statuses {statuses}, then {after}: {again[0].said()}"
        note = note or different(left(folder), self.expected)
        return Trial(fault, not note, probe.phase, min(probe["steps"] / SOLVE_STEPS, 1.0), steps, seconds, note=note)


def deaths(ranks: Ranks, count: int) -> Iterator[Trial]:
    """kill -9 of one of two ranks: the other must end by itself, and both go on when they are started again."""
    done = 0
    while done < count:
        folder = ranks.folder()
        processes = ranks.start(folder)
        victim = processes[ranks.rng.randrange(RANKS)]
        victim.reach(ranks.rng.randint(1, SOLVE_STEPS - 2))
        time.sleep(ranks.rng.random() * ranks.step)
        victim.send(signal.SIGKILL)
        if victim.wait() != -signal.SIGKILL:
            continue
        done += 1
        statuses = [p.wait(20) for p in processes]
        hung = sum(s == -signal.SIGKILL for s in statuses) > 1
        yield ranks.ended("kill -9 of a rank", processes, folder, statuses, "the other hung" if hung else "")


def one_signal(ranks: Ranks, count: int) -> Iterator[Trial]:
    """SIGTERM to one of two ranks: both stop at the same place, with status 75."""
    done = 0
    while done < count:
        folder = ranks.folder()
        processes = ranks.start(folder)
        asked = processes[ranks.rng.randrange(RANKS)]
        asked.reach(ranks.rng.randint(1, SOLVE_STEPS - 4))
        time.sleep(ranks.rng.random() * ranks.step)
        asked.send(signal.SIGTERM)
        statuses = [p.wait(20) for p in processes]
        if statuses == [0] * RANKS:
            continue
        done += 1
        note = "" if statuses == [STOPPED] * RANKS else f"statuses {statuses}: {processes[0].said()}"
        yield replace(ranks.ended("SIGTERM to one rank", processes, folder, statuses, note), seconds=None)


def slow(ranks: Ranks, count: int) -> Iterator[Trial]:
    """A rank that is ten times as slow, or stands still for two seconds: nothing changes but the time."""
    for number in range(count):
        folder = ranks.folder()
        which = ranks.rng.randrange(RANKS)
        processes = ranks.start(folder, **({"slow_rank": which} if number % 2 == 0 else {}))
        if number % 2:
            processes[which].reach(ranks.rng.randint(1, SOLVE_STEPS - 4))
            processes[which].send(signal.SIGSTOP)
            time.sleep(2)
            processes[which].send(signal.SIGCONT)
        statuses = [p.wait() for p in processes]
        note = f"statuses {statuses}: {processes[0].said()}" if any(statuses) else ""
        note = note or different(left(folder), ranks.expected)
        yield Trial("slow rank", not note, steps=0, note=note)


def torchrun(ranks: Ranks, count: int) -> Iterator[Trial]:
    """kill -9 of a rank under torchrun, which starts both again by itself."""
    for _ in range(count):
        folder = ranks.folder()
        probe = Probe(folder.parent / f"{folder.name}.probe")
        job = {"kind": "rank", "folder": str(folder), "each_step": True, "probe": str(probe.path)}
        script = "torch.distributed.run"
        command = [sys.executable, "-m", script, "--standalone", "--nproc-per-node", str(RANKS), "--max-restarts", "2"]
        # Without the last one, ranks that are started again may read the addresses of the dead ones (pytorch #135712).
        environment = {
            **os.environ,
            "PYTHONPATH": str(SCRIPT.parents[1]),
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        log = folder.parent / f"{folder.name}.log"
        with open(log, "wb") as file:
            running = subprocess.Popen(
                [*command, str(SCRIPT), json.dumps(job)], env=environment, stdout=file, stderr=file
            )
        goal, end = ranks.rng.randint(2, SOLVE_STEPS - 4), time.monotonic() + 120
        # Both ranks keep the same probe here, whose steps therefore run twice as fast.
        while probe["steps"] < 2 * goal and running.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        victims = children(running.pid)
        if victims:
            os.kill(ranks.rng.choice(victims), signal.SIGKILL)
        try:
            status = running.wait(timeout=180)
        except subprocess.TimeoutExpired:
            running.kill()
            status = running.wait()
        note = f"status {status}: {log.read_text()[-600:]}" if status else different(left(folder), ranks.expected)
        note = note or ("" if victims else "nobody was killed")
        yield Trial("kill -9 of a rank under torchrun", not note, "", goal / SOLVE_STEPS, None, None, True, note)


def children(pid: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
