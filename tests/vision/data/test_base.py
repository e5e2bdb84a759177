"""The contract of data sets, and reading them by name."""

import re
from pathlib import Path

import pytest
import torch

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.vision.data import Dataset, ImageSet, dataset_names, describe_dataset, read_dataset, register_dataset
from hypergrad.vision.data.idx import FASHION_FOLDER


def images(n: int, channels: int = 1, side: int = 4) -> torch.Tensor:
    return torch.zeros((n, channels, side, side), dtype=torch.uint8)


def part(n: int, **shape: int) -> ImageSet:
    return ImageSet(images(n, **shape), torch.zeros(n, dtype=torch.int64))


FAULTS = {
    "float images": (lambda: ImageSet(images(2).float(), torch.zeros(2).long()), "must be uint8"),
    "three dimensions": (lambda: ImageSet(images(2)[0], torch.zeros(1).long()), r"(N, C, H, W); got torch.uint8 (1, 4"),
    "lengths": (lambda: ImageSet(images(2), torch.zeros(3).long()), "targets of 2 images must be int64 (2,)"),
    "float targets": (lambda: ImageSet(images(2), torch.zeros(2)), "got torch.float32"),
    "empty": (lambda: Dataset("x", ("a",), part(0), mean=(0.0,), std=(1.0,)), "'x' has no training image"),
    "label": (
        lambda: Dataset("x", ("a",), ImageSet(images(2), torch.tensor([0, 1])), mean=(0.0,), std=(1.0,)),
        "x, train: the label 1 of image 1 (counted from 0) is out of range; there are the classes 0 to 0",
    ),
    "shapes": (
        lambda: Dataset("x", ("a",), part(2), part(2, side=5), mean=(0.0,), std=(1.0,)),
        "'x' has (1, 4, 4) (train) and (1, 5, 5) (test)",
    ),
    "mean": (lambda: Dataset("x", ("a",), part(2), mean=(0.0,) * 3, std=(1.0,) * 3), "has 1 channels"),
    "deviation": (lambda: Dataset("x", ("a",), part(2), mean=(0.0,), std=(0.0,)), "positive deviations"),
    "size": (lambda: read_dataset("digits", image_size=0), "image_size must be a whole number of pixels"),
    "workers": (lambda: read_dataset("digits", workers=-1), "workers must be a whole number of processes"),
    "option": (lambda: read_dataset("mnist", ".", flipp=True), "no option 'flipp' (got flipp=True). Did you mean"),
    "digits root": (lambda: read_dataset("digits", "somewhere"), "digits come with scikit-learn and have no root"),
    "digits share": (lambda: read_dataset("digits", test_share=0.0), "share in (0, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str) -> None:
    call, message = FAULTS[fault]
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call()


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="Unknown data set 'cifar-10'. Did you mean 'cifar10'"):
        read_dataset("cifar-10")


def test_every_name_has_a_reader_with_a_description() -> None:
    for name in dataset_names():
        assert describe_dataset(name).endswith(".")


def test_a_reader_of_ones_own() -> None:
    @register_dataset("test-own")
    def read_own(root: Path | None, *, image_size: int | None, workers: int, shade: int = 0) -> Dataset:
        assert root == Path("here") and workers == 3
        return Dataset("test-own", ("a",), part(shade, side=image_size or 4), mean=(0.0,), std=(1.0,))

    found = read_dataset("test-own", "here", image_size=6, workers=3, shade=2)
    assert len(found.train) == 2 and found.train.images.shape[2] == 6 and "test-own" in dataset_names()
    with pytest.raises(InvalidInputError, match="already taken"):
        register_dataset("test-own")(lambda root, image_size: None)
    with pytest.raises(InvalidInputError, match="must take root and image_size"):
        register_dataset("test-other")(lambda path: None)


def test_digits() -> None:
    data = read_dataset("digits", workers=1)  # which it has no use for
    everything = torch.cat([data.train.images, data.test.images])
    assert everything.shape == (1797, 1, 8, 8) and len(data.test) == 359
    assert set(everything.unique().tolist()) == {round(k * 255 / 16) for k in range(17)}
    assert torch.bincount(data.train.targets).min() > 0.8 * 174 - 1 and not data.flip
    assert read_dataset("digits", image_size=16).test.images.shape == (359, 1, 16, 16)
    assert not read_dataset("digits", split_seed=1).test.images.equal(data.test.images)


@pytest.mark.skipif(not FASHION_FOLDER.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_installed() -> None:
    data = read_dataset("fashion-mnist")
    assert [torch.bincount(p.targets).tolist() for p in (data.train, data.test)] == [[6000] * 10, [1000] * 10]
    pixels = data.train.images[::6].double() / 255
    assert data.mean == (pytest.approx(float(pixels.mean()), abs=2e-3),)
    assert data.std == (pytest.approx(float(pixels.std()), abs=2e-3),)
