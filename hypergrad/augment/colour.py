"""Colour operations of Pillow's ImageEnhance: ``x + (factor - 1) * (x - degenerate)``, clamped to [0, 1].

Factor 1 is the identity (exactly). The gradient is the exact one: zero for a pixel that the factor pushes out of
[0, 1], because there the result does not depend on it, and whole at the bounds themselves. Pillow rounds the
degenerate image to 8 bits and cuts the result off; here nothing is rounded, so results agree to one 8-bit level.
"""

import torch.nn.functional as F
from torch import Tensor

from hypergrad.augment.checks import column
from hypergrad.errors import InvalidInputError


def _grey(images: Tensor, name: str) -> Tensor:  # (B, 1, H, W)
    """Luminance by ITU-R 601-2, as Pillow's mode "L"; a grey image is its own."""
    channels = images.shape[1]
    if channels == 1:
        return images
    if channels != 3:
        raise InvalidInputError(
            f"{name} needs images with 1 or 3 channels; got {channels}. Leave it out of operations= for such images."
        )
    return 0.299 * images[:, 0:1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Saturation: away from (above 1) or towards (below 1) the grey image. Grey images stay as they are."""
    return (images + column(factor - 1) * (images - _grey(images, "Color"))).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the image's mean luminance."""
    mean = _grey(images, "Contrast").mean((1, 2, 3), keepdim=True)
    return (images + column(factor - 1) * (images - mean)).clamp(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """``factor * x``: away from or towards black."""
    return (images * column(factor)).clamp(0, 1)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the image smoothed by (1 1 1; 1 5 1; 1 1 1) / 13; as in Pillow the border stays as it is."""
    height, width = images.shape[-2:]
    if height < 3 or width < 3:
        return images
    # Sums of slices: the box filter is separable, and this is faster than a depthwise convolution.
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # (B, C, H-2, W-2)
    inner = images[..., 1:-1, 1:-1]
    detail = inner - (box + 4 * inner) / 13
    return (images + column(factor - 1) * F.pad(detail, (1, 1, 1, 1))).clamp(0, 1)
