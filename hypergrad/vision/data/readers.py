"""The names of data sets, and reading one by its name."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from hypergrad.errors import InvalidInputError
from hypergrad.registry import Registry
from hypergrad.vision.data.base import Dataset

R = TypeVar("R", bound=Callable[..., Dataset])

_registry: Registry[Dataset] = Registry(
    "data set",
    {
        "aircraft": "hypergrad.vision.data.fine_grained:read_aircraft",
        "cars": "hypergrad.vision.data.fine_grained:read_cars",
        "cifar10": "hypergrad.vision.data.cifar:read_cifar10",
        "cifar100": "hypergrad.vision.data.cifar:read_cifar100",
        "digits": "hypergrad.vision.data.digits:read_digits",
        "emoji": "hypergrad.vision.data.emoji:read_emoji",
        "fashion-mnist": "hypergrad.vision.data.idx:read_fashion_mnist",
        "flowers102": "hypergrad.vision.data.fine_grained:read_flowers102",
        "folder": "hypergrad.vision.data.folder:read_folder",
        "imagenet": "hypergrad.vision.data.imagenet:read_imagenet",
        "mnist": "hypergrad.vision.data.idx:read_mnist",
        "pets": "hypergrad.vision.data.fine_grained:read_pets",
        "svhn": "hypergrad.vision.data.svhn:read_svhn",
    },
)

dataset_names = _registry.names


def dataset_options(name: str) -> list[str]:
    """The options of a data set's reader beside ``root`` and ``image_size``, such as ``verify`` or ``on_error``.

    Raises:
        UnknownNameError: no such data set.
    """
    known, _ = _registry.options(name)
    return [option for option in known or [] if option not in ("root", "image_size")]


def describe_dataset(name: str) -> str:
    """The first line of the reader's description.

    Raises:
        UnknownNameError: no such data set.
    """
    return (inspect.getdoc(_registry.lookup(name)) or "").split("\n")[0]


def register_dataset(name: str) -> Callable[[R], R]:
    """Decorator that makes a reader available by name.

    The reader is called as ``read(root, image_size=...)`` and returns a :class:`~hypergrad.vision.data.Dataset`; its
    further keyword arguments are its options. One called ``workers`` gets :func:`read_dataset`'s.

    Raises:
        InvalidInputError: the name is taken, or the reader does not take ``root`` and ``image_size``.
    """
    add = _registry.register(name)

    def decorate(reader: R) -> R:
        taken = inspect.signature(reader).parameters if callable(reader) else {}
        if not {"root", "image_size"} <= set(taken):
            raise InvalidInputError(
                f"The reader of the data set {name!r} must take root and image_size; {reader!r} takes {list(taken)}."
            )
        # The registry is written for classes; of a function it asks no more than its name and its signature.
        add(cast(type[Dataset], reader))
        return reader

    return decorate


def read_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    workers: int = 0,
    **options: Any,
) -> Dataset:
    """A data set from the files of its publisher.

    Args:
        name: a registered one (:func:`dataset_names`).
        root: the folder of its files, or the archive; None where the set has a usual place or needs no file.
        image_size: pixels a side; None takes the set's own size. Sets of large photographs are decoded to it.
        workers: processes that decode image files; 0 decodes in this one. Above 0, a script needs the usual
            ``if __name__ == "__main__":`` around what it does. Sets without image files ignore it.
        options: further options of the reader, such as ``on_error="skip"`` for ``"folder"``.

    Raises:
        UnknownNameError: no such data set.
        InvalidInputError: an option that the reader does not have, or files that cannot be read; the message names
            the file and says what to do.

    Example:
        >>> data = read_dataset("digits")
        >>> data.train.images.shape[1:], len(data.classes), len(data.train) + len(data.test)
        (torch.Size([1, 8, 8]), 10, 1797)
    """
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise InvalidInputError(f"image_size must be a whole number of pixels, at least 1; got {image_size!r}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise InvalidInputError(f"workers must be a whole number of processes, at least 0; got {workers!r}.")
    if "workers" in dataset_options(name):
        options["workers"] = workers
    return _registry.make(
        name, {"root": None if root is None else Path(root).expanduser(), "image_size": image_size, **options}
    )
