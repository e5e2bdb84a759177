"""Anyone's pictures: a folder with one folder per class."""

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.data.photographs import Listing, OnError, decoded_dataset, some
from hypergrad.vision.data.pictures import Picture

EXTENSIONS = frozenset({"png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm"})
LAYOUT = "one folder per class (ROOT/cat/1.jpg), perhaps below ROOT/train, ROOT/val and ROOT/test"
#: Folders of a split, and what they are called here.
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: What operating systems put into folders unasked; hidden files are left out as well.
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def read_folder(
    root: Path | None,
    *,
    image_size: int | None,
    workers: int = 0,
    on_error: OnError = "raise",
    flip: bool = True,
) -> Dataset:
    """Pictures of any size and kind, in one folder per class.

    The classes are the folders' names in sorted order. Each picture becomes a square of RGB pixels, its shorter side
    scaled and its centre kept (transparent pixels over white). Files that are no images are left out with a warning,
    hidden ones without.

    Args:
        root: folder of the classes' folders, or of ``train`` and perhaps ``val`` (or ``valid``, ``validation``) and
            ``test``, each with the same classes.
        image_size: pixels a side; None is 64.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.
        flip: whether mirroring left-right keeps the class.

    Raises:
        InvalidInputError: the folders are not as they should be, or files cannot be decoded.

    Warns:
        HypergradWarning: a class has a single training image, which then stays in training; files were left out.
    """
    if root is None or not root.is_dir():
        raise InvalidInputError(
            f"The data set 'folder' needs a root, a folder with {LAYOUT}; got {root or 'none'}"
            f"{', which is no folder' if root else ''}."
        )
    folders = _parts(root)
    classes = class_names(folders["train"])
    listings = {}
    for part, folder in folders.items():  # not as a comprehension, which is a frame of its own to a warning
        listings[part] = class_listing(folder, classes, root)
    data = decoded_dataset(
        "folder", classes, listings, root=root, side=image_size or 64, workers=workers, on_error=on_error
    )
    counts = torch.bincount(data.train.targets, minlength=len(classes)).tolist()
    none = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if none:
        raise InvalidInputError(f"No training image of these classes can be decoded: {some(none)}. Mend them.")
    single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    if single:
        warnings.warn(
            f"These classes have a single training image, which stays in training and is never held out for "
            f"validation: {some(single)}. Add images, or remove the class.",
            HypergradWarning,
            stacklevel=4,  # who called read_dataset
        )
    return Dataset(
        data.name, data.classes, data.train, data.test, data.val, data.mean, data.std, flip, broken=data.broken
    )


def class_names(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return [path.name for path in _listed(folder).folders]


def class_listing(folder: Path, classes: list[str], root: Path) -> Listing:
    """The image files below the folder of each class, in sorted order.

    Args:
        folder: of the classes' folders.
        classes: their names, all of which must be there, and no other.
        root: of the set, from which the names in messages count.

    Raises:
        InvalidInputError: images beside the classes' folders, folders within them, an empty one, one that is missing
            or one too many, fewer than two classes.
    """
    top = _listed(folder)
    if top.images:
        raise InvalidInputError(
            f"There are images in {folder} beside the classes' folders: {some([p.name for p in top.images])}. Move "
            "each into the folder of its class."
        )
    if not top.folders:
        raise InvalidInputError(f"There are no class folders in {folder}. Expected: {LAYOUT}.")
    found = {path.name for path in top.folders}
    if extra := sorted(found - set(classes)):
        raise InvalidInputError(f"{folder} has classes that training does not have: {some(extra)}. Rename or remove.")
    if absent := sorted(set(classes) - found):
        raise InvalidInputError(f"{folder} lacks folders of these classes: {some(absent)}. Add them.")
    if len(classes) < 2:
        raise InvalidInputError(f"{folder} has the single class {classes[0]!r}; two are needed. Expected: {LAYOUT}.")
    pictures, labels, left_out = [], [], Counter(top.others)
    for label, name in enumerate(classes):
        held = _listed(folder / name)
        if held.folders:
            raise InvalidInputError(
                f"The class folder {folder / name} has folders in it: {some([p.name for p in held.folders])}. A class "
                f"folder holds images only; expected: {LAYOUT}."
            )
        if not held.images:
            raise InvalidInputError(
                f"The class folder {folder / name} has no image. Add some, or remove it. Read are: "
                f"{', '.join(sorted(EXTENSIONS))}."
            )
        left_out.update(held.others)
        pictures += [Picture(path.relative_to(root).as_posix(), path) for path in held.images]
        labels += [label] * len(held.images)
    if left_out:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        warnings.warn(
            f"Files in {folder} that are no images were left out: {told}. Read are: {', '.join(sorted(EXTENSIONS))}.",
            HypergradWarning,
            stacklevel=5,  # who called read_dataset
        )
    return Listing(pictures, labels)


@dataclass(frozen=True)
class _Listed:
    """What is in one folder, sorted by name; of files that are no images the extensions."""

    folders: list[Path]
    images: list[Path]
    others: list[str]


def _listed(folder: Path) -> _Listed:
    found = _Listed([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                    continue
                extension = Path(entry.name).suffix.lower()
                if entry.is_dir():
                    found.folders.append(Path(entry.path))
                elif entry.is_file() is False and os.path.exists(entry.path):
                    found.others.append("pipe, device or socket")
                elif extension[1:] in EXTENSIONS:
                    found.images.append(Path(entry.path))
                else:
                    found.others.append(extension or "without extension")
    except OSError as error:
        raise InvalidInputError(f"The folder {folder} cannot be read ({error.strerror}). Check it.") from error
    return found


def _parts(root: Path) -> dict[str, Path]:
    """The folder of each part; without folders of that name, the root is the training part."""
    folders = {path.name: path for path in _listed(root).folders}
    if "train" not in folders or not set(folders) <= set(PARTS):
        return {"train": root}
    if len({PARTS[name] for name in folders}) < len(folders):
        raise InvalidInputError(f"{root} has two folders for validation: {', '.join(sorted(folders))}. Keep one.")
    return {PARTS[name]: path for name, path in sorted(folders.items())}
