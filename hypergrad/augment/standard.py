"""Standard augmentation on whole batches: crop and flip, Cutout, random erasing, and one after another."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment.checks import check_images, column
from hypergrad.augment.mixture import noise
from hypergrad.errors import InvalidInputError

Fill = Literal["zeros", "reflect"]


class PerImage(nn.Module, ABC):
    """Augments each image by uniform numbers of its own; nothing is learned."""

    #: How many uniform numbers an image needs.
    slots: int

    def forward(
        self, images: Tensor, *, soft: bool = False, key: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """Augmented images.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1] (the range is checked on the CPU only) or 8-bit (``uint8``).
            soft: has no effect; here because a :class:`~hypergrad.augment.Policy` has it.
            key: of the noise, from :func:`hypergrad.keys.derive`; None takes one from torch's global generator.
            index: the samples' indices, integers ``(B,)``; a sample's noise depends on the key and its index only.
                None numbers the batch from 0.

        Returns:
            Images of the same shape and dtype.

        Raises:
            InvalidInputError: images or indices that cannot be used.
        """
        _check(images)
        return self.augment(images, noise(images, key, index, self.slots))

    @abstractmethod
    def augment(self, images: Tensor, uniform: Tensor) -> Tensor:
        """The images, augmented by uniform numbers in (0, 1), ``(B, slots)``; dtype and values are not checked."""


class CropFlip(PerImage):
    """The standard augmentation of CIFAR (He et al., CVPR 2016, section 4.2): shifted crops, mirrored at random.

    Each image is padded on all sides and cut back to its size at an offset that is uniform over the
    ``2 * padding + 1`` possible ones in each direction, then mirrored left-right with probability 1/2.

    Args:
        padding: in pixels, on each side; 4 for images of 32 x 32.
        flip: whether to mirror; False for digits and other images that have a handedness.
        fill: of the padding: "zeros" is black, "reflect" repeats the image mirrored about its outermost pixels.

    Raises:
        InvalidInputError: an option of a wrong type or range; when called, images no larger than a reflected padding.

    Example:
        >>> import torch
        >>> CropFlip(padding=4)(torch.rand(2, 3, 32, 32), key=0).shape
        torch.Size([2, 3, 32, 32])
    """

    slots = 3

    def __init__(self, padding: int = 4, *, flip: bool = True, fill: Fill = "zeros") -> None:
        super().__init__()
        if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0:
            raise InvalidInputError(f"padding must be an integer of at least 0, in pixels; got {padding!r}.")
        if not isinstance(flip, bool):
            raise InvalidInputError(f"flip must be True (mirror with probability 1/2) or False; got {flip!r}.")
        if fill not in ("zeros", "reflect"):
            raise InvalidInputError(f"fill must be 'zeros' or 'reflect'; got {fill!r}.")
        self.padding = padding
        self.flip = flip
        self.fill: Fill = fill

    def augment(self, images: Tensor, uniform: Tensor) -> Tensor:
        """The images, cropped and mirrored by uniform numbers in (0, 1), ``(B, 3)``: row, column, flip.

        Raises:
            InvalidInputError: the padding is reflected and not smaller than the images.
        """
        height, width = images.shape[2:]
        if images.numel() == 0:
            return images
        if self.fill == "reflect" and self.padding >= min(height, width):
            raise InvalidInputError(
                f"A reflected padding must be smaller than the images; got padding={self.padding} and images of "
                f"{height} x {width}. Take a smaller padding, or fill='zeros'."
            )
        down, right = (below(uniform[:, i, None], 2 * self.padding + 1) - self.padding for i in (0, 1))
        rows = torch.arange(height, device=images.device) + down  # (B, H), of the image that is not padded
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        if self.flip:
            columns = torch.where(uniform[:, 2, None] < 0.5, columns.flip(1), columns)
        columns = columns + right  # (B, W)
        if self.fill == "reflect":
            return _gather(images, _reflect(rows, height), _reflect(columns, width))
        return _gather(F.pad(images, (self.padding,) * 4), rows + self.padding, columns + self.padding)

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return f"padding={self.padding}, flip={self.flip}, fill={self.fill!r}"


class Cutout(PerImage):
    """Cutout (DeVries and Taylor, 2017, arXiv:1708.04552): a square is erased.

    It is centred at a pixel drawn uniformly, and cut off at the image's border. (An even size has no centre pixel:
    the square then reaches one pixel further up and left, as in the authors' code.)

    Args:
        size: of the square's side, in pixels; the paper: 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN.
        p: probability that an image is changed; the paper: 1.
        fill: what the square is set to, in [0, 1] (for 8-bit images times 255, rounded). The paper erases after
            normalisation, where 0 is the mean of the data set; here 0 is black.

    Raises:
        InvalidInputError: an option of a wrong type or range.

    Example:
        >>> import torch
        >>> erased = Cutout(2)(torch.ones(1, 1, 8, 8), key=1)
        >>> int((erased == 0).sum())
        4
    """

    slots = 3

    def __init__(self, size: int, *, p: float = 1.0, fill: float = 0.0) -> None:
        super().__init__()
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidInputError(
                f"size must be an integer of at least 1, in pixels; got {size!r}. The paper uses 16 on CIFAR-10."
            )
        self.size = size
        self.p = _unit(p, "p")
        self.fill = _unit(fill, "fill")

    def augment(self, images: Tensor, uniform: Tensor) -> Tensor:
        """The images, erased by uniform numbers in (0, 1), ``(B, 3)``: applied or not, row, column."""
        height, width = images.shape[2:]
        top = below(uniform[:, 1], height) - self.size // 2
        left = below(uniform[:, 2], width) - self.size // 2
        square = _rectangle(images, top, left, top + self.size, left + self.size)
        return _erase(images, square & column(uniform[:, 0] < self.p), self.fill)

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return f"size={self.size}, p={self.p}, fill={self.fill}"


class RandomErasing(PerImage):
    """Random erasing (Zhong et al., AAAI 2020, algorithm 1): a rectangle of random size, shape and place is erased.

    Area and aspect ratio are drawn, up to ten times, until the rectangle, its sides rounded to whole pixels, fits into
    the image; an image that none of the ten fits stays as it is. Its place is uniform over those where it fits.

    Two departures from the paper, both usual: the logarithm of the ratio is uniform, so that a shape is as likely
    lying as standing, and the rectangle is filled with one value instead of noise.

    Args:
        p: probability that an image is changed.
        area: of the rectangle, as a share of the image's; uniform between the two.
        ratio: of height to width; log-uniform between the two.
        fill: what the rectangle is set to, in [0, 1] (for 8-bit images times 255, rounded).

    Raises:
        InvalidInputError: an option of a wrong type or range.

    Example:
        >>> import torch
        >>> RandomErasing(p=1.0)(torch.rand(2, 3, 32, 32), key=0).shape
        torch.Size([2, 3, 32, 32])
    """

    attempts = 10
    slots = 3 + 2 * attempts

    def __init__(
        self,
        p: float = 0.5,
        *,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        self.p = _unit(p, "p")
        self.area = interval(area, "area", 1)
        self.ratio = interval(ratio, "ratio", math.inf)
        self.fill = _unit(fill, "fill")

    def augment(self, images: Tensor, uniform: Tensor) -> Tensor:
        """The images, erased by uniform numbers in (0, 1): applied or not, row, column, ten areas, ten ratios."""
        height, width = images.shape[2:]
        areas, ratios = uniform[:, 3:].split(self.attempts, 1)
        area = (self.area[0] + (self.area[1] - self.area[0]) * areas) * (height * width)
        low, high = (math.log(r) for r in self.ratio)
        ratio = (low + (high - low) * ratios).exp()
        heights, widths = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()  # (B, attempts)
        fits = (heights <= height) & (widths <= width)
        first = fits.int().argmax(1, keepdim=True)
        tall, wide = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
        top, left = below(uniform[:, 1], height - tall + 1), below(uniform[:, 2], width - wide + 1)
        applied = (uniform[:, 0] < self.p) & fits.any(1)
        return _erase(images, _rectangle(images, top, left, top + tall, left + wide) & column(applied), self.fill)

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return f"p={self.p}, area={self.area}, ratio={self.ratio}, fill={self.fill}"


class Compose(nn.Module):
    """Augmentations one after another, each with noise of its own.

    Of a learned :class:`~hypergrad.augment.Policy` only the images are passed on, not the log-probability, so its pi
    learns from them with ``selection="relaxed"`` only.

    Args:
        augmentations: policies, the augmentations of this file, or anything called like them,
            ``(images, *, soft, key, index) -> images``. None at all: the images stay as they are.

    Raises:
        InvalidInputError: one that cannot be called, or a class instead of an object of it.

    Example:
        >>> import torch
        >>> augment = Compose(CropFlip(), Cutout(16))
        >>> augment(torch.rand(2, 3, 32, 32), key=0).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, *augmentations: Any) -> None:
        super().__init__()
        for position, augmentation in enumerate(augmentations):
            if not callable(augmentation) or isinstance(augmentation, type):
                raise InvalidInputError(
                    f"Compose takes augmentations that can be called; got {augmentation!r} at position {position}. "
                    "Write Compose(CropFlip(), Cutout(16)): objects, not classes, and no list around them."
                )
            # An attribute each, because a list of modules holds no plain functions.
            setattr(self, f"augmentation{position}", augmentation)
        self._length = len(augmentations)

    def forward(
        self, images: Tensor, *, soft: bool = False, key: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """Augmented images.

        Args:
            images: ``(B, C, H, W)``, whatever the first augmentation takes.
            soft: passed on: True lets a learned policy draw relaxed, with a graph to its parameters.
            key: of the noise, from :func:`hypergrad.keys.derive`; the augmentation at position i gets
                ``derive(key, "compose", i)``. None takes one from torch's global generator.
            index: the samples' indices, integers ``(B,)``, passed on; None numbers the batch from 0.

        Returns:
            Images of the same shape and dtype.

        Raises:
            InvalidInputError: images or indices that an augmentation cannot use.
        """
        if key is None:
            key = int(torch.randint(2**62, ()).item())
        for position in range(self._length):
            augmentation = getattr(self, f"augmentation{position}")
            images = augmentation(images, soft=soft, key=keys.derive(key, "compose", position), index=index)
        return images


def _check(images: Tensor) -> None:
    # Of 8-bit images only the shape can be wrong, and a tensor without values has that.
    eight_bit = isinstance(images, Tensor) and images.dtype == torch.uint8
    check_images(torch.empty(images.shape, device="meta") if eight_bit else images)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unit(value: float, name: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise InvalidInputError(f"{name} must be a number in [0, 1]; got {value!r}.")
    return float(value)


def interval(value: tuple[float, float], name: str, most: float) -> tuple[float, float]:
    """Two positive numbers, checked: the smaller first, the larger at most ``most``."""
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(_is_number(v) for v in value)
    if not pair or not 0 < value[0] <= value[1] <= most or value[1] == math.inf:
        bound = f", at most {most:g}" if most < math.inf else ""
        raise InvalidInputError(f"{name} must be two positive numbers, the smaller first{bound}; got {value!r}.")
    return float(value[0]), float(value[1])


def below(uniform: Tensor, count: int | Tensor) -> Tensor:
    """Integers from 0 to ``count - 1``, equally likely, from numbers in (0, 1)."""
    # No number of the noise exceeds 1 - 2**-24, and the product with that is too far from the count to round up to it.
    return (uniform * count).long()


def _reflect(position: Tensor, size: int) -> Tensor:
    """Positions less than ``size`` outside of 0 to ``size - 1``, mirrored about the outermost ones."""
    return size - 1 - (size - 1 - position.abs()).abs()


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:  # (B, C, rows, columns)
    """Each image's pixels at rows ``(B, rows)`` and columns ``(B, columns)`` of its own."""
    batch, channels, _, width = images.shape
    place = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, place).view(batch, channels, rows.shape[1], columns.shape[1])


def _rectangle(images: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:  # (B, 1, H, W)
    """True from row ``top`` to before ``bottom``, and so with columns, each ``(B,)``; they may lie outside."""
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]


def _erase(images: Tensor, where: Tensor, fill: float) -> Tensor:  # (B, C, H, W)
    # Products, because masked_fill and where take several times as long with a mask that is broadcast.
    kept = images * ~where
    value = fill if images.is_floating_point() else round(255 * fill)
    return kept if value == 0 else kept + value * where.to(images.dtype)
