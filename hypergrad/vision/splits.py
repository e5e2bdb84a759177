"""From a data set and a configuration to the three parts that a run needs: training, validation, test."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypergrad.batches import KeyedBatches
from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive
from hypergrad.vision.config import DataConfig
from hypergrad.vision.data import read_dataset
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.data.splits import pad_images, rotated, stratified_split, stratified_subset


@dataclass(frozen=True)
class Part:
    """Some rows of an image set; memory-mapped images stay on the disk until a batch is drawn.

    Attributes:
        images: 8-bit, ``(N, C, H, W)``.
        targets: integers, ``(N,)``.
        rows: which of them, integers ``(n,)``.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """8-bit images ``(B, C, H, W)`` and targets ``(B,)`` at these positions of the part."""
        rows = self.rows[positions]
        return self.images[rows], self.targets[rows]

    def order(self, batch_size: int, seed: int) -> KeyedBatches:
        """Positions in keyed random order, in batches; batch t is a function of the seed and t."""
        return KeyedBatches(torch.arange(len(self)), batch_size=min(batch_size, len(self)), seed=seed, index=False)


@dataclass(frozen=True)
class Splits:
    """What a run trains, validates and tests on.

    Attributes:
        train, val, test: the parts; test is None where the set has none.
        classes: their names.
        mean, std: per channel, in [0, 1].
        flip: whether mirroring keeps the class.
        original_side: height and width before padding.
    """

    train: Part
    val: Part
    test: Part | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    original_side: int

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.train.images.shape[1]

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return self.train.images.shape[2]


def make_splits(config: DataConfig, seed: int, dataset: Dataset | None = None) -> Splits:
    """Read the data set, unless it is given, and split it: a pure function of its arguments.

    Validation images come from the publisher's validation set where there is one, else from the training set,
    stratified. Without a test set, none is tested.

    Raises:
        InvalidInputError, UnknownNameError: the data cannot be read or split as asked; the message says why.
    """
    if dataset is None:
        dataset = read_dataset(
            config.name, config.root, image_size=config.image_size, workers=config.workers, **config.options
        )
    side = dataset.train.images.shape[2]
    dataset = _shaped(dataset, config)
    train = _part(dataset.train)
    if dataset.val is not None:
        val = _part(dataset.val)
    else:
        _check_share(config.validation, len(train))
        kept, held_out = stratified_split(dataset.train.targets, config.validation, seed=derive(seed, "validation"))
        train, val = replace(train, rows=kept), replace(train, rows=held_out)
    if config.train_size is not None:
        train = _subset(train, config.train_size, derive(seed, "train"), "train_size")
    test = None if dataset.test is None else _part(dataset.test)
    if test is not None and config.test_size is not None:
        test = _subset(test, config.test_size, derive(seed, "test"), "test_size")
    if config.shift_degrees:
        val = _turned(val, config.shift_degrees, derive(seed, "shift", "val"))
        test = None if test is None else _turned(test, config.shift_degrees, derive(seed, "shift", "test"))
    return Splits(train, val, test, dataset.classes, dataset.mean, dataset.std, dataset.flip, side)


def _part(images: ImageSet) -> Part:
    return Part(images.images, images.targets, torch.arange(len(images)))


def _check_share(validation: float | int, available: int) -> None:
    if validation >= 1 and (validation != int(validation) or validation >= available):
        raise InvalidInputError(
            f"data.validation must be a share below 1 or a count below the {available} training images; got "
            f"{validation!r}."
        )


def _subset(part: Part, count: int, seed: int, name: str) -> Part:
    if count > len(part):
        raise InvalidInputError(f"data.{name} asks for {count} images; there are {len(part)}. Ask for fewer, or none.")
    if count == len(part):
        return part
    return replace(part, rows=part.rows[stratified_subset(part.targets[part.rows], count, seed=seed)])


def _turned(part: Part, degrees: float, seed: int) -> Part:
    return _part(rotated(ImageSet(part.images[part.rows], part.targets[part.rows]), degrees, seed=seed))


def _shaped(dataset: Dataset, config: DataConfig) -> Dataset:
    """The set with the channels and the padding that were asked for."""

    def shaped(images: ImageSet | None) -> ImageSet | None:
        if images is None:
            return None
        pixels = images.images
        if config.channels == 3 and pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        if config.pad_to is not None:
            pixels = pad_images(pixels, config.pad_to)
        return replace(images, images=pixels)

    channels = dataset.train.images.shape[1]
    if config.channels == 1 and channels == 3:
        raise InvalidInputError(
            f"data.channels=1 was asked for, and {dataset.name} holds colour images. Leave it out, or give 3."
        )
    repeats = 3 if config.channels == 3 and channels == 1 else 1
    train = shaped(dataset.train)
    assert train is not None
    return replace(
        dataset,
        train=train,
        val=shaped(dataset.val),
        test=shaped(dataset.test),
        mean=dataset.mean * repeats,
        std=dataset.std * repeats,
    )
