"""The checkpoints of a run: when they are made, what a failure to make one does, and which are gone on from.

They lie in ``checkpoints/`` of the run's folder until the run is finished. A checkpoint costs time, so one is made

- within an epoch, when the last is ``minutes`` old;
- at the end of an epoch, when the last is so old that saving takes at most :data:`SHARE` of the time;
- after a signal, and after a search for a policy that precedes the training.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hypergrad.augment import FixedPolicy
from hypergrad.checkpoint import Checkpoint, Checkpoints
from hypergrad.distributed import is_writer, world_size
from hypergrad.errors import CheckpointError, HypergradError, HypergradWarning, InvalidInputError
from hypergrad.messages import warn
from hypergrad.records import record_of_row
from hypergrad.result import StepRecord
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.ohl import OnlineRecord
from hypergrad.vision.policy_search import Found

#: What is done with what a folder holds: refuse it, go on with it if it is of the same run, or go on all the same.
Resume = Literal["never", "auto", "force"]

#: The checkpoints' folder in a run's.
FOLDER = "checkpoints"
#: Of the time, at most, for saving.
SHARE = 0.02
#: Seconds that a save is taken to need before there was one.
GUESS = 0.1

#: What a checkpoint is of, and the version of its content.
KIND, VERSION = "hypergrad train", 1


class OtherRunError(InvalidInputError):
    """What a folder holds cannot be gone on with by this run."""


def check_resume(resume: str, minutes: float) -> None:
    """Refuse values that are none.

    Raises:
        InvalidInputError: names the value.
    """
    if resume not in get_args(Resume):
        raise InvalidInputError(f"resume must be one of {', '.join(get_args(Resume))}; got {resume!r}.")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 <= minutes < math.inf:
        raise InvalidInputError(
            f"checkpoint_minutes must be a number of minutes, 0 for a checkpoint after each step; got {minutes!r}."
        )


def has_checkpoint(run: str | Path) -> bool:
    """Whether there is a checkpoint, valid or not, in a run's folder."""
    folder = Path(run) / FOLDER
    return folder.is_dir() and any(p.name.isdecimal() for p in folder.iterdir())


