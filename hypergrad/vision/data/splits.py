"""Parts of a set, drawn by key and by class; and sets of another size, number of channels, or angle."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive, generator, uniform
from hypergrad.vision.data.base import ImageSet

#: Images that are worked on at a time, so that floats of a whole set are never held.
CHUNK = 512


def stratified_split(targets: Tensor, fraction_or_count: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a part in which each class has its share, drawn by key.

    The shares are rounded by largest remainder, so they sum to the number asked for. At least one image of each class
    stays: the only image of a class is never held out.

    Args:
        targets: class numbers, ``(N,)``.
        fraction_or_count: below 1 a share of the images, rounded and at least one; else how many.
        seed: of the draw; the result is a function of the arguments alone.

    Returns:
        The rows that stay and those that are held out, each in ascending order.

    Raises:
        InvalidInputError: a share or count that is impossible.
    """
    counts = _class_counts(targets)
    limit = int((counts - 1).clamp(min=0).sum())
    value = fraction_or_count
    if isinstance(value, bool) or not value > 0 or (value >= 1 and value != int(value)):
        raise InvalidInputError(f"Hold out a share in (0, 1) or a whole number of images; got {value!r}.")
    wanted = int(value) if value >= 1 else max(1, round(value * len(targets)))
    if wanted > limit:
        raise InvalidInputError(
            f"{wanted} of {len(targets)} images cannot be held out (asked for {value!r}): one of each class stays, "
            f"which leaves {limit}. Hold out fewer."
        )
    held_out = _draw(targets, _shares(counts, wanted, (counts - 1).clamp(min=0)), derive(seed, "split"))
    return _others(len(targets), held_out), held_out


def stratified_subset(targets: Tensor, count: int, *, seed: int) -> Tensor:
    """Rows of a subset in which each class has its share, drawn by key, in ascending order.

    Args:
        targets: class numbers, ``(N,)``.
        count: how many, 1 to N; shares are rounded by largest remainder.
        seed: of the draw.

    Raises:
        InvalidInputError: an impossible count.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(targets):
        raise InvalidInputError(f"A subset has 1 to {len(targets)} images, as many as there are; got {count!r}.")
    counts = _class_counts(targets)
    return _draw(targets, _shares(counts, count, counts), derive(seed, "subset"))


def _class_counts(targets: Tensor) -> Tensor:
    if targets.ndim != 1 or not len(targets) or targets.dtype.is_floating_point or int(targets.min()) < 0:
        raise InvalidInputError(
            f"targets must be class numbers, integers of at least 0, of shape (N,); got {targets.dtype} "
            f"{tuple(targets.shape)}."
        )
    return torch.bincount(targets)


def _shares(counts: Tensor, total: int, limits: Tensor) -> Tensor:
    """How many of each class: in proportion to the counts, by largest remainder, within the limits.

    Exact in integers. What a limit cuts off goes to the largest remainders that have room; equal ones in the order
    of the classes.
    """
    size = int(counts.sum())
    shares = counts * total // size  # below each count, so within the limits, unless all images are asked for
    remainder = counts * total % size
    while (left := total - int(shares.sum())) > 0:
        open_classes = (shares < limits).nonzero().flatten()
        order = open_classes[remainder[open_classes].argsort(descending=True, stable=True)]
        chosen = order[:left]
        shares[chosen] += 1
        remainder[chosen] -= size
    return shares


def _draw(targets: Tensor, shares: Tensor, key: int) -> Tensor:
    chosen = []
    for label in shares.nonzero().flatten().tolist():
        rows = (targets == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator(derive(key, label)))
        chosen.append(rows[order[: int(shares[label])]])
    return torch.cat(chosen).sort().values


def _others(size: int, rows: Tensor) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[rows] = False
    return mask.nonzero().flatten()


def resize_images(images: Tensor, side: int) -> Tensor:
    """8-bit images ``(N, C, side, side)``, bilinear and antialiased, rounded; the same ones if they have that size.

    Raises:
        InvalidInputError: an impossible size.
    """
    _check_side(side)
    if images.shape[2:] == (side, side):
        return images
    result = images.new_empty((len(images), images.shape[1], side, side))
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK].float()
        resized = F.interpolate(part, size=(side, side), mode="bilinear", antialias=True)
        result[start : start + CHUNK] = _levels(resized)
    return result


def pad_images(images: Tensor, side: int) -> Tensor:
    """8-bit images ``(N, C, side, side)`` with black around the given ones (28 to 32 pixels: 2 on each side).

    Where the difference is odd, the right and the lower border are one pixel wider.

    Raises:
        InvalidInputError: a size below that of the images.
    """
    _check_side(side)
    height, width = images.shape[2:]
    if side < max(height, width):
        raise InvalidInputError(f"Images of {height} x {width} cannot be padded to {side} pixels. Resize them.")
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(images, (left, side - width - left, top, side - height - top))


def to_channels(images: Tensor, channels: int) -> Tensor:
    """The images with that many channels: grey ones are repeated (a view, without a copy).

    Raises:
        InvalidInputError: colour images, and another number of channels.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] != 1 or channels < 1:
        raise InvalidInputError(f"Only grey images can be repeated; got {images.shape[1]} channels for {channels}.")
    return images.expand(-1, channels, -1, -1)


def rotated(images: ImageSet, degrees: float, *, seed: int) -> ImageSet:
    """The set with each image turned about its centre by an angle uniform in +/- ``degrees``; black outside.

    A shift that is known, for the study in which a policy must find it. Bilinear, and written apart from the
    operations whose discovery is the experiment.

    Args:
        images: the set.
        degrees: the largest angle, 0 to 180.
        seed: of the angles; an image's angle depends on the seed and its row.

    Raises:
        InvalidInputError: an angle outside of 0 to 180.
    """
    if not 0 <= degrees <= 180:
        raise InvalidInputError(f"The largest angle must be 0 to 180 degrees; got {degrees!r}.")
    height, width = images.images.shape[2:]
    angles = (2 * uniform(derive(seed, "angles"), torch.arange(len(images)), 1)[:, 0] - 1) * degrees * math.pi / 180
    result = torch.empty_like(images.images)
    for start in range(0, len(images), CHUNK):
        angle = angles[start : start + CHUNK]
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # In coordinates that run from -1 to 1 along either side, hence the ratio where the sides differ.
        rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
        pixels = images.images[start : start + CHUNK].float()
        grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
        turned = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result[start : start + CHUNK] = _levels(turned)
    return ImageSet(result, images.targets)


def _levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _check_side(side: int) -> None:
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise InvalidInputError(f"The size of images must be a whole number of pixels, at least 1; got {side!r}.")
