"""Trainings that can be run for a short stretch at a time, and the time of each stretch with its parts."""

import gc
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from _cost_outer import OUTER_PARTS, outer_parts
from hvp import summary

from hypergrad import keys
from hypergrad.augment import Policy
from hypergrad.memory import peak_memory
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.splits import Splits
from hypergrad.vision.training import _Trainer

LOADING = "batch and standard augmentation"
POLICY = "policy"
OUTER = "outer step"
#: What is left of a stretch.
REST = "forward, backward, SGD"
PARTS = (LOADING, POLICY, REST, OUTER)
CLASSES = 10

#: A moment: seconds of a clock, or an event of CUDA's stream.
Moment = Any


class Timer:
    """Moments and the seconds between them.

    Args:
        device: on CUDA moments are events in the stream, so that the host need not wait at each.
        clock: seconds, elsewhere.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._cuda = device.type == "cuda"
        self._clock = clock

    def now(self) -> Moment:
        if not self._cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Until everything that was asked of the device is done."""
        if self._cuda:
            torch.cuda.synchronize()

    def between(self, start: Moment, end: Moment) -> float:
        """Seconds; on CUDA after :meth:`wait`."""
        return start.elapsed_time(end) / 1e3 if self._cuda else end - start


@dataclass
class Training:
    """One row's training, as ``hypergrad.vision.training`` runs it, evaluation and learning-rate schedule left out.

    Attributes:
        label: of the row.
        trainer: of the package.
        timer: of its device.
        every: inner steps of a stretch; where a policy is learned, an outer step falls on the last.
        seconds: of each timed stretch.
        parts: by part, the seconds of each timed stretch.
        outer_parts: by part, the seconds of the outer step of each timed stretch; empty where none is taken.
        statuses: how the solves ended.
        peak_bytes: of the costliest inner step, with the outer step after it where one is due.
    """

    label: str
    trainer: _Trainer
    timer: Timer
    every: int
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    outer_parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OUTER_PARTS})
    statuses: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0

    @classmethod
    def start(
        cls, label: str, config: TrainConfig, splits: Splits, clock: Callable[[], float], every: int
    ) -> "Training":
        """The training before its first step.

        Args:
            label: of the row.
            config: a method that learns must update every ``every`` steps, without a warm-up.
            splits: which all rows share.
            clock: seconds.
            every: inner steps of a stretch.

        Raises:
            HypergradError: the configuration does not fit the data, or the network or device is none.
        """
        trainer = _Trainer(config, splits, None)
        trainer.network.train()
        return cls(label, trainer, Timer(trainer.device, clock), every)

    def __post_init__(self) -> None:
        config = self.trainer.config
        self._optimizer = torch.optim.SGD(
            self.trainer.network.parameters(), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
        )
        self._step = 0
        self._marks: list[tuple[str, Moment, Moment]] = []
        self._within: list[tuple[str, Moment, Moment]] = []
        # What is timed is what every training runs, so the trainer's own functions get a clock around them.
        self.trainer._prepared = self._timed(LOADING, self.trainer._prepared)
        self.trainer._augmented = self._timed(POLICY, self.trainer._augmented)
        if self.trainer.stepper is not None:
            self.trainer.stepper.step = self._timed(OUTER, self.trainer.stepper.step)

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = self.timer.now()
            result = call(*args)
            self._marks.append((name, start, self.timer.now()))
            return result

        return timed

    def run(self, steps: int) -> None:
        """So many inner steps, and the outer steps that fall among them."""
        records: list[Any] = []
        for _ in range(steps):
            self.trainer._step(self._step, self._optimizer, records)
            self._step += 1
        self.statuses.update(r.status.value for r in records if r.status is not None)

    def stretch(self) -> None:
        """So many as a stretch has, timed."""
        gc.collect()  # what the last row left is not charged to this one
        self._marks.clear()
        self._within.clear()
        self.timer.wait()
        with self._watched():
            start = self.timer.now()
            self.run(self.every)
            end = self.timer.now()
        self.timer.wait()
        total = self.timer.between(start, end)
        spent = self._summed(self._marks, PARTS)
        spent[REST] = total - math.fsum(spent.values())
        self.seconds.append(total)
        for name, value in spent.items():
            self.parts[name].append(value)
        if self.trainer.stepper is not None:
            for name, value in self._summed(self._within, OUTER_PARTS).items():
                self.outer_parts[name].append(value)

    def _watched(self) -> AbstractContextManager[None]:
        """Outer steps with a clock around their parts."""
        policy = self.trainer.policy
        if self.trainer.stepper is None or not isinstance(policy, Policy):
            return nullcontext()
        return outer_parts(policy, self.timer.now, self._within)

    def _summed(self, marks: Sequence[tuple[str, Moment, Moment]], names: Sequence[str]) -> dict[str, float]:
        spent = {name: 0.0 for name in names}
        for name, first, last in marks:
            spent[name] += self.timer.between(first, last)
        return spent

    def warm_up(self) -> None:
        """A stretch, because first calls are slow, and another one whose last step is watched for its memory."""
        self.run(2 * self.every - 1)
        with peak_memory(self.trainer.device) as memory:
            self.run(1)
        self.peak_bytes = memory.bytes

    def held_bytes(self) -> int:
        """Parameters, buffers and momentum, which live all the time."""
        network = self.trainer.network
        momenta = [s["momentum_buffer"] for s in self._optimizer.state.values() if s.get("momentum_buffer") is not None]
        return sum(t.nbytes for t in [*network.parameters(), *network.buffers(), *momenta])

    def measured(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seconds": self.seconds,
            "parts": self.parts,
            "outer_parts": self.outer_parts,
            "outer_steps": 0 if self.trainer.stepper is None else len(self.seconds),
            "statuses": dict(self.statuses),
            "peak_bytes": self.peak_bytes,
            "held_bytes": self.held_bytes(),
            "step_seconds": summary([s / self.every for s in self.seconds]),
        }


def interleave(trainings: Sequence[Training], *, rounds: int, told: Callable[[int], None] = lambda done: None) -> None:
    """``rounds`` times a stretch of each, in an order that rotates.

    Args:
        trainings: the rows, warm.
        rounds: how many.
        told: called with the number of finished rounds.
    """
    told(0)
    for turn in range(rounds):
        for place in range(len(trainings)):
            trainings[(turn + place) % len(trainings)].stretch()
        told(turn + 1)


def synthetic(batch_size: int, seed: int) -> Dataset:
    """Random colour images of 32 x 32 pixels: what is timed does not depend on what they show."""
    size = 20 * batch_size  # of which the tenth that validates fills two batches
    pixels = torch.randint(
        0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=keys.generator(keys.derive(seed, "synthetic"))
    )
    images = ImageSet(pixels, torch.arange(size) % CLASSES)
    names = tuple(map(str, range(CLASSES)))
    return Dataset("synthetic", names, images, mean=(0.5,) * 3, std=(0.289,) * 3)  # of a uniform distribution
