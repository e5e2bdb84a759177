"""What the augmentations ask of their inputs, and the errors that say so."""

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError


def check_images(images: Tensor, slack: float = 0.0) -> None:
    """Refuse anything but floats ``(B, C, H, W)`` in [0, 1].

    The values are looked at on the CPU only: elsewhere that would make the host wait for the device at every call.

    Args:
        images: the batch.
        slack: how far outside [0, 1] a value may lie (rounding).

    Raises:
        InvalidInputError: not a tensor, not of floating point, not of rank 4, or a value outside [0, 1] or NaN.
    """
    if not isinstance(images, Tensor):
        raise InvalidInputError(
            f"Images must be a tensor (B, C, H, W); got {type(images).__name__}. Stack the images into one tensor."
        )
    if not images.is_floating_point():
        raise InvalidInputError(
            f"Images must be floats in [0, 1]; got dtype {images.dtype}. For 8-bit images use images.float() / 255."
        )
    if images.ndim != 4:
        raise InvalidInputError(
            f"Images must have the shape (B, C, H, W); got {tuple(images.shape)}. "
            "Add the missing dimension, e.g. images[None] for one image or images[:, None] for grey ones."
        )
    if images.numel() and images.device.type == "cpu":
        low, high = (v.item() for v in images.detach().aminmax())
        if not (low >= -slack and high <= 1 + slack):  # written so that NaN fails
            raise InvalidInputError(
                f"Images must lie in [0, 1]; got values from {low:.4g} to {high:.4g}. Divide 8-bit values by 255; "
                "where the loader normalises, say so by mean= and std= of the policy's family; NaN means broken data."
            )


def check_per_image(values: Tensor, images: Tensor, name: str, low: float, high: float) -> None:
    """Refuse anything but one float per image in ``[low, high]`` (the range is looked at on the CPU only).

    Raises:
        InvalidInputError: not a tensor of shape ``(B,)``, or a value outside the range.
    """
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        shown = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
        raise InvalidInputError(
            f"{name} must be a tensor with one value per image, shape {tuple(images.shape[:1])}; got {shown}. "
            f"For one value for all: torch.full(({images.shape[0]},), value)."
        )
    if values.numel() and values.device.type == "cpu":
        seen_low, seen_high = (v.item() for v in values.detach().aminmax())
        if not (seen_low >= low and seen_high <= high):
            raise InvalidInputError(
                f"{name} must lie in [{low:g}, {high:g}]; got values from {seen_low:.4g} to {seen_high:.4g}. "
                "Magnitudes are relative: 0 is no change and 1 the strongest; signs are +1 or -1."
            )


def working_dtype(images: Tensor) -> torch.dtype:
    """Half-precision images are worked on in float32, because coordinates do not fit into 8 bits of mantissa."""
    return torch.promote_types(images.dtype, torch.float32)


def column(values: Tensor) -> Tensor:  # (B,) -> (B, 1, 1, 1)
    """One value per image, ready to be broadcast over its pixels."""
    return values[:, None, None, None]
