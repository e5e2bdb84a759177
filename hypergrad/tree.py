"""``dict[str, Tensor]`` and one flat vector: conversion, and the checks that make it safe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError

TensorDict = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The shape of a dictionary of tensors, and how it lies in one flat vector (in the order of its keys).

    The flat vector has the promoted dtype of all entries; entries of a lower precision are cast on the way.
    """

    keys: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def numels(self) -> list[int]:
        """Number of elements of each entry."""
        return [shape.numel() for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.numels)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], name: str) -> "Layout":
        """The layout of ``tensors``; ``name`` (``"params"``) is what messages call them.

        Raises:
            InvalidInputError: not a dictionary of floating-point tensors on one device, or empty.
        """
        if not isinstance(tensors, Mapping) or not tensors:
            shown = f"an empty {type(tensors).__name__}" if isinstance(tensors, Mapping) else type(tensors).__name__
            raise InvalidInputError(f"{name} must be a non-empty dict of tensors; got {shown}.")
        for key, value in tensors.items():
            if not isinstance(value, Tensor):
                raise InvalidInputError(
                    f"{name}[{key!r}] must be a tensor; got {type(value).__name__}. Wrap it: torch.tensor({value!r})."
                )
            if not value.is_floating_point():
                raise InvalidInputError(
                    f"{name}[{key!r}] has dtype {value.dtype}, which has no gradient; use a floating-point dtype."
                )
        devices = sorted({str(v.device) for v in tensors.values()})
        if len(devices) > 1:
            raise InvalidInputError(f"{name} lie on several devices ({', '.join(devices)}); move them to one.")
        values = list(tensors.values())
        dtype = values[0].dtype
        for value in values:
            dtype = torch.promote_types(dtype, value.dtype)
        return cls(
            keys=tuple(tensors),
            shapes=tuple(v.shape for v in values),
            dtypes=tuple(v.dtype for v in values),
            dtype=dtype,
            device=values[0].device,
        )

    def flatten(self, values: Sequence[Tensor]) -> Tensor:  # (P,)
        """One flat vector from tensors in the order of the keys."""
        return torch.cat([v.reshape(-1) for v in values]).to(self.dtype)

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Tensors in the order of the keys, views into ``vector`` ``(P,)`` where no cast is needed."""
        parts = vector.split(self.numels)
        views = [p.view(s) for p, s in zip(parts, self.shapes, strict=True)]
        return [v if v.dtype == d else v.to(d) for v, d in zip(views, self.dtypes, strict=True)]

    def to_dict(self, vector: Tensor) -> TensorDict:
        """The dictionary whose flat form is ``vector`` ``(P,)``."""
        return dict(zip(self.keys, self.unflatten(vector), strict=True))


def check_like(tensors: Mapping[str, Tensor], layout: Layout, name: str) -> None:
    """Refuse ``tensors`` whose keys or shapes differ from ``layout``.

    Raises:
        InvalidInputError: names the missing and the unexpected keys, or the first shape that differs.
    """
    missing = [k for k in layout.keys if k not in tensors]
    extra = [k for k in tensors if k not in layout.keys]
    if missing or extra:
        raise InvalidInputError(f"{name} has other keys than expected: missing {missing}, unexpected {extra}.")
    for key, shape in zip(layout.keys, layout.shapes, strict=True):
        if tensors[key].shape != shape:
            raise InvalidInputError(f"{name}[{key!r}] has shape {tuple(tensors[key].shape)}; expected {tuple(shape)}.")
