"""Grey images for the studies: scikit-learn's digits, Fashion-MNIST from Debian's package, and its rotated variant."""

import gzip
import math
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import hypergrad

DATASETS = ("digits", "fashion-mnist", "fashion-mnist:rotated")
FASHION_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
INSTALL = "apt-get update && apt-get install -y dataset-fashion-mnist"


class DataError(Exception):
    """Images cannot be had; the message says which file, and what to do."""


@dataclass(frozen=True)
class Part:
    """Images ``(n, 1, side, side)`` in [0, 1] and labels ``(n,)``."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> "Part":
        """The images at ``rows``, in that order."""
        return Part(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images of one seed."""

    train: Part
    val: Part
    test: Part


def read_idx(path: Path) -> Tensor:
    """An array in the gzipped IDX format: ``0 0 type rank``, one big-endian uint32 a dimension, then the bytes.

    Only unsigned bytes (type 8) are read, which is what image sets in this format hold.

    Raises:
        DataError: the file is missing, cut short, or not in this format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Install it with: {INSTALL} (or pass --data-dir DIR).") from None
    except (OSError, EOFError) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read as gzip ({error}). Install it anew: {INSTALL}.") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex() or 'nothing'}."
        )
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path} ends inside its header: {len(content)} bytes, {start} needed.")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} should hold {math.prod(shape)} bytes for shape {shape}; it holds {len(content) - start}."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def read_fashion_mnist(directory: Path) -> tuple[Part, Part]:
    """The 60,000 training and 10,000 test images (or however many the files hold)."""
    parts = []
    for prefix in ("train", "t10k"):
        images = read_idx(directory / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(directory / f"{prefix}-labels-idx1-ubyte.gz")
        if len(images) != len(labels):
            raise DataError(f"{directory}: {len(images)} {prefix} images but {len(labels)} labels.")
        parts.append(Part(images[:, None].float() / 255, labels.long()))
    return parts[0], parts[1]


def read_digits() -> Part:
    """scikit-learn's 1,797 digits, 8x8 (part of the installed package, nothing is downloaded)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(f"The digits need scikit-learn: {sys.executable} -m pip install scikit-learn") from None
    digits = load_digits()
    return Part(
        torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target, dtype=torch.int64)
    )


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image ``(n, 1, h, w)`` about its centre by ``degrees`` ``(n,)``, bilinear, black outside.

    Written here, and not taken from the operations whose discovery is the experiment.
    """
    angle = degrees * math.pi / 180
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _permutation(n: int, seed: int, stream: str) -> Tensor:
    return torch.randperm(n, generator=hypergrad.keys.generator(hypergrad.keys.derive(seed, stream)))


def _check_size(name: str, available: int, wanted: int) -> None:
    if available < wanted:
        raise DataError(f"{name} has {available} images where {wanted} are needed: the files are not the whole set.")


def load(
    data: str, seed: int, sizes: tuple[int, int, int], max_angle: float = 0.0, directory: Path = FASHION_DIRECTORY
) -> Splits:
    """The splits of one seed: a pure function of the arguments.

    Args:
        data: one of :data:`DATASETS`.
        seed: draws which images go where, and the angles.
        sizes: training, validation, test. Digits come from one pool; for Fashion-MNIST the test images come from
            the published test set and the others from the published training set.
        max_angle: validation and test images are rotated by an angle uniform in ``+/- max_angle`` degrees.
        directory: of the Fashion-MNIST files.
    """
    train_size, val_size, test_size = sizes
    if data == "digits":
        pool = test_pool = read_digits()
        order = test_order = _permutation(len(pool.labels), seed, "split")
        _check_size(data, len(order), sum(sizes))
        test_rows = test_order[train_size + val_size : sum(sizes)]
    elif data in DATASETS:
        pool, test_pool = read_fashion_mnist(directory)
        order = _permutation(len(pool.labels), seed, "split")
        test_order = _permutation(len(test_pool.labels), seed, "split-test")
        _check_size(f"{data} (training)", len(order), train_size + val_size)
        _check_size(f"{data} (test)", len(test_order), test_size)
        test_rows = test_order[:test_size]
    else:
        raise DataError(f"Unknown data {data!r}; choose one of: {', '.join(DATASETS)}.")
    train = pool.take(order[:train_size])
    val = pool.take(order[train_size : train_size + val_size])
    test = test_pool.take(test_rows)
    if max_angle:
        val, test = (
            Part(rotate(part.images, _angles(len(part.labels), max_angle, seed, name)), part.labels)
            for part, name in ((val, "angles-val"), (test, "angles-test"))
        )
    return Splits(train, val, test)


def _angles(n: int, max_angle: float, seed: int, stream: str) -> Tensor:
    uniform = torch.rand(n, generator=hypergrad.keys.generator(hypergrad.keys.derive(seed, stream)))
    return (2 * uniform - 1) * max_angle
