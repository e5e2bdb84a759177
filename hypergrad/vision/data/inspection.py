"""What a data set's files hold, and what is wrong with them."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.vision.data.photographs import BrokenFilesWarning
from hypergrad.vision.data.readers import dataset_options, read_dataset

#: Classes whose numbers of images stand in a report; of more classes, the range does.
LISTED = 20


@dataclass(frozen=True)
class DatasetReport:
    """What was found; ``print(report)`` is readable.

    Attributes:
        name: of the data set.
        root: as given.
        shape: of each image, ``(C, H, W)``; None if the set could not be read.
        classes: their names.
        counts: by part (``train``, ``val``, ``test``), the number of images of each class.
        remarks: warnings of the reader.
        broken: name and fault of every file that cannot be decoded.
        error: why the set could not be read, or None.
    """

    name: str
    root: str | None
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the set can be trained on as it is: it was read, and no file is broken."""
        return self.error is None and not self.broken

    def __str__(self) -> str:
        lines = [f"{self.name}{f' in {self.root}' if self.root else ''}: {'in order' if self.ok else 'NOT in order'}"]
        if self.error is not None:
            lines.append(f"  error: {self.error}")
        if self.shape is not None:
            channels, height, width = self.shape
            lines.append(f"  images: {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}")
            lines.append(f"  classes: {len(self.classes)}")
        for part, counts in self.counts.items():
            lines.append(f"  {part}: {sum(counts)} images, {_spread(counts)} a class")
        if self.counts and len(self.classes) <= LISTED:
            width = max(len(name) for name in self.classes)
            lines.append(f"  {'':{width}}  " + "  ".join(f"{part:>6}" for part in self.counts))
            for label, name in enumerate(self.classes):
                row = "  ".join(f"{counts[label]:>6}" for counts in self.counts.values())
                lines.append(f"  {name:{width}}  {row}")
        lines += [f"  remark: {remark}" for remark in self.remarks]
        lines += [f"  broken: {fault}" for fault in self.broken]
        return "\n".join(lines)


def check(name: str, root: str | os.PathLike[str] | None = None, **options: Any) -> DatasetReport:
    """Read a data set and report what it holds; files that cannot be decoded are all listed.

    Args:
        name: a registered data set.
        root: of its files.
        options: as for :func:`~hypergrad.vision.data.read_dataset`.

    Raises:
        UnknownNameError: no such data set. Anything wrong with the files is in the report.
    """
    if "on_error" in dataset_options(name):
        options.setdefault("on_error", "skip")
    place = None if root is None else os.fspath(root)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = read_dataset(name, root, **options)
        except UnknownNameError:
            raise
        except InvalidInputError as error:
            return DatasetReport(name, place, error=str(error))
    parts = data.parts()
    return DatasetReport(
        name=name,
        root=place,
        shape=tuple(data.train.images.shape[1:]),
        classes=data.classes,
        counts={
            part: tuple(torch.bincount(images.targets, minlength=len(data.classes)).tolist())
            for part, images in parts.items()
        },
        # What is broken is listed in full.
        remarks=tuple(str(w.message) for w in caught if not issubclass(w.category, BrokenFilesWarning)),
        broken=data.broken,
    )


def _spread(counts: tuple[int, ...]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
