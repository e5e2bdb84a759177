"""How far a process is, in a file that outlives it, and the faults that it does to itself.

The probe is a small file mapped into memory: what was written there is there after ``kill -9``.
"""

import errno
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypergrad.checkpoint.folder import Checkpoints
from hypergrad.interruption import received
from hypergrad.stepper import HyperStepper
from hypergrad.vision import recording
from hypergrad.vision.inner_loop import InnerLoop

#: What a process is at.
PHASES = ("start", "inner step", "solve", "between", "evaluation", "save", "end")
#: Fields of the probe, each a double; times are those of :func:`time.monotonic`, which all processes share.
FIELDS = ("phase", "steps", "saved", "saved_at", "started_at", "first_at", "last_at", "operations")
_PLACES = {name: 8 * i for i, name in enumerate(FIELDS)}
#: Audit events of Python that change files; ``os.rename`` is also that of ``os.replace``.
_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Probe:
    """The fields of :data:`FIELDS`, shared by the process and whoever watches it.

    Attributes:
        path: of the file; made if it is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            self.path.write_bytes(bytes(8 * len(FIELDS)))
        with open(self.path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * len(FIELDS))

    def __getitem__(self, name: str) -> float:
        return float(struct.unpack_from("=d", self._map, _PLACES[name])[0])

    def __setitem__(self, name: str, value: float) -> None:
        struct.pack_into("=d", self._map, _PLACES[name], value)

    @property
    def phase(self) -> str:
        """What the process is at, or was at when it ended."""
        return PHASES[int(self["phase"])]

    def lost(self, at: float) -> tuple[int, float]:
        """Inner steps and seconds of work that a kill at this time undoes."""
        return max(int(self["steps"] - self["saved"]), 0), at - max(self["saved_at"], self["started_at"])


def install(probe: Probe, job: dict[str, Any]) -> None:
    """Let this process, which is one of its own, keep the probe and meet the job's faults."""
    for name in FIELDS:
        probe[name] = 0
    probe["started_at"] = time.monotonic()
    _wrap(InnerLoop, "_inner_step", probe, "inner step", done=_step if job["kind"] == "train" else None)
    if job["kind"] != "train":
        _wrap(HyperStepper, "loss", probe, "inner step", stays=True)
        _wrap(HyperStepper, "step", probe, "inner step", done=_step, stays=True)
    _wrap(HyperStepper, "_estimate", probe, "solve")
    _wrap(InnerLoop, "_evaluate", probe, "evaluation")
    _wrap(Checkpoints, "load", probe, "start", done=_loaded)
    _wrap(Checkpoints, "save", probe, "save", done=_saved, slow=job.get("slow_save", 0.0))
    _wrap(recording, "_finish", probe, "end", stays=True)
    if "slow_rank" in job and job["rank"] == job["slow_rank"]:
        _wrap(HyperStepper, "loss", probe, "inner step", slow=0.05, stays=True)
    if "operation" in job:
        _kill_before(probe, job["operation"], job["folder"])
    if "full" in job:
        _fill(probe, *job["full"])


def _wrap(
    owner: Any,
    name: str,
    probe: Probe,
    phase: str,
    *,
    done: Callable[[Probe, tuple[Any, ...], Any], None] | None = None,
    stays: bool = False,
    slow: float = 0.0,
) -> None:
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = probe["phase"]
        probe["phase"] = PHASES.index(phase)
        if slow and (phase != "save" or received() is not None):  # a disk that is slow when it matters
            time.sleep(slow)
        result = function(*args, **kwargs)
        if done is not None:
            done(probe, args, result)
        if not stays:
            # Between steps there is nothing to come back to.
            probe["phase"] = before or PHASES.index("start" if phase == "start" else "between")
        return result

    setattr(owner, name, wrapped)


def _step(probe: Probe, args: tuple[Any, ...], result: Any) -> None:
    now = time.monotonic()
    probe["first_at"] = probe["first_at"] or now
    probe["last_at"] = now
    probe["steps"] += 1


def _loaded(probe: Probe, args: tuple[Any, ...], result: Any) -> None:
    if result is not None:
        probe["steps"] = probe["saved"] = _taken(result.state)


def _saved(probe: Probe, args: tuple[Any, ...], result: Any) -> None:
    probe["saved"], probe["saved_at"] = _taken(args[1]), time.monotonic()


def _taken(state: Mapping[str, Any]) -> int:
    """Inner steps in a checkpoint, with one whose outer step was broken off."""
    if "step" in state:
        return int(state["step"]) + (state["pending"] is not None)
    return int(state["parts"]["stepper"]["inner_step"])


def _kill_before(probe: Probe, number: int, folder: str) -> None:
    """End the process by kill -9 before its n-th change of a file in the folder; 0: count them only."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _CHANGES:
            return
        if event == "open" and not _writes(args):
            return
        # Within shutil.rmtree names are relative to a handle.
        inside = str(args[0]).startswith(folder) or (event in ("os.remove", "os.rmdir") and args[-1] != -1)
        if inside:
            probe["operations"] += 1
            if probe["operations"] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return any(c in mode for c in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def _fill(probe: Probe, first: int, last: int) -> None:
    """Between two inner steps no file can be brought to the disk."""
    fsync, mkdir = os.fsync, os.mkdir

    def full(function: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if first <= probe["steps"] < last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return refuse

    os.fsync, os.mkdir = full(fsync), full(mkdir)
