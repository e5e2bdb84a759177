"""From lists of image files with labels to a data set: what all sets of large pictures have in common."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.vision.data.base import IMAGENET_MEAN, IMAGENET_STD, Dataset, ImageSet
from hypergrad.vision.data.cache import decoded
from hypergrad.vision.data.pictures import Picture

#: Names that a message lists.
NAMED = 10

OnError = Literal["raise", "skip"]


class BrokenFilesWarning(HypergradWarning):
    """Files that cannot be decoded were left out."""


@dataclass(frozen=True)
class Listing:
    """The files of one part, and their labels (0 to the number of classes - 1)."""

    pictures: Sequence[Picture]
    labels: Sequence[int]


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def decoded_dataset(
    name: str,
    classes: Sequence[str],
    listings: Mapping[str, Listing],
    *,
    root: Path,
    side: int,
    workers: int,
    on_error: OnError,
) -> Dataset:
    """A data set whose parts are decoded into the cache, with ImageNet's mean and deviation.

    Args:
        name: of the set.
        classes: their names.
        listings: by part, ``train`` and perhaps ``val`` and ``test``.
        root: of the set.
        side: pixels a side.
        workers: processes that decode; 0 decodes in this one.
        on_error: ``"raise"`` names the files that cannot be decoded in an error, ``"skip"`` in a warning, and leaves
            them out.

    Raises:
        InvalidInputError: files cannot be decoded, or a part has none left.
    """
    if on_error not in ("raise", "skip"):
        raise InvalidInputError(f"on_error must be 'raise' or 'skip'; got {on_error!r}.")
    parts = {
        part: decoded(listing.pictures, name=f"{name}-{part}", root=root, side=side, workers=workers)
        for part, listing in listings.items()
    }
    broken = [fault for part in parts.values() for fault in part.broken]
    lost = [part for part, found in parts.items() if not len(found.rows)]
    if broken:
        total = sum(len(listing.pictures) for listing in listings.values())
        told = f"{len(broken)} of {total} image files in {root} cannot be decoded: {some(broken)}."
        if on_error == "raise":
            raise InvalidInputError(f'{told} Mend or remove them, or pass on_error="skip" to leave them out.')
        if lost:
            raise InvalidInputError(f"{told} Nothing is left of the part {lost[0]!r}. Mend them.")
        warnings.warn(f"{told} They are left out.", BrokenFilesWarning, stacklevel=5)  # who called read_dataset
    sets = {
        part: ImageSet(found.images, torch.tensor(listings[part].labels, dtype=torch.int64)[found.rows])
        for part, found in parts.items()
    }
    return Dataset(
        name,
        tuple(classes),
        sets["train"],
        sets.get("test"),
        sets.get("val"),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        broken=tuple(broken),
    )
