"""What every reader gives: 8-bit images with class numbers, in up to three parts, and what is known about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive, generator

#: ImageNet's channel means and deviations, usual for photographs of every kind (He et al., CVPR 2016, and after).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSet:
    """Images and their classes.

    Attributes:
        images: 8-bit (``uint8``), ``(N, C, H, W)``, in memory or a memory-mapped file; never written to.
        targets: class numbers, ``int64``, ``(N,)``.

    Raises:
        InvalidInputError: another shape or dtype, or different lengths.
    """

    images: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise InvalidInputError(
                f"The images of a set must be uint8 (N, C, H, W); got {self.images.dtype} {tuple(self.images.shape)}."
            )
        if self.targets.shape != self.images.shape[:1] or self.targets.dtype != torch.int64:
            raise InvalidInputError(
                f"The targets of {len(self.images)} images must be int64 ({len(self.images)},); got "
                f"{self.targets.dtype} {tuple(self.targets.shape)}."
            )

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Tensor) -> "ImageSet":
        """The images at ``rows``, in that order, copied into memory.

        A large part of a memory-mapped set is better kept as its row numbers, and ``images[rows]`` taken by batches.
        """
        return ImageSet(self.images[rows], self.targets[rows])


@dataclass(frozen=True)
class Dataset:
    """A data set of images with classes.

    Attributes:
        name: under which it was read.
        classes: their names; target ``k`` is ``classes[k]``.
        train: the training images.
        test: the published test images, if there are any.
        val: the publisher's validation images, if there are any.
        mean, std: per channel, of pixels in [0, 1].
        flip: whether mirroring left-right keeps the class (not for digits).
        broken: files that could not be decoded and were left out, because that was asked for.

    Raises:
        InvalidInputError: a target that is not a class, no training image, parts of different shapes, or a mean or
            deviation that does not fit the channels.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet | None = None
    val: ImageSet | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flip: bool = True
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.train):
            raise InvalidInputError(f"The data set {self.name!r} has no training image.")
        shape = self.train.images.shape[1:]
        for part, images in self.parts().items():
            if images.images.shape[1:] != shape:
                raise InvalidInputError(
                    f"The images of one data set have one shape; {self.name!r} has {tuple(shape)} (train) and "
                    f"{tuple(images.images.shape[1:])} ({part})."
                )
            check_labels(images.targets, len(self.classes), f"{self.name}, {part}")
        if len(self.mean) != shape[0] or len(self.std) != shape[0] or not all(s > 0 for s in self.std):
            raise InvalidInputError(
                f"The data set {self.name!r} has {shape[0]} channels and needs as many means and positive deviations; "
                f"got {self.mean} and {self.std}."
            )

    def parts(self) -> dict[str, ImageSet]:
        """The parts that are there, by name: ``train``, ``val``, ``test``."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}


class Reader(Protocol):
    """What reads a data set; it may have further options, which ``read_dataset`` passes on by name."""

    def __call__(self, root: Path | None, *, image_size: int | None) -> Dataset:
        """The data set under ``root``, its images ``image_size`` pixels a side (None: the set's own size)."""
        ...


def check_labels(targets: Tensor, num_classes: int, where: object) -> None:
    """Refuse class numbers outside of ``0 .. num_classes - 1``; ``where`` is the file or set for the message.

    Raises:
        InvalidInputError: one is outside; the message says which.
    """
    wrong = ((targets < 0) | (targets >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInputError(
            f"{where}: the label {int(targets[row])} of image {row} (counted from 0) is out of range; there are the "
            f"classes 0 to {num_classes - 1}. {len(wrong)} of {len(targets)} labels are wrong: get the file anew."
        )


def check_lengths(images: int, labels: int, where: object) -> None:
    """Refuse images and labels of different number; ``where`` is the file or folder for the message.

    Raises:
        InvalidInputError: they differ.
    """
    if images != labels:
        raise InvalidInputError(
            f"{where}: {images} images but {labels} labels. They do not belong together: get the files anew."
        )


def need_root(name: str, root: Path | None, holds: str, home: str) -> Path:
    """The folder (or file) of a set that has no usual place.

    Args:
        name: of the set.
        root: as given.
        holds: what must be in it, for the message.
        home: the set's official page.

    Raises:
        InvalidInputError: none was given, or there is none.
    """
    if root is None:
        raise InvalidInputError(
            f"The data set {name!r} needs a root, the folder that holds {holds}. Get it from {home}; the toolkit "
            "downloads nothing."
        )
    if not root.exists():
        raise InvalidInputError(
            f"The root {root} of the data set {name!r} does not exist. It must hold {holds}; get it from {home}; the "
            "toolkit downloads nothing."
        )
    return root


def missing(file: str, root: Path, home: str) -> InvalidInputError:
    """The error for a file that is not where it should be."""
    return InvalidInputError(f"Expected {file} in {root}. Get it from {home}; the toolkit downloads nothing.")


def channel_statistics(
    images: Tensor, *, limit: int = 10_000, seed: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of [0, 1].

    Args:
        images: 8-bit, ``(N, C, H, W)``.
        limit: at most so many images are looked at, drawn at random by key.
        seed: of the draw.

    Returns:
        Two tuples of C numbers. A channel that does not vary gets the deviation 1, so that it can be divided by.
    """
    rows = torch.arange(len(images))
    if len(images) > limit:
        rows = torch.randperm(len(images), generator=generator(derive(seed, "statistics")))[:limit].sort().values
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in rows.split(256):
        x = images[chunk].double() / 255
        total += x.sum((0, 2, 3))
        squares += (x * x).sum((0, 2, 3))
    count = len(rows) * images.shape[2] * images.shape[3]
    mean = total / count
    std = (squares / count - mean * mean).clamp(min=0).sqrt()
    std[std < 1e-6] = 1.0
    return _rounded(mean.tolist()), _rounded(std.tolist())


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    """Four decimals, as such numbers are published."""
    return tuple(round(v, 4) for v in values)