class Saver:
    """Makes the checkpoints of one run. With several ranks all read them, and the first one writes.

    Args:
        run: folder of the run.
        minutes: age at which a checkpoint is replaced within an epoch; 0 makes one after each step.
        resume: see :data:`Resume`.

    Attributes:
        loaded: the checkpoint that :meth:`load` found.
    """

    def __init__(self, run: Path, *, minutes: float = 5.0, resume: Resume = "never") -> None:
        check_resume(resume, minutes)
        self.folder = run / FOLDER
        self.loaded: Checkpoint | None = None
        self._minutes, self._resume = minutes, resume
        self._cost, self._last = GUESS, time.monotonic()
        self._started, self._earlier = time.perf_counter(), 0.0
        self._checkpoints: Checkpoints | None = None

    def load(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state to go on from; None where the run begins.

        Raises:
            OtherRunError: the checkpoint is of another run, or none is valid; the message says what differs.
        """
        self._checkpoints = Checkpoints(self.folder, kind=KIND, version=VERSION, identity=identity)
        self._last = time.monotonic()
        if self._resume == "never":
            return None
        try:
            self.loaded = self._checkpoints.load(force=self._resume == "force")
        except (InvalidInputError, CheckpointError) as error:
            raise OtherRunError(str(error)) from error
        if self.loaded is None:
            return None
        self._earlier = self.loaded.state["wall"]
        for text in self.loaded.skipped if is_writer() else ():
            warn(f"A damaged checkpoint was passed over: {text}", HypergradWarning)
        before = self.loaded.state.get("ranks", 1)
        if before != world_size() and is_writer():
            warn(
                f"The checkpoint was made by {before} rank{'s' if before > 1 else ''}, and there "
                f"{f'are {world_size()}' if world_size() > 1 else 'is 1'} now. The run goes on with the same batches, "
                "cut differently: equal to rounding, except for dropout and batch normalisation.",
                HypergradWarning,
            )
        return self.loaded.state

    def due(self, *, end_of_epoch: bool = False) -> bool:
        """Whether a checkpoint should be made now."""
        if self._minutes == 0:
            return True
        least = self._cost / SHARE
        return time.monotonic() - self._last >= (least if end_of_epoch else max(least, 60 * self._minutes))

    def save(self, state: Mapping[str, Any], *, step: int) -> bool:
        """Make a checkpoint; whether it could be made. A failure is a warning: the next one is tried again."""
        assert self._checkpoints is not None, "load() comes first"
        assert is_writer()
        start = time.monotonic()
        try:
            wall = self._earlier + time.perf_counter() - self._started
            self._checkpoints.save({**state, "wall": wall}, step=step)
        except (OSError, HypergradError) as error:
            reason = getattr(error, "strerror", None) or error
            warn(
                f"No checkpoint could be made at step {step} ({reason}). The training goes on, and the next one is "
                f"tried again; make {self.folder} writable, and room for it.",
                HypergradWarning,
            )
            return False
        finally:
            self._last = time.monotonic()
        self._cost = self._last - start
        return True

    def remove(self) -> None:
        """The run is finished, and needs none of them any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def found_state(found: Found, seconds: float) -> dict[str, Any]:
    """What a search left, as a checkpoint holds it: the policy as its file, and its numbers bit for bit.

    Args:
        found: by the search.
        seconds: that it took.
    """
    with tempfile.TemporaryDirectory(prefix="hypergrad-policy-") as folder:
        found.policy.save(Path(folder) / "policy.json")
        text = (Path(folder) / "policy.json").read_text(encoding="utf-8")
    numbers = {name: found.policy.get_buffer(name) for name in ("pi", "p", "mu")}
    return {"policy": text, **numbers, "passes": found.passes, "notes": found.notes, "seconds": seconds}


def found_again(state: Mapping[str, Any]) -> Found:
    """What :func:`found_state` was given; the policy is on the CPU."""
    with tempfile.TemporaryDirectory(prefix="hypergrad-policy-") as folder:
        (Path(folder) / "policy.json").write_text(state["policy"], encoding="utf-8")
        operations = FixedPolicy.load(Path(folder) / "policy.json").mixture.operations
    policy = FixedPolicy(operations, pi=state["pi"], p=state["p"], mu=state["mu"])
    return Found(policy, state["passes"], state["notes"])


def found_text(found: Found) -> str:
    """The same as text, for other ranks; a float32 number is exact in it."""
    state = found_state(found, 0.0)
    return json.dumps({k: v.tolist() if isinstance(v, Tensor) else v for k, v in state.items()})


def found_of_text(text: str) -> Found:
    """What :func:`found_text` was given; the policy is on the CPU."""
    state = json.loads(text)
    return found_again({k: torch.tensor(v) if k in ("pi", "p", "mu") else v for k, v in state.items()})


def record_state(record: StepRecord | OnlineRecord) -> dict[str, Any]:
    """An update's record, as a checkpoint holds it."""
    if isinstance(record, OnlineRecord):
        return {"kind": "online", "row": asdict(record)}
    return {"kind": "update", "row": record.row()}


def record_of(state: Mapping[str, Any]) -> StepRecord | OnlineRecord:
    """What :func:`record_state` was given."""
    row = state["row"]
    if state["kind"] == "online":
        return OnlineRecord(**row)
    return record_of_row(row)


def check_fit(state: Mapping[str, Any], shapes: Mapping[str, Any], per_epoch: int, config: TrainConfig) -> None:
    """Refuse a state that was forced upon a run that it cannot be of.

    Args:
        state: of a checkpoint.
        shapes: of the network's parameters and buffers.
        per_epoch: inner steps in an epoch.
        config: of the run.

    Raises:
        OtherRunError: says what does not fit.
    """
    if state["method"] != config.method.name:
        raise OtherRunError(
            f"The checkpoint cannot be forced: it is of the method {state['method']}, and not of {config.method.name}."
        )
    held = {name: t.shape for name, t in state["network"].items()}
    if held != dict(shapes):
        name = next(n for n in {**held, **shapes} if held.get(n) != shapes.get(n))
        raise OtherRunError(
            f"The checkpoint cannot be forced: its {name} has the shape {_shown(held.get(name))}, the network's has "
            f"{_shown(shapes.get(name))}. Give the model and the data of the run."
        )
    if state["per_epoch"] != per_epoch:
        raise OtherRunError(
            f"The checkpoint cannot be forced: an epoch had {state['per_epoch']} inner steps and has {per_epoch} now. "
            "Give the batch_size and the number of training images of the run."
        )
    if len(state["history"]) > config.epochs:
        raise OtherRunError(
            f"The checkpoint cannot be forced: it has {len(state['history'])} epochs, and epochs is {config.epochs}."
        )


def _shown(shape: Any) -> str:
    return "none" if shape is None else str(tuple(shape))
