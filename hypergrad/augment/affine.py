"""The five geometric operations: each is a matrix per image, and one warp applies any mixture of them.

A matrix ``(2, 3)`` takes a position of the output image, in units of half sides about the image's centre, to the
position of the input image that is seen there. Directions follow Pillow's ``Image.transform(AFFINE)`` and
``Image.rotate``; the pivot is the image's centre.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad.augment.relaxations import within_unit


def _matrix(*entries: Tensor) -> Tensor:  # six of (B,) -> (B, 2, 3)
    return torch.stack(entries, -1).view(-1, 2, 3)


def shear_x(slope: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``x_in = x + slope * y`` in pixels; slope ``(B,)``."""
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _matrix(one, slope * (height / width), zero, zero, one, zero)


def shear_y(slope: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``y_in = y + slope * x`` in pixels; slope ``(B,)``."""
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _matrix(one, zero, zero, slope * (width / height), one, zero)


def translate_x(fraction: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``x_in = x + fraction * width``; fraction ``(B,)``."""
    one, zero = torch.ones_like(fraction), torch.zeros_like(fraction)
    return _matrix(one, zero, 2 * fraction, zero, one, zero)


def translate_y(fraction: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``y_in = y + fraction * height``; fraction ``(B,)``."""
    one, zero = torch.ones_like(fraction), torch.zeros_like(fraction)
    return _matrix(one, zero, zero, zero, one, 2 * fraction)


def translate_x_pixels(pixels: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``x_in = x + pixels``; pixels ``(B,)``."""
    return translate_x(pixels / width, height, width)


def translate_y_pixels(pixels: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """``y_in = y + pixels``; pixels ``(B,)``."""
    return translate_y(pixels / height, height, width)


def rotate(degrees: Tensor, height: int, width: int) -> Tensor:  # (B, 2, 3)
    """Counter-clockwise by an angle in degrees ``(B,)``."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return _matrix(cos, -sin * (height / width), zero, sin * (width / height), cos, zero)


def warp(images: Tensor, matrix: Tensor) -> Tensor:  # (B, C, H, W)
    """Bilinear resampling with a matrix per image; what lies outside is black.

    The grid is built elementwise, not by a matrix product, which autocast would round to 8 bits of mantissa.

    Args:
        images: ``(B, C, H, W)``, any number of channels.
        matrix: ``(B, 2, 3)``, output to input position, in half sides about the centre.
    """
    batch, _, height, width = images.shape
    if batch == 0:
        return images
    x = _centres(width, images)[None, None, :]  # (1, 1, W)
    y = _centres(height, images)[None, :, None]  # (1, H, 1)
    a, b, c, d, e, f = (entry[:, None, None] for entry in matrix.reshape(batch, 6).unbind(-1))
    grid = torch.stack((a * x + (b * y + c), d * x + (e * y + f)), -1)  # (B, H, W, 2)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # The four weights may sum to 1 + rounding; that must not push white out of range, nor cut its gradient.
    return within_unit(warped)


def _centres(size: int, like: Tensor) -> Tensor:  # (size,)
    """The positions of pixel centres in half sides about the image's centre."""
    return (2 * torch.arange(size, dtype=like.dtype, device=like.device) + 1 - size) / size
