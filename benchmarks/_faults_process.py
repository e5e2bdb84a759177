"""Processes that are cheap to start and easy to kill: forks of this one, which has imported everything already."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from _faults_jobs import run_job
from _faults_probe import Probe

SCRIPT = Path(__file__).with_name("_faults_jobs.py")
#: Seconds after which a process counts as hanging.
PATIENCE = 120.0


class Process:
    """A job in a process.

    Args:
        job: see ``_faults_jobs.py``; the name of its probe is added.
        folder: for the probe and what the process prints.
        fresh: a new interpreter instead of a fork of this one.

    Attributes:
        probe: of the process.
        status: exit status, negative for a signal; None while it runs.
        ended_at: when it was found to have ended.
    """

    def __init__(self, job: dict[str, Any], folder: Path, *, fresh: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.probe")))
        self.log, self.probe = folder / f"{number}.log", Probe(folder / f"{number}.probe")
        self.fresh, self.status, self.ended_at = fresh, None, 0.0
        self.status: int | None
        job = {**job, "probe": str(self.probe.path)}
        self.begun_at = time.monotonic()
        self.pid = fork(job, self.log, fresh=fresh)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status, self.ended_at = os.waitstatus_to_exitcode(status), time.monotonic()
        return self.status is None

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit status. A process that hangs is killed, and the status is -9."""
        end = time.monotonic() + patience
        while self.running():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                end = float("inf")
            time.sleep(0.002)
        assert self.status is not None
        return self.status

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.running():
            os.kill(self.pid, number)

    def until(self, reached: Callable[[Probe], bool], patience: float = PATIENCE) -> bool:
        """Wait for something in the probe; False where the process ended before."""
        end = time.monotonic() + patience
        while not reached(self.probe):
            if not self.running() or time.monotonic() > end:
                return False
            time.sleep(0.0005)
        return True

    def reach(self, step: int) -> bool:
        """Wait until so many inner steps are done; False where the process ended before."""
        return self.until(lambda probe: probe["steps"] >= step)

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-600:]


def fork(job: dict[str, Any], log: Path, *, fresh: bool) -> int:
    """Start a job; the number of the process.

    Raises:
        RuntimeError: this process has several threads, of which a fork would have one.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"This process has {threads} threads; it can only be forked with one.")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(job, log, fresh)
    return pid


def _child(job: dict[str, Any], log: Path, fresh: bool) -> NoReturn:
    status = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if fresh:
            root = str(SCRIPT.parents[1])
            environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
            os.execve(sys.executable, [sys.executable, str(SCRIPT), json.dumps(job)], environment)
        status = run_job(job)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # nothing of the parent's is to be ended, flushed or removed here
