"""MNIST and sets in its format: IDX files, plain or gzipped."""

import gzip
import math
import os
import struct
from pathlib import Path

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.files import open_regular, short
from hypergrad.vision.data.archives import LARGEST, Bounded
from hypergrad.vision.data.base import (
    Dataset,
    ImageSet,
    channel_statistics,
    check_labels,
    check_lengths,
    missing,
    need_root,
)
from hypergrad.vision.data.splits import resize_images

#: Where Debian's package puts the set.
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_HOME = "https://github.com/zalandoresearch/fashion-mnist (or: apt-get install dataset-fashion-mnist)"
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MNIST_HOME = "http://yann.lecun.com/exdb/mnist/"


def read_idx(path: Path) -> Tensor:
    """An array of unsigned bytes from an IDX file, gzipped if its name ends in ``.gz``.

    The format: ``0 0 8 rank``, one big-endian uint32 a dimension, then the bytes (described on MNIST's home page).

    Raises:
        InvalidInputError: the file cannot be read, is cut short or too long, or is not in this format.
    """
    try:
        with open_regular(path) as file:
            stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            content = Bounded(stream, os.fstat(file.fileno()).st_size).read_all(LARGEST)
    except Exception as error:  # a damaged file raises one of several errors
        raise InvalidInputError(f"{path} cannot be read ({error}); it is damaged or cut short. Get it anew.") from error
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        start = content[:4].hex() or "nothing"
        raise InvalidInputError(f"{path} is not an IDX file of unsigned bytes: it starts with {start}. Get it anew.")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise InvalidInputError(f"{path} ends inside its header, after {len(content)} bytes. Get it anew.")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise InvalidInputError(
            f"{path} must hold {math.prod(shape)} bytes for its shape {short(shape)}; it holds "
            f"{len(content) - header}. It is damaged or cut short: get it anew."
        )
    if 0 in shape or not shape:
        raise InvalidInputError(f"{path} holds an empty array, of shape {short(shape)}. Get it anew.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)


def read_fashion_mnist(root: Path | None, *, image_size: int | None) -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 grey 28 x 28 pictures of clothes, 10 classes (Xiao et al., arXiv 1708.07747).

    Args:
        root: folder of the four IDX files; None is where Debian's package puts them.
        image_size: pixels a side; None is 28.

    Raises:
        InvalidInputError: a file is missing or damaged.
    """
    folder = need_root("fashion-mnist", root or FASHION_FOLDER, "train-images-idx3-ubyte.gz", FASHION_HOME)
    train, test = (_read_part(folder, prefix, len(FASHION_CLASSES), FASHION_HOME) for prefix in ("train", "t10k"))
    return Dataset(
        "fashion-mnist",
        FASHION_CLASSES,
        _sized(train, image_size),
        _sized(test, image_size),
        mean=(0.2860,),
        std=(0.3530,),
        flip=True,
    )


def read_mnist(root: Path | None, *, image_size: int | None, flip: bool = False) -> Dataset:
    """MNIST (LeCun et al., 1998) or any set of grey images in its four IDX files, plain or gzipped.

    The classes are the labels from 0 to the largest one that occurs in training, named by their number.

    Args:
        root: folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each perhaps with ``.gz``.
        image_size: pixels a side; None is that of the files.
        flip: whether mirroring keeps the class.

    Raises:
        InvalidInputError: a file is missing or damaged, or a label that training does not know.
    """
    folder = need_root("mnist", root, "train-images-idx3-ubyte.gz and its three companions", MNIST_HOME)
    train = _read_part(folder, "train", 256, MNIST_HOME)
    classes = tuple(str(label) for label in range(int(train.targets.max()) + 1))
    test = _read_part(folder, "t10k", len(classes), MNIST_HOME)
    train, test = _sized(train, image_size), _sized(test, image_size)
    mean, std = channel_statistics(train.images)
    return Dataset("mnist", classes, train, test, mean=mean, std=std, flip=flip)


def _read_part(folder: Path, prefix: str, num_classes: int, home: str) -> ImageSet:
    image_file = _find(folder, f"{prefix}-images-idx3-ubyte", home)
    label_file = _find(folder, f"{prefix}-labels-idx1-ubyte", home)
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.ndim != 1:
        raise InvalidInputError(
            f"{image_file} must hold images (N, H, W) and {label_file.name} labels (N,); they hold "
            f"{tuple(images.shape)} and {tuple(labels.shape)}. Get them anew."
        )
    check_lengths(len(images), len(labels), f"{image_file} and {label_file.name}")
    targets = labels.to(torch.int64)
    check_labels(targets, num_classes, label_file)
    return ImageSet(images[:, None], targets)


def _find(folder: Path, name: str, home: str) -> Path:
    # Some mirrors write "train-images.idx3-ubyte".
    for candidate in (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise missing(f"{name}.gz (or {name})", folder, home)


def _sized(images: ImageSet, image_size: int | None) -> ImageSet:
    return images if image_size is None else ImageSet(resize_images(images.images, image_size), images.targets)
