"""The table of operations: what each is called, its range and unit, and where its gradient comes from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from hypergrad.augment import affine, colour, histogram, pillow_operations
from hypergrad.augment.checks import check_images, check_per_image, column, working_dtype
from hypergrad.augment.ranges import RANGES
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.registry import closest

Kind = Literal["geometric", "colour", "histogram"]
Gradient = Literal["exact", "straight-through", "none"]
StraightThrough = Literal["surrogate", "unit"]


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
        gradient: to the magnitude: "exact", "straight-through" where the forward pass is discrete, or "none".
        rule: what stands in for the discrete step in the backward pass of a "straight-through" operation.
        width: of that stand-in, in the operation's unit, where it has one.
        pillow: ``(PIL image, amount: float) -> PIL image``, what a policy exported to Pillow calls; None: it cannot be
            exported.
    """

    name: str
    kind: Kind
    function: Callable[..., Tensor]
    unit: str
    identity: float
    strongest: float
    signed: bool
    gradient: Gradient
    rule: str = ""
    width: float | None = None
    pillow: Callable[[Any, float], Any] | None = None

    def amount(self, magnitude: Tensor, sign: Tensor | None) -> Tensor:  # (B,)
        """The strength in the operation's own unit."""
        scale = magnitude * sign if self.signed and sign is not None else magnitude
        return self.identity + (self.strongest - self.identity) * scale

    def __call__(
        self,
        images: Tensor,
        magnitude: Tensor,
        sign: Tensor | None = None,
        *,
        straight_through: StraightThrough = "surrogate",
    ) -> Tensor:
        """Apply the operation.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1]; any C for geometric operations and those on intensity, 1 or 3
                for Color and Contrast. Half-precision images are worked on in float32.
            magnitude: relative strength in [0, 1], ``(B,)``; 0 is no change.
            sign: +1 or -1, ``(B,)``; None means +1. Operations without a direction ignore it.
            straight_through: where the gradient to the magnitude of a discrete operation comes from. "surrogate": its
                own rule. "unit": 1 for every pixel, as in the code of MADAO's authors, whose sign is often wrong.

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
        work, magnitude = images.to(dtype), magnitude.to(dtype)
        sign = None if sign is None else sign.to(dtype)
        if self.kind == "geometric":
            result = affine.warp(work, self.matrix(magnitude, sign, images.shape[2], images.shape[3]))
        else:
            result = self.recolour(work, magnitude, sign, straight_through)
        return result.to(images.dtype)

    def matrix(self, magnitude: Tensor, sign: Tensor | None, height: int, width: int) -> Tensor:  # (B, 2, 3)
        """The affine matrices of a geometric operation; nothing is checked."""
        return self.function(self.amount(magnitude, sign), height, width)

    def recolour(
        self, images: Tensor, magnitude: Tensor, sign: Tensor | None, straight_through: StraightThrough
    ) -> Tensor:
        """The images after an operation that is not geometric; nothing is checked, one dtype."""
        if self.gradient == "exact" or (self.gradient == "straight-through" and straight_through == "surrogate"):
            return self.function(images, self.amount(magnitude, sign))
        result = self.function(images, self.amount(magnitude.detach(), sign))
        return result if self.gradient == "none" else result + column(magnitude - magnitude.detach())


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
    rule: str = "",
    width: float | None = None,
    pillow: Callable[[Any, float], Any] | None = None,
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
    if gradient not in ("exact", "straight-through", "none"):
        raise InvalidInputError(f"An operation's gradient is 'exact', 'straight-through' or 'none'; got {gradient!r}.")

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
            rule=rule,
            width=width,
            pillow=pillow,
        )
        return function

    return add


def _address(function: Callable[..., Tensor]) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def get_operation(name: str, ranges: str = "madao") -> Operation:
    """The operation registered under ``name``; call it as ``operation(images, magnitude, sign=None)``.

    Args:
        name: one of :func:`operation_names`.
        ranges: of the amounts, one of :data:`hypergrad.augment.ranges.RANGES`. An operation that a range does not
            name keeps its own.

    Raises:
        UnknownNameError: no such name or range; the message lists those that exist.

    Example:
        >>> get_operation("Rotate").strongest, get_operation("Rotate", "trivialaugment-wide").strongest
        (30, 135)
    """
    operation = _operations.get(name) if isinstance(name, str) else None
    if operation is None:
        raise UnknownNameError(
            f"Unknown operation {name!r}.{closest(str(name), operation_names())} "
            f"Registered: {', '.join(operation_names())}."
        )
    changes = RANGES.get(ranges) if isinstance(ranges, str) else None
    if changes is None:
        raise UnknownNameError(
            f"Unknown ranges {ranges!r}.{closest(str(ranges), list(RANGES))} There are: {', '.join(RANGES)}."
        )
    return replace(operation, **changes.get(name, {}))


def operation_names() -> list[str]:
    """Every registered name, the paper's fourteen first, in its order."""
    return list(_operations)


def _identity(images: Tensor, amount: Tensor) -> Tensor:
    return images


# Name, function, kind, unit, identity, strongest, signed; in the paper's order.
_PAPER: tuple[tuple[str, Callable[..., Tensor], Kind, str, float, float, bool], ...] = (
    ("ShearX", affine.shear_x, "geometric", "slope", 0, 0.3, True),
    ("ShearY", affine.shear_y, "geometric", "slope", 0, 0.3, True),
    ("TranslateX", affine.translate_x, "geometric", "width", 0, 0.45, True),
    ("TranslateY", affine.translate_y, "geometric", "height", 0, 0.45, True),
    ("Rotate", affine.rotate, "geometric", "degrees", 0, 30, True),
    ("Invert", histogram.invert, "histogram", "strength", 0, 1, False),
    ("AutoContrast", histogram.autocontrast, "histogram", "strength", 0, 1, False),
    ("Equalize", histogram.equalize, "histogram", "strength", 0, 1, False),
    ("Solarize", histogram.solarize, "histogram", "threshold", 255.5 / 255, -0.5 / 255, False),
    ("Color", colour.color, "colour", "factor", 1, 1.9, True),
    ("Posterize", histogram.posterize, "histogram", "bits", 8, 4, False),
    ("Contrast", colour.contrast, "colour", "factor", 1, 1.9, True),
    ("Brightness", colour.brightness, "colour", "factor", 1, 1.9, True),
    ("Sharpness", colour.sharpness, "colour", "factor", 1, 1.9, True),
)
# Those whose forward pass is discrete: the rule of the backward pass, and its width.
_RULES: dict[str, tuple[str, float | None]] = {
    "Equalize": ("identity to the image; exact to the strength", None),
    "Solarize": ("sigmoid step", histogram.SOLARIZE_WIDTH),
    "Posterize": ("step size (LSQ), identity to the image", None),
}
for _name, _function, _kind, _unit, _zero, _strongest, _signed in _PAPER:
    register_operation(
        _name,
        kind=_kind,
        unit=_unit,
        identity=_zero,
        strongest=_strongest,
        signed=_signed,
        gradient="straight-through" if _name in _RULES else "exact",
        rule=_RULES.get(_name, ("", None))[0],
        width=_RULES.get(_name, ("", None))[1],
        pillow=pillow_operations.FUNCTIONS[_name],
    )(_function)

#: The names of the paper's search space.
PAPER_OPERATIONS = tuple(row[0] for row in _PAPER)

# Part of RandAugment's and TrivialAugment's spaces, not of the paper's.
register_operation(
    "Identity",
    unit="none",
    identity=0,
    strongest=0,
    gradient="none",
    pillow=pillow_operations.FUNCTIONS["Identity"],
)(_identity)
