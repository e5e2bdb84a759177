import gzip
import struct
from pathlib import Path

import pytest
import torch
from _images import DataError, load, read_fashion_mnist, read_idx, rotate


def write_idx(path: Path, values: torch.Tensor) -> None:
    """The published format: gzip of 0 0 8 rank, big-endian sizes, bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.to(torch.uint8).numpy().tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for prefix, n in (("train", 40), ("t10k", 20)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", torch.randint(0, 256, (n, 28, 28), generator=generator))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", torch.arange(n) % 10)
    return tmp_path


def test_reads_what_was_written(tmp_path: Path) -> None:
    values = torch.arange(300).reshape(3, 20, 5) % 256
    write_idx(tmp_path / "a.gz", values)
    assert torch.equal(read_idx(tmp_path / "a.gz").long(), values)


def test_fashion_mnist_becomes_grey_images_in_unit_range(folder: Path) -> None:
    train, test = read_fashion_mnist(folder)
    assert train.images.shape == (40, 1, 28, 28) and test.images.shape == (20, 1, 28, 28)
    assert train.images.dtype == torch.float32 and float(train.images.min()) >= 0 and float(train.images.max()) == 1
    assert torch.equal(test.labels, torch.arange(20) % 10)


def test_a_missing_file_names_the_one_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*apt-get install -y dataset-fashion-mnist.*--data-dir"):
        load("fashion-mnist", 0, (1, 1, 1), directory=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip at all", "cannot be read as gzip"),
        (gzip.compress(b"\x00" * 100)[:-20], "cannot be read as gzip"),
        (gzip.compress(b""), "not an IDX file"),
        (gzip.compress(b"\x00\x00\x0d\x01" + b"\x00" * 8), "not an IDX file of unsigned bytes"),
        (gzip.compress(b"\x00\x00\x08\x03\x00\x00"), "ends inside its header"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc"), "should hold 5 bytes.*holds 3"),
    ],
)
def test_damaged_files_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "a.gz")


def test_images_and_labels_must_have_one_length(folder: Path) -> None:
    write_idx(folder / "train-labels-idx1-ubyte.gz", torch.arange(39))
    with pytest.raises(DataError, match="40 train images but 39 labels"):
        read_fashion_mnist(folder)


def test_too_few_images_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"40 images where 41 are needed"):
        load("fashion-mnist", 0, (31, 10, 5), directory=folder)


def test_splits_are_a_function_of_the_seed_and_do_not_overlap(folder: Path) -> None:
    first, again, other = (load("fashion-mnist", seed, (20, 10, 5), directory=folder) for seed in (3, 3, 4))
    assert torch.equal(first.train.images, again.train.images) and torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.train.images, other.train.images)
    used = torch.cat([first.train.images, first.val.images]).flatten(1)
    assert len(used.unique(dim=0)) == 30


def test_only_validation_and_test_images_are_rotated(folder: Path) -> None:
    upright = load("fashion-mnist:rotated", 0, (20, 10, 5), 0.0, folder)
    turned = load("fashion-mnist:rotated", 0, (20, 10, 5), 25.0, folder)
    assert torch.equal(upright.train.images, turned.train.images)
    for part in ("val", "test"):
        before, after = getattr(upright, part), getattr(turned, part)
        assert torch.equal(before.labels, after.labels)
        assert not torch.isclose(before.images, after.images).flatten(1).all(dim=1).any()


def test_digits_cover_the_pool_once() -> None:
    splits = load("digits", 0, (1000, 400, 397))
    assert sum(len(part.labels) for part in (splits.train, splits.val, splits.test)) == 1797
    assert splits.train.images.shape[1:] == (1, 8, 8) and float(splits.train.images.max()) == 1
    counts = sum(torch.bincount(part.labels, minlength=10) for part in (splits.train, splits.val, splits.test))
    from sklearn.datasets import load_digits

    assert torch.equal(counts, torch.bincount(torch.tensor(load_digits().target)))


def test_rotation_by_right_angles_is_exact() -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(images, torch.tensor([0.0, 90.0, 180.0]))
    for i, quarter in enumerate((0, 1, 2)):
        wanted = torch.rot90(images[i], quarter, dims=(1, 2))
        assert torch.allclose(turned[i], wanted, atol=1e-5)


def test_unknown_data() -> None:
    with pytest.raises(DataError, match=r"Unknown data 'mnist'.*digits"):
        load("mnist", 0, (1, 1, 1))
