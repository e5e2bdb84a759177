"""The fine-grained sets of the paper's Table 4: Flowers, Pets, Aircraft, Cars, as their publishers distribute them."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hypergrad.errors import InvalidInputError
from hypergrad.files import short
from hypergrad.vision.data.archives import integers, read_file, read_mat, read_members
from hypergrad.vision.data.base import Dataset, missing, need_root
from hypergrad.vision.data.photographs import Listing, OnError, decoded_dataset
from hypergrad.vision.data.pictures import Picture

FLOWERS_HOME = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
PETS_HOME = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
AIRCRAFT_HOME = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
CARS_HOME = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
#: Of the decoded images, from which crops of 224 pixels are taken.
SIDE = 256
#: Height in pixels of the line with the photographer's name below each picture of the aircraft.
BANNER = 20
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def read_flowers102(
    root: Path | None, *, image_size: int | None, workers: int = 0, on_error: OnError = "raise"
) -> Dataset:
    """Oxford Flowers: 1,020 + 1,020 + 6,149 photographs, 102 classes (Nilsback and Zisserman, 2008).

    The files do not name the classes; they are called ``"1"`` to ``"102"``, by the numbers of the publisher.

    Args:
        root: folder of ``imagelabels.mat``, ``setid.mat``, and ``jpg/`` or ``102flowers.tgz`` (not unpacked, but held
            in memory while it is decoded).
        image_size: pixels a side; None is 256.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.

    Raises:
        InvalidInputError: a file is missing, or cannot be read or decoded.
        MissingLibraryError: scipy or Pillow is not installed.
    """
    folder = need_root("flowers102", root, "imagelabels.mat, setid.mat and jpg/ (or 102flowers.tgz)", FLOWERS_HOME)
    parts = {"train": "trnid", "val": "valid", "test": "tstid"}
    label_file, split_file = (_file(folder, name, FLOWERS_HOME) for name in ("imagelabels.mat", "setid.mat"))
    labels = integers(read_mat(read_file(label_file), label_file, "labels")["labels"], label_file)
    splits = read_mat(read_file(split_file), split_file, *parts.values())
    listings = {}
    for part, field in parts.items():
        numbers = integers(splits[field], split_file)
        wrong = [n for n in numbers if not 1 <= n <= len(labels)]
        if wrong:
            raise InvalidInputError(
                f"{split_file}: {field} has the image number {wrong[0]}; {label_file.name} has labels for 1 to "
                f"{len(labels)}. Get both anew from {FLOWERS_HOME}."
            )
        names = [f"jpg/image_{n:05d}.jpg" for n in numbers]
        found = _checked([labels[n - 1] - 1 for n in numbers], 102, label_file, FLOWERS_HOME)
        listings[part] = Listing(_flower_pictures(folder, names), found)
    classes = [str(n) for n in range(1, 103)]
    return decoded_dataset(
        "flowers102", classes, listings, root=folder, side=image_size or SIDE, workers=workers, on_error=on_error
    )


def _flower_pictures(folder: Path, names: list[str]) -> list[Picture]:
    if (folder / "jpg").is_dir():
        return [Picture(name, folder / name) for name in names]
    archive = _file(folder, "102flowers.tgz", FLOWERS_HOME)
    found = read_members(archive, set(names))
    for name in names:
        if name not in found:
            raise InvalidInputError(f"{archive} has no member {name}; it is incomplete. Get it from {FLOWERS_HOME}.")
    return [Picture(name, found[name]) for name in names]


def read_pets(root: Path | None, *, image_size: int | None, workers: int = 0, on_error: OnError = "raise") -> Dataset:
    """Oxford-IIIT Pets: 3,680 + 3,669 photographs of 37 breeds (Parkhi et al., 2012).

    Args:
        root: folder of ``images/`` and ``annotations/`` (with ``trainval.txt`` and ``test.txt``).
        image_size: pixels a side; None is 256.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.

    Raises:
        InvalidInputError: a file is missing, or cannot be read or decoded.
        MissingLibraryError: Pillow is not installed.
    """
    folder = need_root("pets", root, "images/ and annotations/", PETS_HOME)
    lists: dict[str, list[tuple[str, int]]] = {}
    breeds: dict[int, str] = {}
    for part, name in (("train", "trainval.txt"), ("test", "test.txt")):
        file = _file(folder, f"annotations/{name}", PETS_HOME)
        lists[part] = []
        for number, line in _lines(file):
            fields = line.split()  # image, class from 1, species, breed within the species
            if len(fields) != 4 or not _NUMBER.fullmatch(fields[1]):
                raise _bad_line(file, number, line, "an image and three numbers")
            label, breed = int(fields[1]) - 1, fields[0].rsplit("_", 1)[0]
            if breeds.setdefault(label, breed) != breed:
                raise _bad_line(file, number, line, f"of the breed {breeds[label]}, as other images of its class are")
            lists[part].append((fields[0], label))
    classes = _breeds(breeds, folder)
    listings = {
        part: Listing([_picture(folder, f"images/{name}.jpg") for name, _ in found], [label for _, label in found])
        for part, found in lists.items()
    }
    return decoded_dataset(
        "pets", classes, listings, root=folder, side=image_size or SIDE, workers=workers, on_error=on_error
    )


def _breeds(breeds: dict[int, str], folder: Path) -> list[str]:
    if sorted(breeds) != list(range(len(breeds))):
        absent = next(k for k in range(len(breeds)) if k not in breeds)
        raise InvalidInputError(
            f"{folder / 'annotations'}: the classes go up to {max(breeds) + 1}, but no image has class {absent + 1}. "
            f"Get the files anew from {PETS_HOME}."
        )
    return [breeds[label] for label in range(len(breeds))]


def read_aircraft(
    root: Path | None, *, image_size: int | None, workers: int = 0, on_error: OnError = "raise"
) -> Dataset:
    """FGVC Aircraft: 3,334 + 3,333 + 3,333 photographs of 100 variants (Maji et al., arXiv 1306.5151).

    The line with the photographer's name, the lowest 20 pixels of each picture, is cut off.

    Args:
        root: the folder ``fgvc-aircraft-2013b`` or the one it lies in, with ``data/images/`` and ``data/*.txt``.
        image_size: pixels a side; None is 256.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.

    Raises:
        InvalidInputError: a file is missing, or cannot be read or decoded.
        MissingLibraryError: Pillow is not installed.
    """
    root = need_root("aircraft", root, "fgvc-aircraft-2013b/data/", AIRCRAFT_HOME)
    candidates = [root / "fgvc-aircraft-2013b" / "data", root / "data", root]
    folder = next((c for c in candidates if (c / "images").is_dir()), None)
    if folder is None:
        raise missing("fgvc-aircraft-2013b/data/images/", root, AIRCRAFT_HOME)
    classes = [line for _, line in _lines(_file(folder, "variants.txt", AIRCRAFT_HOME))]
    numbers = {variant: label for label, variant in enumerate(classes)}
    listings = {}
    for part in ("train", "val", "test"):
        file = _file(folder, f"images_variant_{part}.txt", AIRCRAFT_HOME)
        pictures, labels = [], []
        for number, line in _lines(file):
            image, _, variant = line.partition(" ")
            if variant not in numbers:
                raise _bad_line(file, number, line, "an image and a variant of variants.txt")
            pictures.append(_picture(folder, f"images/{image}.jpg", cut_bottom=BANNER))
            labels.append(numbers[variant])
        listings[part] = Listing(pictures, labels)
    return decoded_dataset(
        "aircraft", classes, listings, root=folder, side=image_size or SIDE, workers=workers, on_error=on_error
    )


def read_cars(root: Path | None, *, image_size: int | None, workers: int = 0, on_error: OnError = "raise") -> Dataset:
    """Stanford Cars: 8,144 + 8,041 photographs of 196 models (Krause et al., 2013).

    Args:
        root: folder of ``cars_train/``, ``cars_test/`` and ``devkit/`` with ``cars_train_annos.mat``,
            ``cars_meta.mat`` and (there or in the root) ``cars_test_annos_withlabels.mat``.
        image_size: pixels a side; None is 256.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.

    Raises:
        InvalidInputError: a file is missing, or cannot be read or decoded.
        MissingLibraryError: scipy or Pillow is not installed.
    """
    folder = need_root("cars", root, "cars_train/, cars_test/ and devkit/", CARS_HOME)
    meta = _file(folder, "devkit/cars_meta.mat", CARS_HOME)
    names = read_mat(read_file(meta), meta, "class_names", simplify=True)["class_names"]
    classes = [str(name) for name in np.atleast_1d(names)]
    test_file = "cars_test_annos_withlabels.mat"
    if (folder / "devkit" / test_file).is_file() or not (folder / test_file).is_file():
        test_file = f"devkit/{test_file}"
    listings = {}
    for part, name in (("train", "devkit/cars_train_annos.mat"), ("test", test_file)):
        file = _file(folder, name, CARS_HOME)
        annotations = read_mat(read_file(file), file, "annotations", simplify=True)["annotations"]
        entries = [annotations] if isinstance(annotations, dict) else list(np.atleast_1d(annotations))
        if not all(isinstance(e, dict) and isinstance(e.get("fname"), str) and "class" in e for e in entries):
            raise InvalidInputError(
                f"{file}: each annotation must have a fname and a class. Test labels are in "
                f"cars_test_annos_withlabels.mat; get the file anew from {CARS_HOME}."
            )
        labels = [n - 1 for n in integers([e["class"] for e in entries], file)]
        pictures = [_picture(folder, f"cars_{part}/{e['fname']}") for e in entries]
        listings[part] = Listing(pictures, _checked(labels, len(classes), file, CARS_HOME))
    return decoded_dataset(
        "cars", classes, listings, root=folder, side=image_size or SIDE, workers=workers, on_error=on_error
    )


def _file(folder: Path, name: str, home: str) -> Path:
    if not (folder / name).is_file():
        raise missing(name, folder, home)
    return folder / name


def _picture(folder: Path, name: str, cut_bottom: int = 0) -> Picture:
    # Names come from annotation files: one that leads out of the folder is a mistake or worse.
    if ".." in name.split("/") or "\\" in name or "\0" in name or Path(name).is_absolute():
        raise InvalidInputError(
            f"{folder}: an annotation names the file {short(name)}, which is out of the set's folders."
        )
    return Picture(name, folder / name, cut_bottom)


def _lines(file: Path) -> Iterable[tuple[int, str]]:
    """Numbered lines from 1, without empty ones and comments."""
    lines = read_file(file).decode("utf-8", "replace").splitlines()
    found = [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not found:
        raise InvalidInputError(f"{file} is empty. Get it anew.")
    return found


def _bad_line(file: Path, number: int, line: str, must: str) -> InvalidInputError:
    return InvalidInputError(f"{file}, line {number}: must be {must}; got {line[:80]!r}. Get the file anew.")


def _checked(labels: list[int], num_classes: int, file: Path, home: str) -> list[int]:
    """Labels from 0, as they are, if each is a class; the message has them as in the file, from 1."""
    for row, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise InvalidInputError(
                f"{file}: the label {label + 1} of image {row} (counted from 0) is out of range; there are the classes "
                f"1 to {num_classes}. Get the file anew from {home}."
            )
    return labels
