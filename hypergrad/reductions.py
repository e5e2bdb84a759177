"""Means over the ranks, weighted by the samples of each: plain collectives on detached tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, distributed

from hypergrad import interruption
from hypergrad.distributed import gather, rank, world_size
from hypergrad.errors import RankError
from hypergrad.tree import TensorDict

_NO_SAMPLES = -1


@dataclass(frozen=True)
class MeanOverRanks:
    """The ranks' shards of one batch: how much each counts, and means over them.

    The mean of ``t`` is ``sum_r share_r t_r`` with ``share_r`` the rank's share of the samples: what the whole batch
    would give where ``t`` is a mean over samples plus terms without samples. The result is the same on every rank, bit
    for bit, and detached. With one rank every method returns the very tensors it was given.

    Every reduction also carries whether its rank was asked to stop (:mod:`hypergrad.interruption`), so that all
    ranks learn of a signal in the same reduction.

    Attributes:
        counts: samples of each rank; (1, 1, ...) for batches without samples.
        place: which of them this rank is.
    """

    counts: tuple[int, ...] = (1,)
    place: int = 0

    @classmethod
    def of(cls, batch: Sequence[Any] | None) -> "MeanOverRanks":
        """For this rank's shard of a batch; called by all ranks. The samples are the rows of its first tensor.

        Raises:
            RankError: a rank has no sample, or some ranks have batches with samples and others not.
        """
        if world_size() == 1:
            return _ONE
        counts = [row[0] for row in gather([cls.rows(batch)])]
        if all(count == _NO_SAMPLES for count in counts):
            counts = [1] * len(counts)
        if min(counts) < 1:
            shown = ", ".join("none" if c == _NO_SAMPLES else str(c) for c in counts)
            raise RankError(
                f"Every rank needs its own part of the batch, with one sample or more; the ranks have {shown}. Use a "
                "larger batch or fewer ranks."
            )
        return cls(tuple(counts), rank())

    @staticmethod
    def rows(batch: Sequence[Any] | None) -> int:
        """The samples of a batch: the length of its first tensor with an axis; -1 without one."""
        parts = batch if isinstance(batch, list | tuple) else ()
        return next((len(t) for t in parts if isinstance(t, Tensor) and t.ndim), _NO_SAMPLES)

    @property
    def single(self) -> bool:
        """Whether there is nothing to reduce."""
        return len(self.counts) == 1

    @property
    def samples(self) -> int:
        """Of the whole batch."""
        return sum(self.counts)

    @property
    def share(self) -> float:
        """This rank's part of the samples, in (0, 1]."""
        return self.counts[self.place] / self.samples

    @property
    def offset(self) -> int:
        """Samples of the ranks before this one."""
        return sum(self.counts[: self.place])

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, like ``tensor``."""
        if self.single:
            return tensor
        (mean,) = _summed([tensor], [tensor], self.share)
        assert mean is not None
        return mean

    def mean_each(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The means of several tensors in one collective; None where all ranks have None, which counts as 0.

        Args:
            tensors: one for each of ``like``, or None.
            like: tensors of these shapes, dtypes and device.
        """
        return list(tensors) if self.single else _summed(tensors, like, self.share)

    def mean_dict(self, found: Mapping[str, Tensor | None], like: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """:meth:`mean_each` for a dictionary with the keys of ``like``."""
        if self.single:
            return dict(found)
        return dict(zip(like, self.mean_each([found[k] for k in like], list(like.values())), strict=True))

    def total_each(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Plain sums over the ranks, of parts that are weighted already."""
        return list(tensors) if self.single else _summed(tensors, like, 1.0)


_ONE = MeanOverRanks()


def poll_together() -> None:
    """Tell all ranks of a signal, then :func:`hypergrad.interruption.poll`: where no reduction is near.

    Raises:
        Stopped: on every rank, where any was asked to stop.
    """
    if any(row[0] for row in gather([int(interruption.received() is not None)])) and world_size() > 1:
        interruption.agreed()
    interruption.poll()


def mean_gradients(params: TensorDict, statistics: Sequence[Tensor], ranks: MeanOverRanks) -> None:
    """Average ``.grad`` of the parameters and the statistics over the ranks, in place and in one collective."""
    if ranks.single:
        return
    values, held = list(params.values()), list(statistics)
    means = ranks.mean_each([*(p.grad for p in values), *held], [*values, *held])
    with torch.no_grad():
        for p, mean in zip(values, means, strict=False):
            if mean is None or p.grad is None:
                p.grad = mean
            else:
                p.grad.copy_(mean)
        for statistic, mean in zip(held, means[len(values) :], strict=True):
            assert mean is not None
            statistic.copy_(mean)


def _summed(tensors: Sequence[Tensor | None], like: Sequence[Tensor], weight: float) -> list[Tensor | None]:
    dtype = reduce(torch.promote_types, (t.dtype for t in like))
    marks = [interruption.received() is not None, *(t is not None for t in tensors)]
    parts = [
        (torch.zeros_like(shaped, requires_grad=False) if t is None else t.detach()).reshape(-1).to(dtype)
        for t, shaped in zip(tensors, like, strict=True)
    ]
    buffer = torch.cat([*(p * weight for p in parts), torch.tensor(marks, dtype=dtype, device=like[0].device)])
    distributed.all_reduce(buffer)
    *sums, found = buffer.split([*(t.numel() for t in like), len(marks)])
    stop, *present = found.tolist()
    if stop:
        interruption.agreed()
    return [s.view(t.shape).to(t.dtype) if here else None for s, t, here in zip(sums, like, present, strict=True)]
