"""The table of operations: what each is called, its range and unit, and where its gradient comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hypergrad.augment import affine, colour, histogram
from hypergrad.augment.checks import check_images, check_per_image, working_dtype
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.registry import closest

Kind = Literal["geometric", "colour", "histogram"]
Gradient = Literal["exact", "straight-through"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation on a batch of images, with a strength per image.

    A magnitude in [0, 1] becomes ``amount = identity + (strongest - identity) * magnitude * sign`` in the operation's
    own unit, so magnitude 0 is no change and 1 the strongest.

    Attributes:
        name: what it is called.
        kind: "geometric" operations return a matrix and share one warp; "colour" and "histogram" return images.
        function: ``(amount (B,), height, width) -> matrix (B, 2, 3)`` for a geometric operation (see
            :mod:`hypergrad.augment.affine`), ``(images, amount (B,)) -> images`` for the others.
        unit: of the amount.
        identity: the amount that changes nothing.
        strongest: the amount at magnitude 1 (and sign +1).
        signed: whether the sign is drawn at random per image; the others ignore it.
        gradient: "exact", or "straight-through" where the forward pass is discrete (the function says which rule).
    """

    name: str
    kind: Kind
    function: Callable[..., Tensor]
    unit: str
    identity: float
    strongest: float
    signed: bool
    gradient: Gradient

    def amount(self, magnitude: Tensor, sign: Tensor | None) -> Tensor:  # (B,)
        """The strength in the operation's own unit."""
        scale = magnitude * sign if self.signed and sign is not None else magnitude
        return self.identity + (self.strongest - self.identity) * scale

    def __call__(self, images: Tensor, magnitude: Tensor, sign: Tensor | None = None) -> Tensor:
        """Apply the operation.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1]; any C for geometric operations and those on intensity, 1 or 3
                for Color and Contrast. Half-precision images are worked on in float32.
            magnitude: relative strength in [0, 1], ``(B,)``; 0 is no change.
            sign: +1 or -1, ``(B,)``; None means +1. Operations without a direction ignore it.

        Returns:
            Images of the same shape and dtype, in [0, 1], differentiable in images and magnitude.

        Raises:
            InvalidInputError: images or magnitudes of a wrong type, shape or range (ranges are checked on CPU only).

        Example:
            >>> import torch
            >>> images = torch.full((1, 1, 2, 2), 0.25)
            >>> get_operation("Brightness")(images, torch.ones(1))[0, 0, 0, 0]
            tensor(0.4750)
        """
        check_images(images)
        check_per_image(magnitude, images, "magnitude", 0, 1)
        if sign is not None:
            check_per_image(sign, images, "sign", -1, 1)
        dtype = working_dtype(images)
        work, amount = images.to(dtype), self.amount(magnitude, sign).to(dtype)
        if self.kind == "geometric":
            result = affine.warp(work, self.function(amount, images.shape[2], images.shape[3]))
        else:
            result = self.function(work, amount)
        return result.to(images.dtype)


_operations: dict[str, Operation] = {}


def register_operation(
    name: str,
    *,
    unit: str,
    identity: float,
    strongest: float,
    kind: Kind = "colour",
    signed: bool = False,
    gradient: Gradient = "exact",
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that adds a function as an operation; the arguments are those of :class:`Operation`.

    Raises:
        InvalidInputError: the name is empty or taken by another function, or the kind is none of the three.

    Example:
        >>> @register_operation("Gamma", unit="exponent", identity=1.0, strongest=2.0)
        ... def gamma(images, amount):
        ...     return images.clamp(min=1e-6) ** amount[:, None, None, None]
        >>> get_operation("Gamma").strongest
        2.0
    """
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"An operation is registered under a non-empty string; got {name!r}.")
    if kind not in ("geometric", "colour", "histogram"):
        raise InvalidInputError(f"An operation's kind is 'geometric', 'colour' or 'histogram'; got {kind!r}.")
    if gradient not in ("exact", "straight-through"):
        raise InvalidInputError(f"An operation's gradient is 'exact' or 'straight-through'; got {gradient!r}.")

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        held = _operations.get(name)
        # The same function may come again (a notebook cell run twice).
        if held is not None and _address(held.function) != _address(function):
            raise InvalidInputError(
                f"The operation name {name!r} is already taken by {_address(held.function)}; "
                f"register {_address(function)} under another name."
            )
        _operations[name] = Operation(
            name=name,
            kind=kind,
            function=function,
            unit=unit,
            identity=identity,
            strongest=strongest,
            signed=signed,
            gradient=gradient,
        )
        return function

    return add


def _address(function: Callable[..., Tensor]) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def get_operation(name: str) -> Operation:
    """The operation registered under ``name``; call it as ``operation(images, magnitude, sign=None)``.

    Raises:
        UnknownNameError: no such name; the message lists those that exist.
    """
    operation = _operations.get(name) if isinstance(name, str) else None
    if operation is None:
        raise UnknownNameError(
            f"Unknown operation {name!r}.{closest(str(name), operation_names())} "
            f"Registered: {', '.join(operation_names())}."
        )
    return operation


def operation_names() -> list[str]:
    """Every registered name, the paper's fourteen first, in its order."""
    return list(_operations)


register_operation("ShearX", kind="geometric", unit="slope", identity=0, strongest=0.3, signed=True)(affine.shear_x)
register_operation("ShearY", kind="geometric", unit="slope", identity=0, strongest=0.3, signed=True)(affine.shear_y)
register_operation("TranslateX", kind="geometric", unit="width", identity=0, strongest=0.45, signed=True)(
    affine.translate_x
)
register_operation("TranslateY", kind="geometric", unit="height", identity=0, strongest=0.45, signed=True)(
    affine.translate_y
)
register_operation("Rotate", kind="geometric", unit="degrees", identity=0, strongest=30, signed=True)(affine.rotate)
register_operation("Invert", kind="histogram", unit="strength", identity=0, strongest=1)(histogram.invert)
register_operation("AutoContrast", kind="histogram", unit="strength", identity=0, strongest=1)(histogram.autocontrast)
register_operation("Equalize", kind="histogram", unit="strength", identity=0, strongest=1, gradient="straight-through")(
    histogram.equalize
)
register_operation(
    "Solarize", kind="histogram", unit="threshold", identity=256 / 255, strongest=0, gradient="straight-through"
)(histogram.solarize)
register_operation("Color", unit="factor", identity=1, strongest=1.9, signed=True)(colour.color)
register_operation("Posterize", kind="histogram", unit="bits", identity=8, strongest=4, gradient="straight-through")(
    histogram.posterize
)
register_operation("Contrast", unit="factor", identity=1, strongest=1.9, signed=True)(colour.contrast)
register_operation("Brightness", unit="factor", identity=1, strongest=1.9, signed=True)(colour.brightness)
register_operation("Sharpness", unit="factor", identity=1, strongest=1.9, signed=True)(colour.sharpness)

#: The search space of the paper, in its order.
PAPER_OPERATIONS = tuple(operation_names())
