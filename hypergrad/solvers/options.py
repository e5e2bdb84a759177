"""Checks of solver options: the value seen and the values allowed, in one sentence."""

import math
import numbers
from typing import Any

from hypergrad.errors import InvalidInputError


def check_integer(name: str, value: Any, *, minimum: int) -> None:
    """Refuse anything but an integer of at least ``minimum`` (``True`` is no integer here).

    Raises:
        InvalidInputError: names the option, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise InvalidInputError(f"{name} must be an integer >= {minimum}; got {value!r}.")


def check_real(name: str, value: Any, *, above: float | None = None, low: float | None = None, below: float) -> None:
    """Refuse anything but a real number in ``(above, below)``, or in ``[low, below)`` where ``low`` is given.

    Raises:
        InvalidInputError: names the option, the value and the range.
    """
    left = f"{name} > {above:g}" if above is not None else f"{name} >= {low:g}"
    right = "finite" if math.isinf(below) else f"{name} < {below:g}"
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and value < below
    if not fits or not (value > above if above is not None else value >= low):
        raise InvalidInputError(f"{name} must be a real number with {left}, {right}; got {value!r}.")
