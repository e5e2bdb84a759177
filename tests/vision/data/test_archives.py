"""CIFAR, SVHN and IDX: files of the true format, written here; and files that are damaged or hostile."""

import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data import Dataset, check, read_dataset
from hypergrad.vision.data.archives import check_md5
from hypergrad.vision.data.cifar import _CIFAR10, _CIFAR100
from hypergrad.vision.data.pickles import unpickle_arrays

RNG = np.random.default_rng(0)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings (SHORT_BINSTRING, BINSTRING), which is what CIFAR's files hold."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, text: bytes) -> None:
        short = len(text) < 256
        self.write((b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text))) + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def pixels(n: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 3072), dtype=np.uint8)


def cifar_files(kind: object, binary: bool) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Small files of either set and version, with the pixels and labels of training in order."""
    version = kind.versions[binary]
    files, images, labels = {}, [], []
    for name in (*version.train, version.test):
        x, y = pixels(3), RNG.integers(0, kind.num_classes, 3).tolist()
        if binary:
            fine = np.array(y, np.uint8)[:, None]
            coarse = [fine // 5] if kind.label_bytes == 2 else []
            files[name] = np.concatenate([*coarse, fine, x], 1).tobytes()
        else:
            batch = {b"data": x, kind.labels: y, b"batch_label": b"a", b"filenames": [b"x.png"] * 3}
            files[name] = python2(batch if kind.label_bytes == 1 else {**batch, b"coarse_labels": [0] * 3})
        images.append(x)
        labels.append(y)
    names = [f"class{k}" for k in range(kind.num_classes)]
    text = "\n".join(names).encode() + b"\n\n"
    files[version.names] = text if binary else python2({kind.names: [n.encode() for n in names]})
    return files, np.concatenate(images[:-1]).reshape(-1, 3, 32, 32), np.concatenate(labels[:-1])


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("binary", [False, True], ids=["python", "binary"])
@pytest.mark.parametrize("kind", [_CIFAR10, _CIFAR100], ids=lambda kind: kind.name)
def test_cifar_from_archive_and_folder(tmp_path: Path, kind: object, binary: bool) -> None:
    version = kind.versions[binary]
    files, images, labels = cifar_files(kind, binary)
    if not binary:  # the form that must be read: no trace of Python 3
        assert b"numpy.core.multiarray" in files[version.test] and b"_codecs" not in files[version.test]
    put(tmp_path / "unpacked" / version.folder, files)
    (tmp_path / "packed").mkdir()
    archive = tar(tmp_path / "packed" / version.archive, {f"{version.folder}/{n}": c for n, c in files.items()})
    for root in (archive, archive.parent, tmp_path / "unpacked", tmp_path / "unpacked" / version.folder):
        data = read_dataset(kind.name, root, verify=False)
        assert np.array_equal(data.train.images.numpy(), images) and data.train.targets.tolist() == labels.tolist()
        assert data.classes[1] == "class1" and len(data.classes) == kind.num_classes
        assert len(data.test) == 3 and data.mean == kind.mean and data.flip
    assert read_dataset(kind.name, archive, verify=False, image_size=16).test.images.shape == (3, 3, 16, 16)
    assert not list(archive.parent.glob("*/"))  # nothing was unpacked
    with pytest.raises(InvalidInputError, match=f"{version.archive} has the MD5 sum .* published is {version.md5}"):
        read_dataset(kind.name, archive)


def test_python_3_pickles_are_read_too() -> None:
    value = {"data": pixels(2), "raw": b"\xff\x00", "labels": [1, 2]}
    for protocol in (2, 4):
        found = unpickle_arrays(pickle.dumps(value, protocol), "file")
        assert np.array_equal(found["data"], value["data"]) and found["raw"] == value["raw"]


class Hostile:
    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


HOSTILE = {
    "os.system": (pickle.dumps(Hostile(__import__("os").system, "touch pwned"), 2), "posix.system"),
    "eval": (pickle.dumps([Hostile(eval, "open('pwned', 'w')")], 4), "builtins.eval"),
    "a numpy function": (pickle.dumps(Hostile(np.save, "pwned.npy", 1), 2), "numpy.save"),
    "in an array": (pickle.dumps(np.array([Hostile(open, "pwned", "w")], dtype=object), 2), "'O8'"),
    "another codec": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "'rot13'"),
    "attribute chain": (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "numpy.ndarray.__class__"),
    "cut short": (pickle.dumps(np.arange(9), 2)[:-20], "not a whole pickle"),
    "not a pickle": (b"hello", "not a whole pickle"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, named = HOSTILE[case]
    files, _, _ = cifar_files(_CIFAR10, False)
    put(tmp_path / "data", {**files, "data_batch_3": content})
    with pytest.raises(InvalidInputError, match=f"data_batch_3 was refused.*{re.escape(named)}"):
        read_dataset("cifar10", tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def batch(**entries: object) -> bytes:
    return python2({b"data": pixels(2), b"labels": [0, 1], **{k.encode(): v for k, v in entries.items()}})


CIFAR_FAULTS = {
    "missing batch": ("data_batch_2", None, "Expected data_batch_2 in .*cs.toronto.edu.*downloads nothing"),
    "label": ("data_batch_2", batch(labels=[3, 10]), r"data_batch_2: the label 10 of image 1 .* classes 0 to 9"),
    "lengths": ("data_batch_2", batch(labels=[3]), "data_batch_2: 2 images but 1 labels"),
    "no labels": ("data_batch_2", python2({b"data": pixels(2)}), "data_batch_2 has no entry 'labels'"),
    "labels of text": ("data_batch_2", batch(labels=[b"1", b"2"]), "data_batch_2: 'labels' must be a list of integers"),
    "shape": ("data_batch_2", batch(data=pixels(2)[:, :9]), r"data_batch_2: 'data' must be .* it is uint8 \(2, 9\)"),
    "a list": ("data_batch_2", python2([1]), "data_batch_2 has no entry 'data'"),
    "class names": ("batches.meta", python2({b"label_names": [b"a"]}), "batches.meta must name 10 classes; it names 1"),
}


@pytest.mark.parametrize("fault", CIFAR_FAULTS)
def test_cifar_faults(fault: str, tmp_path: Path) -> None:
    name, content, message = CIFAR_FAULTS[fault]
    files, _, _ = cifar_files(_CIFAR10, False)
    put(tmp_path, {**files, **({} if content is None else {name: content})})
    if content is None:
        (tmp_path / name).unlink()
    with pytest.raises(InvalidInputError, match=message):
        read_dataset("cifar10", tmp_path)


def test_cifar_binary_cut_short(tmp_path: Path) -> None:
    files, _, _ = cifar_files(_CIFAR100, True)
    put(tmp_path, {**files, "train.bin": files["train.bin"][:-1]})
    with pytest.raises(InvalidInputError, match=r"train.bin must hold a whole number of images of 3074 bytes"):
        read_dataset("cifar100", tmp_path)


def test_tar_faults(tmp_path: Path) -> None:
    version = _CIFAR10.versions[0]
    files, _, _ = cifar_files(_CIFAR10, False)
    members = {f"{version.folder}/{name}": content for name, content in files.items()}
    whole = tar(tmp_path / "whole-python.tar.gz", members).read_bytes()

    def fails(content: bytes, message: str) -> None:
        (tmp_path / version.archive).write_bytes(content)
        with pytest.raises(InvalidInputError, match=message):
            read_dataset("cifar10", tmp_path, verify=False)

    fails(whole[: len(whole) // 2], "python.tar.gz cannot be read .* damaged or cut short")
    fails(whole[:5000] + bytes(500) + whole[5500:], "python.tar.gz cannot be read")
    fails(whole[:-8] + bytes(8), "python.tar.gz cannot be read .*CRC")
    fails(b"<html>not found</html>", "python.tar.gz cannot be read")
    del members[f"{version.folder}/data_batch_4"]
    fails(tar(tmp_path / "x", members).read_bytes(), "has no member cifar-10-batches-py/data_batch_4")
    for name in ("../evil", "/evil", "cifar-10-batches-py/../../evil"):
        fails(tar(tmp_path / "x", {name: b"", **members}).read_bytes(), f"refused: its member '{name}' points out")
    # A link under the name of a file is not followed.
    with tarfile.open(tmp_path / "x", "w:gz") as archive:
        link = tarfile.TarInfo(f"{version.folder}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    fails((tmp_path / "x").read_bytes(), "has no member cifar-10-batches-py/data_batch_1")


def test_checksum(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    check_md5(file, hashlib.md5(b"content").hexdigest())
    file.write_bytes(b"content!")
    with pytest.raises(InvalidInputError, match="holds 8 bytes, and is damaged.*verify=False"):
        check_md5(file, hashlib.md5(b"content").hexdigest())


def test_missing_roots(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100", "svhn", "mnist", "imagenet", "flowers102", "pets", "aircraft", "cars", "emoji"):
        with pytest.raises(InvalidInputError, match=f"{name!r} needs a root, the folder that holds .* http"):
            read_dataset(name)
        with pytest.raises(
            InvalidInputError, match=f"{tmp_path}/none of the data set {name!r} does not exist. .* http"
        ):
            read_dataset(name, tmp_path / "none")
        with pytest.raises(InvalidInputError, match=f"Expected .* in {tmp_path}. Get it from http.* downloads nothing"):
            read_dataset(name, tmp_path)
        report = check(name, tmp_path)
        assert not report.ok and report.error in str(report)


def svhn(folder: Path, part: str, labels: list[int], n: int | None = None) -> np.ndarray:
    x = RNG.integers(0, 256, (32, 32, 3, len(labels) if n is None else n), dtype=np.uint8)
    y = np.array(labels, np.uint8)[:, None]
    scipy.io.savemat(folder / f"{part}_32x32.mat", {"X": x, "y": y}, do_compression=True)
    return x


def test_svhn(tmp_path: Path) -> None:
    x = svhn(tmp_path, "train", [1, 10, 9, 2])
    svhn(tmp_path, "test", [10])
    data = read_dataset("svhn", tmp_path, verify=False)
    assert data.train.targets.tolist() == [1, 0, 9, 2] and data.test.targets.tolist() == [0] and not data.flip
    assert data.train.images.shape == (4, 3, 32, 32)
    assert all(data.train.images[n, c, 3, 5] == x[3, 5, c, n] for n in range(4) for c in range(3))
    with pytest.raises(InvalidInputError, match="train_32x32.mat has the MD5 sum"):
        read_dataset("svhn", tmp_path)


def test_svhn_faults(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_dataset("svhn", tmp_path, verify=False)

    file = tmp_path / "train_32x32.mat"
    svhn(tmp_path, "train", [1, 11])
    fails(r"train_32x32.mat \(whose labels 1 to 10 .*the label 10 of image 1")
    svhn(tmp_path, "train", [1, 0])
    fails("the label -1 of image 1")
    svhn(tmp_path, "train", [1, 2, 3], n=2)
    fails("train_32x32.mat: 2 images but 3 labels")
    scipy.io.savemat(file, {"X": np.zeros((4, 4))})
    fails("train_32x32.mat has no variable 'y'")
    scipy.io.savemat(file, {"X": np.zeros((4, 4)), "y": [1]})
    fails(r"X must be bytes of shape \(32, 32, 3, N\)")
    svhn(tmp_path, "train", [1, 2])
    file.write_bytes(file.read_bytes()[:3000])
    fails("train_32x32.mat cannot be read as a MATLAB file")
    file.write_bytes(b"<html>")
    fails("train_32x32.mat cannot be read as a MATLAB file")


def idx(array: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = RNG.integers(0, 256, (6, 5, 5), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 1, 0, 2], np.uint8)
IDX = {
    "train-images-idx3-ubyte": idx(IMAGES),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(IMAGES[:2]),
    "t10k-labels-idx1-ubyte": idx(LABELS[:2]),
}


def read_mnist(folder: Path) -> Dataset:
    return read_dataset("mnist", folder)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist(tmp_path: Path, packed: bool) -> None:
    put(tmp_path, {f"{n}.gz": gzip.compress(c) for n, c in IDX.items()} if packed else IDX)
    data = read_mnist(tmp_path)
    assert np.array_equal(data.train.images[:, 0].numpy(), IMAGES) and data.train.targets.tolist() == LABELS.tolist()
    assert data.classes == ("0", "1", "2") and len(data.test) == 2 and not data.flip
    assert data.mean == (pytest.approx(IMAGES.mean() / 255, abs=6e-5),)
    assert read_dataset("mnist", tmp_path, flip=True).flip
    assert "train: 6 images, 2 a class" in str(check("mnist", tmp_path))


IDX_FAULTS = {
    "cut gzip": ("train-images-idx3-ubyte.gz", gzip.compress(IDX["train-images-idx3-ubyte"])[:-12], "cannot be read"),
    "no gzip": ("train-images-idx3-ubyte.gz", b"<html>", "cannot be read"),
    "cut": ("train-images-idx3-ubyte", IDX["train-images-idx3-ubyte"][:-1], "must hold 150 bytes.*it holds 149"),
    "too long": ("train-images-idx3-ubyte", IDX["train-images-idx3-ubyte"] + b"x", "must hold 150 bytes.*holds 151"),
    "floats": ("train-images-idx3-ubyte", b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),
    "empty file": ("train-images-idx3-ubyte", b"", "starts with nothing"),
    "header": ("train-images-idx3-ubyte", b"\x00\x00\x08\x03\x00", "ends inside its header, after 5 bytes"),
    "no images": ("train-images-idx3-ubyte", idx(IMAGES[:0]), r"empty array, of shape \(0, 5, 5\)"),
    "labels as images": ("train-images-idx3-ubyte", idx(LABELS), "must hold images"),
    "lengths": ("train-labels-idx1-ubyte", idx(LABELS[:5]), "6 images but 5 labels"),
    "test label": ("t10k-labels-idx1-ubyte", idx(LABELS[:2] + 2), "label 4 of image 1.*classes 0 to 2"),
}


@pytest.mark.parametrize("fault", IDX_FAULTS)
def test_idx_faults(fault: str, tmp_path: Path) -> None:
    name, content, message = IDX_FAULTS[fault]
    plain = name.removesuffix(".gz")
    put(tmp_path, {**{n: c for n, c in IDX.items() if n != plain}, name: content})
    with pytest.raises(InvalidInputError, match=f"{plain}.*{message}"):
        read_mnist(tmp_path)


def test_fashion_mnist_refuses_an_eleventh_class(tmp_path: Path) -> None:
    put(tmp_path, {**IDX, "train-labels-idx1-ubyte": idx(LABELS + 8)})
    with pytest.raises(InvalidInputError, match="train-labels-idx1-ubyte: the label 10 of image 1"):
        read_dataset("fashion-mnist", tmp_path)
    assert torch.equal(read_dataset("mnist", tmp_path).train.targets, torch.from_numpy(LABELS + 8).long())
