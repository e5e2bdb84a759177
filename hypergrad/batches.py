"""Batches in keyed random order: batch t is a function of (seed, t), so a resumed run sees what it would have seen."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.distributed import rank, world_size
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
        self.part = (0, 1)  # of each batch: which of how many
        self._order: tuple[int, Tensor] | None = None  # the last pass and its permutation, a cache

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.tensors[0]) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """The first pass."""
        return (self.batch(t) for t in range(len(self)))

    def shard(self, rank: int, world_size: int) -> "KeyedBatches":
        """The same batches, of which ``rank`` gets its part: ``batch(t)`` cut into ``world_size`` runs of rows.

        The first ranks get one row more where the size is no multiple: 32 rows on three ranks are 11, 11 and 10.
        :class:`~hypergrad.BilevelProblem` does this by itself under ``torch.distributed``.

        Raises:
            InvalidInputError: an impossible rank, fewer rows than ranks, or batches that are a part already.

        Example:
            >>> import torch, hypergrad
            >>> data = hypergrad.KeyedBatches(torch.arange(8.0), batch_size=5, index=False)
            >>> whole, parts = data.batch(3), [data.shard(r, 2).batch(3) for r in range(2)]
            >>> torch.equal(torch.cat([part[0] for part in parts]), whole[0]), [len(part[0]) for part in parts]
            (True, [3, 2])
        """
        if not 0 <= rank < world_size <= self.batch_size or self.sharded:
            held = f"part {self.part[0]} of {self.part[1]}" if self.sharded else f"{self.batch_size} rows"
            raise InvalidInputError(
                f"Batches of {held} cannot be cut into part {rank} of {world_size}: every rank needs a row, and "
                "batches are cut once."
            )
        part = copy.copy(self)
        part.part = (rank, world_size)
        return part

    @property
    def sharded(self) -> bool:
        """Whether these are one rank's part."""
        return self.part != (0, 1)

    def batch(self, t: int) -> tuple[Tensor, ...]:
        """Batch ``t``, for any ``t >= 0``."""
        if t < 0:
            raise InvalidInputError(f"Batches are counted from 0; got t={t}.")
        epoch, position = divmod(t, len(self))
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.tensors[0]), generator=generator(derive(self.seed, "order", epoch)))
            self._order = (epoch, order.to(self.tensors[0].device))
        rows = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        rows = rows.tensor_split(self.part[1])[self.part[0]]
        chosen = tuple(tensor[rows] for tensor in self.tensors)
        return (*chosen, rows) if self.with_index else chosen


class Drawing:
    """``draw(t)`` from keyed batches, from any re-iterable of batches (begun anew when it ends), or None for no data.

    A re-iterable is drawn from in order, t = 0, 1, 2, ..., and ``draw(0)`` begins it anew. What its order depends on,
    as far as torch knows it, is kept from the beginning of each pass (torch's global generator, and those of a
    DataLoader and its samplers), so that :meth:`load_state_dict` finds the place by drawing this pass again.

    Of keyed batches each rank of ``torch.distributed`` gets its part; anything else must give each rank its own.

    Attributes:
        data: what is drawn from.
        name: of the data, for messages.
        last: the batch drawn last; None before, and without data.

    Raises:
        InvalidInputError: ``data`` is no re-iterable.
    """

    def __init__(self, data: Iterable[Any] | None, name: str) -> None:
        self._keyed: Callable[[int], Sequence[Any]] | None = getattr(data, "batch", None)
        again = isinstance(data, Iterable) and not isinstance(data, Tensor | Iterator)
        if data is not None and self._keyed is None and not again:
            raise InvalidInputError(
                f"{name} must be something that can be iterated over again and again and gives batches (a DataLoader, "
                f"KeyedBatches, a list of tuples); got {type(data).__name__}. One batch: [(inputs, targets)]."
            )
        self.data = data
        self.last: Sequence[Any] | None = None
        self.name = name
        self._t = -1  # of the last batch
        self._taken = 0  # batches of this pass
        self._start: list[Tensor] = []  # the generators at its beginning
        self._iterator: Iterator[Any] = iter(())
        self._part: KeyedBatches | None = None

    def __call__(self, t: int) -> Sequence[Any] | None:
        """Batch t.

        Raises:
            InvalidInputError: the data has no batch.
        """
        keyed = self._of_rank()
        if keyed is not None:
            self.last = keyed(t)
        elif self.data is not None:
            self.last = self._next(anew=t == 0)
        self._t = t
        return self.last

    def again(self, t: int) -> Sequence[Any] | None:
        """Batch t, which may have been drawn already, as the last one."""
        return self.last if t == self._t else self(t)

    def state_dict(self) -> dict[str, Any]:
        """Where the drawing stands."""
        now = [g.get_state() for g in _generators(self.data)[1:]]
        return {"t": self._t, "taken": self._taken, "start": list(self._start), "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; ``last`` is drawn again. The batches of a re-iterable's pass are drawn up to that place.

        Raises:
            InvalidInputError: the data has fewer batches than were drawn.
        """
        self._t, self._taken, self._start = state["t"], state["taken"], list(state["start"])
        if self._t < 0 or self.data is None:
            return
        keyed = self._of_rank()
        if keyed is not None:
            self.last = keyed(self._t)
            return
        generators = _generators(self.data)
        before = torch.default_generator.get_state()
        try:
            for generator_, held in zip(generators, self._start, strict=False):
                generator_.set_state(held)
            self._iterator = iter(self.data)
            for taken in range(self._taken):
                try:
                    self.last = next(self._iterator)
                except StopIteration:
                    raise InvalidInputError(
                        f"{self.name} has only {taken} batches; {self._taken} of them had been drawn when the "
                        "checkpoint was saved. Give the data that the run had."
                    ) from None
            for generator_, held in zip(generators[1:], state["now"], strict=False):
                generator_.set_state(held)
        finally:
            torch.default_generator.set_state(before)

    @property
    def shared(self) -> bool:
        """Whether all ranks draw from the same data, of which each takes its part."""
        return isinstance(self.data, KeyedBatches) and not self.data.sharded

    def _of_rank(self) -> Callable[[int], Sequence[Any]] | None:
        """``batch`` of keyed data, and of this rank's part where there are several; None for other data."""
        # At each draw, because torch.distributed may start, and stop, after this object is made.
        if world_size() == 1 or not isinstance(self.data, KeyedBatches) or not self.shared:
            return self._keyed
        place = (rank(), world_size())
        if self._part is None or self._part.part != place:
            self._part = self.data.shard(*place)
        return self._part.batch

    def _next(self, *, anew: bool) -> Sequence[Any]:
        # Begun at t = 0, and anew at each t = 0, so that a trial draw leaves the order as it was.
        for begin in (anew, True):
            if begin:
                self._start = [g.get_state() for g in _generators(self.data)]
                self._iterator, self._taken = iter(self.data or ()), 0
            for batch in self._iterator:
                self._taken += 1
                found: Sequence[Any] = batch
                return found
        raise InvalidInputError(f"{self.name} is empty: {self.data!r} gave no batch.")


def _generators(data: object) -> list[torch.Generator]:
    """What the order of a pass depends on: torch's global generator, and those of a DataLoader and its samplers."""
    found = [torch.default_generator]
    batch_sampler = getattr(data, "batch_sampler", None)
    for holder in (data, getattr(data, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        own = getattr(holder, "generator", None)
        if isinstance(own, torch.Generator) and all(own is not g for g in found):
            found.append(own)
    return found
