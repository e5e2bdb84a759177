"""Reductions inside a graph that is differentiated once more: a pair of operations that are each other's transpose.

Each rank holds the same ``w`` and computes on its own shard. A value that is equal on all ranks enters a shard's
computation by :func:`shared`, and the gradients leave it by :func:`mean_of_gradients`. Cotangents outside of the pair
are equal on all ranks; inside they are the rank's own part, whose sum over the ranks is the whole. torch's own
differentiable collectives do not know which of the two a tensor is, and count too often.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypergrad.reductions import MeanOverRanks
from hypergrad.tree import TensorDict


class _Shared(torch.autograd.Function):
    """Forward the identity, backward the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, ranks: MeanOverRanks, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return tuple(v.view_as(v) for v in values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *own: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.ranks.total_each(own, own)


class _Mean(torch.autograd.Function):
    """Forward the mean over the ranks, backward this rank's share of the common cotangent."""

    @staticmethod
    def forward(ctx: Any, ranks: MeanOverRanks, like: Sequence[Tensor], *own: Tensor | None) -> tuple[Any, ...]:
        ctx.ranks, ctx.had = ranks, [t is not None for t in own]
        return tuple(ranks.mean_each(own, like))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *common: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = zip(common, ctx.had, strict=True)
        return None, None, *(None if c is None or not had else c * ctx.ranks.share for c, had in parts)


def shared(ranks: MeanOverRanks, values: Mapping[str, Tensor]) -> TensorDict:
    """``values``, equal on all ranks, for the use of this rank's shard alone."""
    if ranks.single:
        return dict(values)
    return dict(zip(values, _Shared.apply(ranks, *values.values()), strict=True))  # type: ignore[no-untyped-call]


def mean_of_gradients(
    ranks: MeanOverRanks, own: Sequence[Tensor | None], like: Sequence[Tensor]
) -> list[Tensor | None]:
    """The mean over the ranks of the shards' gradients, equal on all ranks; None where all have None."""
    if ranks.single:
        return list(own)
    return list(_Mean.apply(ranks, [t.detach() for t in like], *own))  # type: ignore[no-untyped-call]
