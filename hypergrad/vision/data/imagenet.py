"""ImageNet's classification set (ILSVRC 2012), in one folder per class."""

from pathlib import Path

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data.base import Dataset, missing, need_root
from hypergrad.vision.data.folder import class_listing, class_names
from hypergrad.vision.data.photographs import OnError, decoded_dataset

HOME = "https://www.image-net.org/"


def read_imagenet(
    root: Path | None, *, image_size: int | None, workers: int = 0, on_error: OnError = "raise"
) -> Dataset:
    """ImageNet: 1,281,167 photographs of 1,000 classes; the 50,000 validation images test (Russakovsky et al., 2015).

    The pixels of the whole set at 256 x 256 take 262 GB in the cache folder.

    Args:
        root: folder of ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``.
        image_size: pixels a side; None is 256, from which crops of 224 are taken.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning.

    Raises:
        InvalidInputError: the folders are not as they should be, or files cannot be decoded.
    """
    folder = need_root("imagenet", root, "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG", HOME)
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise missing(f"the folder {part}/", folder, HOME)
    classes = class_names(folder / "train")
    if not class_names(folder / "val"):
        raise InvalidInputError(
            f"{folder / 'val'} has no class folders: its images lie side by side, as they were published. Move each "
            "into the folder of its class, val/<wnid>/, by the labels of the development kit "
            "(ILSVRC2012_validation_ground_truth.txt, with meta.mat for the wnids)."
        )
    listings = {
        "train": class_listing(folder / "train", classes, folder),
        "test": class_listing(folder / "val", classes, folder),
    }
    return decoded_dataset(
        "imagenet", classes, listings, root=folder, side=image_size or 256, workers=workers, on_error=on_error
    )
