"""Street View House Numbers, cropped digits (format 2)."""

from pathlib import Path

import numpy as np
import torch

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data.archives import check_md5, integers, read_file, read_mat
from hypergrad.vision.data.base import Dataset, ImageSet, check_labels, check_lengths, missing, need_root
from hypergrad.vision.data.splits import resize_images

HOME = "http://ufldl.stanford.edu/housenumbers/"
MD5 = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}


def read_svhn(root: Path | None, *, image_size: int | None, verify: bool = True) -> Dataset:
    """SVHN: 73,257 + 26,032 colour photographs of house numbers, 32 x 32, 10 classes (Netzer et al., 2011).

    The 531,131 easier images of ``extra_32x32.mat`` are not read: the paper trains without them.

    Args:
        root: folder of ``train_32x32.mat`` and ``test_32x32.mat``.
        image_size: pixels a side; None is 32.
        verify: compare the files with their published MD5 sums.

    Raises:
        InvalidInputError: a file is missing or damaged.
        MissingLibraryError: scipy is not installed.
    """
    folder = need_root("svhn", root, "train_32x32.mat and test_32x32.mat", HOME)
    train, test = (_read_part(folder, part, image_size, verify) for part in ("train", "test"))
    return Dataset(
        "svhn",
        tuple("0123456789"),
        train,
        test,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        flip=False,
    )


def _read_part(folder: Path, part: str, image_size: int | None, verify: bool) -> ImageSet:
    file = folder / f"{part}_32x32.mat"
    if not file.is_file():
        raise missing(file.name, folder, HOME)
    if verify:
        check_md5(file, MD5[part])
    found = read_mat(read_file(file), file, "X", "y")
    images, labels = found["X"], found["y"]
    if images.ndim == 3:  # MATLAB drops a last dimension of 1
        images = images[..., None]
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or not np.issubdtype(labels.dtype, np.number):
        raise InvalidInputError(
            f"{file}: X must be bytes of shape (32, 32, 3, N) and y numbers; they are {images.dtype} {images.shape} "
            f"and {labels.dtype}. Get it anew."
        )
    targets = torch.tensor(integers(labels, file), dtype=torch.int64)
    check_lengths(images.shape[3], len(targets), file)
    check_labels(targets - 1, 10, f"{file} (whose labels 1 to 10 count as 0 to 9 here)")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    # The digit 0 has the label 10.
    return ImageSet(pixels if image_size is None else resize_images(pixels, image_size), targets % 10)
