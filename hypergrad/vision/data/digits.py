"""scikit-learn's handwritten digits: real images that come with a package, for a first run and for tests."""

from pathlib import Path

import torch

from hypergrad.errors import InvalidInputError
from hypergrad.optional import require
from hypergrad.vision.data.base import Dataset, ImageSet, channel_statistics
from hypergrad.vision.data.splits import resize_images, stratified_split


def read_digits(root: Path | None, *, image_size: int | None, test_share: float = 0.2, split_seed: int = 0) -> Dataset:
    """1,797 grey digits of 8 x 8 pixels, from scikit-learn (Alpaydin and Kaynak, UCI repository, 1998).

    They have 17 levels, which become 0 to 255. The set has no published split in this form: a stratified part is
    drawn for testing.

    Args:
        root: must be None, the digits are part of the installed package.
        image_size: pixels a side; None is 8.
        test_share: of the images, for testing.
        split_seed: of that split.

    Raises:
        InvalidInputError: a root was given, or an impossible share.
        MissingLibraryError: scikit-learn is not installed.
    """
    if root is not None:
        raise InvalidInputError(f"The digits come with scikit-learn and have no root; got {root}. Leave it out.")
    loaded = require("sklearn.datasets", "The data set 'digits'", "vision").load_digits()
    images = (torch.tensor(loaded.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    pool = ImageSet(images, torch.tensor(loaded.target, dtype=torch.int64))
    train, test = (pool.take(rows) for rows in stratified_split(pool.targets, test_share, seed=split_seed))
    if image_size is not None:
        train = ImageSet(resize_images(train.images, image_size), train.targets)
        test = ImageSet(resize_images(test.images, image_size), test.targets)
    mean, std = channel_statistics(train.images)
    return Dataset("digits", tuple("0123456789"), train, test, mean=mean, std=std, flip=False)
