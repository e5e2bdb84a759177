"""Sets of image files in the layouts of their publishers, written here; a stranger's folder; and reports."""

import io
import re
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from hypergrad.errors import HypergradWarning, InvalidInputError, UnknownNameError
from hypergrad.vision.data import Dataset, check, read_dataset
from hypergrad.vision.data.photographs import BrokenFilesWarning


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def put(file: Path, shade: int, size: tuple[int, int] = (12, 9)) -> None:
    """A picture of one shade, by which it is known again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(file, format="PNG" if file.suffix == ".JPEG" else None)


def shades(data: Dataset, part: str = "train") -> list[tuple[int, str]]:
    """Shade and class of each image."""
    images = data.parts()[part]
    found = images.images[:, 0].flatten(1).double().mean(1).round().long()
    return [(int(s), data.classes[t]) for s, t in zip(found, images.targets, strict=True)]


def tree(root: Path, *names: str) -> None:
    """Pictures, the k-th of the shade 10 k."""
    for k, name in enumerate(names):
        put(root / name, 10 * k)


def test_a_folder_of_classes(root: Path) -> None:
    tree(root, "dog/b.png", "dog/a.JPG", "cat/1.gif", "cat/2.webp", "cat/.hidden.png", ".git/x.png", "cat/3.bmp")
    (root / "Thumbs.db").touch()
    data = read_dataset("folder", root)
    assert data.classes == ("cat", "dog") and data.test is None and data.val is None and data.flip
    assert shades(data) == [(20, "cat"), (30, "cat"), (60, "cat"), (10, "dog"), (0, "dog")]
    assert data.train.images.shape == (5, 3, 64, 64)
    assert read_dataset("folder", root, image_size=16, flip=False).train.images.shape == (5, 3, 16, 16)


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_folder_of_parts(root: Path, val: str) -> None:
    tree(root, *(f"{p}/{c}/{k}.png" for p in ("train", val, "test") for c in ("a", "b") for k in (0, 1)))
    data = read_dataset("folder", root, image_size=8)
    assert shades(data) == [(0, "a"), (10, "a"), (20, "b"), (30, "b")]
    assert shades(data, "val") == [(40, "a"), (50, "a"), (60, "b"), (70, "b")]
    assert shades(data, "test") == [(80, "a"), (90, "a"), (100, "b"), (110, "b")]


def test_a_class_may_be_called_train(root: Path) -> None:
    tree(root, *(f"{c}/{k}.png" for c in ("bus", "train") for k in (0, 1)))
    assert read_dataset("folder", root).classes == ("bus", "train")


def test_a_class_with_a_single_image_is_told(root: Path) -> None:
    tree(root, "a/1.png", "b/1.png", "b/2.png")
    with pytest.warns(HypergradWarning, match="single training image, .*: a. Add images") as caught:
        data = read_dataset("folder", root)
    assert len(caught) == 1 and caught[0].filename == __file__ and len(data.train) == 3


def test_files_that_are_no_images_are_told(root: Path) -> None:
    tree(root, *(f"{c}/{k}.png" for c in "ab" for k in (0, 1)))
    for name in ("a/x.heic", "a/y.heic", "b/notes.txt", "labels"):
        (root / name).touch()
    with pytest.warns(
        HypergradWarning, match=r"left out: 2 .heic, 1 .txt, 1 without extension. Read are: bmp"
    ) as caught:
        assert len(read_dataset("folder", root).train) == 4
    assert caught[0].filename == __file__


def test_broken_files(root: Path) -> None:
    tree(root, *(f"{c}/{k:02}.png" for c in "ab" for k in range(14)))
    for k in range(12):
        (root / "a" / f"{k:02}.png").write_bytes(b"no image")
    with pytest.raises(
        InvalidInputError, match=r'12 of 28 .* a/00.png \(Unid.*a/09.png .* and 2 more.*on_error="skip"'
    ):
        read_dataset("folder", root)
    with pytest.warns(BrokenFilesWarning, match="12 of 28") as caught:
        data = read_dataset("folder", root, on_error="skip")
    assert caught[0].filename == __file__
    assert [c for _, c in shades(data)] == ["a"] * 2 + ["b"] * 14 and len(data.broken) == 12
    report = check("folder", root)
    assert not report.ok and report.counts == {"train": (2, 14)} and len(report.broken) == 12 and not report.remarks
    assert "a/11.png" in str(report) and "NOT in order" in str(report) and report.error is None
    for k in (12, 13):
        (root / "a" / f"{k:02}.png").write_bytes(b"no image")
    with pytest.warns(BrokenFilesWarning), pytest.raises(InvalidInputError, match="No training image of .*: a. Mend"):
        read_dataset("folder", root, on_error="skip")
    for k in range(14):
        (root / "b" / f"{k:02}.png").write_bytes(b"no image")
    with pytest.raises(InvalidInputError, match="28 of 28 .* Nothing is left of the part 'train'. Mend them"):
        read_dataset("folder", root, on_error="skip")
    with pytest.raises(InvalidInputError, match="on_error must be 'raise' or 'skip'; got 'ignore'"):
        read_dataset("folder", root, on_error="ignore")


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda r: None, "There are no class folders in ROOT. Expected: one folder per class"),
    "images in the root": (lambda r: tree(r, "a/1.png", "1.png"), "images in ROOT beside the classes' folders: 1.png."),
    "only images": (lambda r: tree(r, "1.png"), "images in ROOT beside"),
    "one class": (lambda r: tree(r, "a/1.png", "a/2.png"), "ROOT has the single class 'a'; two are needed"),
    "empty class": (
        lambda r: (tree(r, "a/1.png"), (r / "b").mkdir()),
        "The class folder ROOT/b has no image. Add some, or remove it.",
    ),
    "nested": (lambda r: tree(r, "a/1.png", "b/c/1.png"), "ROOT/b has folders in it: c. A class folder holds"),
    "unknown class in test": (
        lambda r: tree(r, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "test/c/1.png"),
        "ROOT/test has classes that training does not have: c.",
    ),
    "class not in val": (
        lambda r: tree(r, "train/a/1.png", "train/b/1.png", "val/a/1.png"),
        "ROOT/val lacks folders of these classes: b.",
    ),
    "two validations": (
        lambda r: tree(r, "train/a/1.png", "val/a/1.png", "valid/a/1.png"),
        "ROOT has two folders for validation: train, val, valid. Keep one.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folder_faults(fault: str, root: Path) -> None:
    write, message = FOLDER_FAULTS[fault]
    write(root)
    with pytest.raises(InvalidInputError, match=re.escape(message.replace("ROOT", str(root)))):
        read_dataset("folder", root)
    report = check("folder", root)
    assert message.split("ROOT")[0] in str(report) and not report.ok


def test_no_folder(root: Path) -> None:
    with pytest.raises(InvalidInputError, match="'folder' needs a root, .* got none"):
        read_dataset("folder")
    put(root / "x.png", 0)
    with pytest.raises(InvalidInputError, match=r"got .*x.png, which is no folder"):
        read_dataset("folder", root / "x.png")


def test_a_report_in_full(root: Path) -> None:
    tree(root, "train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # remarks stand in the report, and are not warned of as well
        report = check("folder", root, image_size=8)
    assert str(report).splitlines() == [
        f"folder in {root}: in order",
        "  images: 8 x 8 pixels, 3 channels",
        "  classes: 2",
        "  train: 3 images, 1 to 2 a class",
        "  test: 2 images, 1 a class",
        "        train    test",
        "  cat       2       1",
        "  dog       1       1",
        "  remark: These classes have a single training image, which stays in training and is never held out for "
        "validation: dog. Add images, or remove the class.",
    ]
    with pytest.raises(UnknownNameError, match="Unknown data set 'foldr'"):
        check("foldr", root)


def test_imagenet(root: Path) -> None:
    tree(root, "train/n02/b.JPEG", "train/n01/a.JPEG", "train/n01/c.JPEG", "val/n01/x.JPEG", "val/n02/y.JPEG")
    data = read_dataset("imagenet", root)
    assert shades(data) == [(10, "n01"), (20, "n01"), (0, "n02")]
    assert shades(data, "test") == [(30, "n01"), (40, "n02")] and data.val is None
    assert data.train.images.shape == (3, 3, 256, 256) and data.mean == (0.485, 0.456, 0.406)


def test_imagenet_as_published(root: Path) -> None:
    tree(root, "train/n01/a.JPEG", "train/n02/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InvalidInputError, match=r"val has no class folders: .* Move each into .* val/<wnid>/"):
        read_dataset("imagenet", root)


def flowers(root: Path, split: dict[str, list[int]], labels: list[int]) -> None:
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    scipy.io.savemat(root / "setid.mat", {k: np.array([v], np.uint16) for k, v in split.items()})


SPLIT = {"trnid": [3, 1], "valid": [2], "tstid": [4, 5]}


@pytest.mark.parametrize("packed", [True, False])
def test_flowers(root: Path, packed: bool) -> None:
    flowers(root, SPLIT, [7, 102, 1, 7, 2])
    for n in range(1, 6):
        put(root / "jpg" / f"image_{n:05d}.jpg", n * 10)
    if packed:
        with tarfile.open(root / "102flowers.tgz", "w:gz") as archive:
            for n in range(1, 6):
                archive.add(root / "jpg" / f"image_{n:05d}.jpg", f"jpg/image_{n:05d}.jpg")
        (root / "jpg").rename(root / "elsewhere")
    data = read_dataset("flowers102", root, image_size=16)
    assert shades(data) == [(30, "1"), (10, "7")]
    assert shades(data, "val") == [(20, "102")] and shades(data, "test") == [(40, "7"), (50, "2")]
    assert len(data.classes) == 102


def test_flowers_faults(root: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_dataset("flowers102", root)

    (root / "jpg").mkdir()
    flowers(root, SPLIT, [7, 102, 1, 7])
    fails("setid.mat: tstid has the image number 5; imagelabels.mat has labels for 1 to 4")
    flowers(root, SPLIT, [7, 103, 1, 7, 1])
    fails("imagelabels.mat: the label 103 of image 0 .* classes 1 to 102")
    flowers(root, SPLIT, [7, 102, 1, 7, 2])
    fails(r"image file .*image_00003.jpg cannot be read \(No such file or directory\); the set lists it")
    (root / "jpg").rmdir()
    fails("Expected 102flowers.tgz in .*robots.ox.ac.uk")
    with tarfile.open(root / "102flowers.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("jpg/image_00001.jpg"), io.BytesIO())
    fails("102flowers.tgz has no member jpg/image_00003.jpg")
    (root / "setid.mat").write_bytes((root / "setid.mat").read_bytes()[:200])
    fails("setid.mat cannot be read as a MATLAB file")


def pets(root: Path, train: str, test: str = "Beagle_1 2 2 1\n") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "trainval.txt").write_text(train)
    (root / "annotations" / "test.txt").write_text(test)


def test_pets(root: Path) -> None:
    names = ["saint_bernard_3", "Abyssinian_1", "Beagle_1", "Abyssinian_2"]
    for k, name in enumerate(names):
        put(root / "images" / f"{name}.jpg", 20 * k)
    pets(root, "saint_bernard_3 3 2 2\nAbyssinian_1 1 1 1\n", "#Image CLASS-ID\nBeagle_1 2 2 1\nAbyssinian_2 1 1 1\n")
    data = read_dataset("pets", root, image_size=8)
    assert data.classes == ("Abyssinian", "Beagle", "saint_bernard")
    assert shades(data) == [(0, "saint_bernard"), (20, "Abyssinian")]
    assert shades(data, "test") == [(40, "Beagle"), (60, "Abyssinian")]


PETS_FAULTS = {
    "fields": ("Abyssinian_1 1 1\n", "trainval.txt, line 1: must be an image and three numbers; got 'Abys"),
    "zero": ("Abyssinian_1 0 1 1\n", "trainval.txt, line 1"),
    "text": ("\nAbyssinian_1 x 1 1\n", "trainval.txt, line 2"),
    "two breeds": ("Abyssinian_1 1 1 1\nBengal_1 1 1 1\n", "line 2: must be of the breed Abyssinian"),
    "gap": ("Abyssinian_1 4 1 1\n", "classes go up to 4, but no image has class 1"),
    "empty": ("\n", "trainval.txt is empty"),
    "path": ("../x_1 1 1 1\n", "names the file 'images/../x_1.jpg', which is out of the set's folders"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PETS_FAULTS)
def test_pets_faults(fault: str, root: Path) -> None:
    train, message = PETS_FAULTS[fault]
    pets(root, train)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        read_dataset("pets", root)


@pytest.mark.parametrize("inside", ["fgvc-aircraft-2013b/data", "data", "."])
def test_aircraft(root: Path, inside: str) -> None:
    folder = root / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "variants.txt").write_text("707-320\n727-200\nDC-3\n")
    for k, part in enumerate(("train", "val", "test")):
        (folder / f"images_variant_{part}.txt").write_text(f"100{k} DC-3\n200{k} 707-320\n")
        for name in (f"100{k}", f"200{k}"):
            file = folder / "images" / f"{name}.jpg"
            put(file, 100 + k, size=(40, 60))
            image = Image.open(file)
            image.paste(255, (0, 40, 40, 60))  # the banner
            image.save(file, quality=100)
    data = read_dataset("aircraft", root, image_size=8)
    for k, part in enumerate(("train", "val", "test")):
        assert shades(data, part) == [(100 + k, "DC-3"), (100 + k, "707-320")]
        assert data.parts()[part].images.max() <= 101 + k  # nothing of the banner
    (folder / "images_variant_val.txt").write_text("1001 DC-4\n")
    with pytest.raises(
        InvalidInputError, match=r"images_variant_val.txt, line 1: must be an image and a variant .*DC-4"
    ):
        read_dataset("aircraft", root, image_size=8)


def annotations(file: Path, labels: list[int], named: bool = True) -> None:
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")] if named else [("bbox_x1", "O"), ("fname", "O")]
    rows = [(39, n, f"{k + 1:05d}.jpg") if named else (39, f"{k + 1:05d}.jpg") for k, n in enumerate(labels)]
    file.parent.mkdir(exist_ok=True)
    found = np.empty((1, len(rows)), dtype=fields)
    for k, row in enumerate(rows):
        found[0, k] = row
    scipy.io.savemat(file, {"annotations": found})


@pytest.mark.parametrize("test_file", ["devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"])
def test_cars(root: Path, test_file: str) -> None:
    names = np.array(["Acura RL 2012", "BMW M3 2012", "Fiat 500 2012"], dtype=object)
    annotations(root / "devkit/cars_train_annos.mat", [3, 1])
    annotations(root / test_file, [2])  # a structure of one entry
    scipy.io.savemat(root / "devkit/cars_meta.mat", {"class_names": names[None]})
    for k, name in enumerate(["cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"]):
        put(root / name, 30 * k)
    data = read_dataset("cars", root, image_size=8)
    assert shades(data) == [(0, "Fiat 500 2012"), (30, "Acura RL 2012")]
    assert shades(data, "test") == [(60, "BMW M3 2012")]
    annotations(root / "devkit/cars_train_annos.mat", [4])
    with pytest.raises(InvalidInputError, match=r"cars_train_annos.mat: the label 4 of image 0 .* classes 1 to 3"):
        read_dataset("cars", root)
    annotations(root / "devkit/cars_train_annos.mat", [1], named=False)
    with pytest.raises(InvalidInputError, match=r"cars_train_annos.mat: each annotation must have a fname and a class"):
        read_dataset("cars", root)
