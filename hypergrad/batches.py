"""Batches in keyed random order: batch t is a function of (seed, t), so a resumed run sees what it would have seen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive, generator


class KeyedBatches:
    """Shuffled mini-batches of tensors in memory. Batch ``t`` is a pure function of the seed and ``t``.

    Each pass over the data is a fresh permutation; a rest that fills no batch is dropped. Iterating goes over one
    pass, ``batch(t)`` goes on for ever.

    Args:
        tensors: inputs, targets, and any more, all with N rows.
        batch_size: B, at most N.
        seed: of the order.
        index: give each sample's row number as the last element of a batch, as families that need it ask for.

    Raises:
        InvalidInputError: the tensors differ in length, or the batch size is impossible.

    Example:
        >>> import torch, hypergrad
        >>> data = hypergrad.KeyedBatches(torch.randn(10, 3), torch.arange(10), batch_size=4, seed=0)
        >>> inputs, targets, index = data.batch(7)
        >>> inputs.shape, torch.equal(targets, index), len(data)
        (torch.Size([4, 3]), True, 2)
    """

    def __init__(self, *tensors: Tensor, batch_size: int, seed: int = 0, index: bool = True) -> None:
        lengths = [len(t) for t in tensors]
        if not tensors or len(set(lengths)) != 1:
            raise InvalidInputError(f"KeyedBatches needs tensors of one length; got lengths {lengths}.")
        if not isinstance(batch_size, int) or not 1 <= batch_size <= lengths[0]:
            raise InvalidInputError(
                f"batch_size must be an integer in 1..{lengths[0]} (the samples); got {batch_size!r}."
            )
        self.tensors = tensors
        self.batch_size = batch_size
        self.seed = seed
        self.with_index = index
        self._order: tuple[int, Tensor] | None = None  # the last pass and its permutation, a cache

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.tensors[0]) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """The first pass."""
        return (self.batch(t) for t in range(len(self)))

    def batch(self, t: int) -> tuple[Tensor, ...]:
        """Batch ``t``, for any ``t >= 0``."""
        if t < 0:
            raise InvalidInputError(f"Batches are counted from 0; got t={t}.")
        epoch, position = divmod(t, len(self))
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.tensors[0]), generator=generator(derive(self.seed, "order", epoch)))
            self._order = (epoch, order.to(self.tensors[0].device))
        rows = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        chosen = tuple(tensor[rows] for tensor in self.tensors)
        return (*chosen, rows) if self.with_index else chosen


def drawing(data: Iterable[Any] | None, name: str) -> Callable[[int], Sequence[Any] | None]:
    """``draw(t)`` from keyed batches, from any re-iterable of batches (begun anew when it ends), or None for no data.

    Raises:
        InvalidInputError: ``data`` is no re-iterable, or has no batch.
    """
    if data is None:
        return lambda t: None
    if hasattr(data, "batch"):
        keyed: Callable[[int], Sequence[Any]] = data.batch
        return keyed
    if isinstance(data, Tensor) or not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise InvalidInputError(
            f"{name} must be something that can be iterated over again and again and gives batches (a DataLoader, "
            f"KeyedBatches, a list of tuples); got {type(data).__name__}. One batch: [(inputs, targets)]."
        )
    iterator: Iterator[Any] = iter(
        ()
    )  # begun at t = 0, and anew at each t = 0, so that a trial draw leaves the order as it was

    def draw(t: int) -> Sequence[Any]:
        nonlocal iterator
        if t == 0:
            iterator = iter(data)
        for _ in range(2):
            for batch in iterator:
                found: Sequence[Any] = batch
                return found
            iterator = iter(data)
        raise InvalidInputError(f"{name} is empty: {data!r} gave no batch.")

    return draw
