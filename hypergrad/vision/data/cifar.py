"""CIFAR-10 and CIFAR-100, from the archives as published (python or binary version) or from their unpacked folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data.archives import check_md5, read_file, read_members
from hypergrad.vision.data.base import Dataset, ImageSet, check_labels, check_lengths, missing, need_root
from hypergrad.vision.data.pickles import unpickle_arrays
from hypergrad.vision.data.splits import resize_images

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Version:
    """One of the two published versions of a set."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    binary: bool


@dataclass(frozen=True)
class _Set:
    """What differs between the two sets; the label is the last of the bytes before an image."""

    name: str
    num_classes: int
    versions: tuple[_Version, _Version]
    labels: bytes
    names: bytes
    label_bytes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR10 = _Set(
    name="cifar10",
    num_classes=10,
    versions=(
        _Version(
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test="test_batch",
            names="batches.meta",
            binary=False,
        ),
        _Version(
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin",
            names="batches.meta.txt",
            binary=True,
        ),
    ),
    labels=b"labels",
    names=b"label_names",
    label_bytes=1,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Set(
    name="cifar100",
    num_classes=100,
    versions=(
        _Version(
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            names="meta",
            binary=False,
        ),
        _Version(
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            binary=True,
        ),
    ),
    labels=b"fine_labels",
    names=b"fine_label_names",
    label_bytes=2,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def read_cifar10(root: Path | None, *, image_size: int | None, verify: bool = True) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 colour photographs of 32 x 32 pixels, 10 classes (Krizhevsky, 2009).

    Args:
        root: the archive (python or binary version), its unpacked folder, or the folder that either lies in. Pickles
            are read by an unpickler that admits arrays only; archives are not unpacked.
        image_size: pixels a side; None is 32.
        verify: compare an archive with its published MD5 sum.

    Raises:
        InvalidInputError: a file is missing, damaged or not what it should be.
    """
    return _read(_CIFAR10, root, image_size, verify)


def read_cifar100(root: Path | None, *, image_size: int | None, verify: bool = True) -> Dataset:
    """CIFAR-100: 50,000 + 10,000 colour photographs of 32 x 32 pixels, 100 fine classes (Krizhevsky, 2009).

    Args:
        root: the archive (python or binary version), its unpacked folder, or the folder that either lies in.
        image_size: pixels a side; None is 32.
        verify: compare an archive with its published MD5 sum.

    Raises:
        InvalidInputError: a file is missing, damaged or not what it should be.
    """
    return _read(_CIFAR100, root, image_size, verify)


def _read(kind: _Set, root: Path | None, image_size: int | None, verify: bool) -> Dataset:
    root = need_root(kind.name, root, f"{kind.versions[0].archive} (or what it unpacks to)", HOME)
    version, place, files = _files(kind, root, verify)
    parts = []
    for names in (version.train, (version.test,)):
        read = [(_binary if version.binary else _pickled)(kind, files[name], place / name) for name in names]
        images = torch.cat([images for images, _ in read])
        if image_size is not None:
            images = resize_images(images, image_size)
        parts.append(ImageSet(images, torch.cat([targets for _, targets in read])))
    classes = _class_names(kind, version, files[version.names], place / version.names)
    return Dataset(kind.name, classes, parts[0], parts[1], mean=kind.mean, std=kind.std)


def _files(kind: _Set, root: Path, verify: bool) -> tuple[_Version, Path, Mapping[str, bytes]]:
    """The version that is there, where it is (for messages), and the contents of its files."""
    for version in kind.versions:
        for folder in (root / version.folder, root):
            if (folder / version.test).is_file() or (folder / version.names).is_file():
                return version, folder, _from_folder(version, folder)
        archive = root if root.is_file() and ("binary" in root.name) == version.binary else root / version.archive
        if archive.is_file():
            if verify:
                check_md5(archive, version.md5)
            return version, archive, _from_archive(version, archive)
    raise missing(f"{kind.versions[0].archive} or {kind.versions[1].archive}", root, HOME)


def _from_folder(version: _Version, folder: Path) -> dict[str, bytes]:
    names = (*version.train, version.test, version.names)
    for name in names:
        if not (folder / name).is_file():
            raise missing(name, folder, HOME)
    return {name: read_file(folder / name) for name in names}


def _from_archive(version: _Version, archive: Path) -> dict[str, bytes]:
    names = (*version.train, version.test, version.names)
    found = read_members(archive, {f"{version.folder}/{name}" for name in names})
    for name in names:
        if f"{version.folder}/{name}" not in found:
            raise InvalidInputError(
                f"{archive} has no member {version.folder}/{name}: it is incomplete, or another archive. Get it anew "
                f"from {HOME}."
            )
    return {name: found[f"{version.folder}/{name}"] for name in names}


def _pickled(kind: _Set, content: bytes, file: Path) -> tuple[Tensor, Tensor]:
    found = unpickle_arrays(content, file)
    data = _entry(found, b"data", file)
    labels = _entry(found, kind.labels, file)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        shown = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InvalidInputError(f"{file}: 'data' must be bytes of shape (N, {PIXELS}); it is {shown}. Get it anew.")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 60 for label in labels):
        raise InvalidInputError(f"{file}: {kind.labels.decode()!r} must be a list of integers. Get it anew.")
    return _checked(kind, np.ascontiguousarray(data), np.array(labels, dtype=np.int64), file)


def _binary(kind: _Set, content: bytes, file: Path) -> tuple[Tensor, Tensor]:
    size = kind.label_bytes + PIXELS
    if not content or len(content) % size:
        raise InvalidInputError(
            f"{file} must hold a whole number of images of {size} bytes; it holds {len(content)} bytes. It is cut "
            "short or another file: get it anew."
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    labels = rows[:, kind.label_bytes - 1].astype(np.int64)
    return _checked(kind, rows[:, kind.label_bytes :].copy(), labels, file)


def _checked(kind: _Set, pixels: np.ndarray, labels: np.ndarray, file: Path) -> tuple[Tensor, Tensor]:
    check_lengths(len(pixels), len(labels), file)
    targets = torch.from_numpy(labels)
    check_labels(targets, kind.num_classes, file)
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), targets


def _class_names(kind: _Set, version: _Version, content: bytes, file: Path) -> tuple[str, ...]:
    if version.binary:
        names = content.decode("utf-8", "replace").split()
    else:
        entry = _entry(unpickle_arrays(content, file), kind.names, file)
        entry = entry if isinstance(entry, list) else []
        texts = [name for name in entry if isinstance(name, bytes | str)]
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in texts]
    if len(names) != kind.num_classes:
        raise InvalidInputError(f"{file} must name {kind.num_classes} classes; it names {len(names)}. Get it anew.")
    return tuple(names)


def _entry(found: object, key: bytes, file: Path) -> object:
    """An entry of a dictionary whose keys are bytes (pickled by Python 2) or text."""
    if isinstance(found, dict):
        for name in (key, key.decode()):
            if name in found:
                return found[name]
    raise InvalidInputError(f"{file} has no entry {key.decode()!r}: it is another file. Get it anew from {HOME}.")
