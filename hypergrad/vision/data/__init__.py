"""Data sets of images: ``read_dataset(name, root)``, ``dataset_names()``, and the registration of new readers.

Nothing is downloaded. A set lies in a folder as its publisher distributes it; an error says which file is expected.
"""

from hypergrad.vision.data.base import Dataset, ImageSet, Reader
from hypergrad.vision.data.inspection import DatasetReport, check
from hypergrad.vision.data.readers import (
    dataset_names,
    dataset_options,
    describe_dataset,
    read_dataset,
    register_dataset,
)
from hypergrad.vision.data.splits import (
    pad_images,
    resize_images,
    rotated,
    stratified_split,
    stratified_subset,
    to_channels,
)

__all__ = [
    "Dataset",
    "DatasetReport",
    "ImageSet",
    "Reader",
    "check",
    "dataset_names",
    "dataset_options",
    "describe_dataset",
    "pad_images",
    "read_dataset",
    "register_dataset",
    "resize_images",
    "rotated",
    "stratified_split",
    "stratified_subset",
    "to_channels",
]
