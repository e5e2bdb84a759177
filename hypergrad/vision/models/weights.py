"""Pretrained weights: read from a file, checked by name and shape, and reported."""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.optional import require

# What wrappers put in front of every name: DataParallel, torch.compile, and Normalised.
_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
_SHOWN = 5


@dataclass(frozen=True)
class WeightsReport:
    """What :func:`load_weights` did; names are those of the network's ``state_dict``.

    Attributes:
        loaded: tensors of the network that have the file's values now.
        left: tensors of the network that kept their initialisation: those of a head that the file does not fit, and
            the batch counters of norm layers, which old files lack and nothing here uses.
        unexpected: tensors of the file that the network has no part for.
    """

    loaded: tuple[str, ...]
    left: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded; left as initialised: {', '.join(self.left) or 'none'}; "
            f"no place in the network: {', '.join(self.unexpected) or 'none'}"
        )


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, strict_head: bool = False) -> WeightsReport:
    """Start a network from the weights in a file.

    Everything but the head must fit by name and shape, and the file may hold nothing else for the network's parts (a
    deeper network of the same family does); else nothing is changed. The head is the network's last ``nn.Linear``. It
    is loaded where it fits, and left as it is, and reported, where it is missing from the file or has another size.
    Prefixes that wrappers leave on every name (``module.``, ``_orig_mod.``, ``model.``) are ignored. Values are
    converted to the network's dtype and device.

    Args:
        model: the network itself, without :class:`~hypergrad.vision.models.normalised.Normalised` around it.
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file with a ``state_dict``, or with a
            dictionary that has one under ``"state_dict"``. The latter are read as data only: a file that holds code
            is refused.
        strict_head: refuse a head that does not fit.

    Returns:
        What was loaded, what was left, and what the file holds besides.

    Raises:
        InvalidInputError: the file is missing, cannot be read or holds no tensors; or the weights do not fit, and the
            message lists up to five tensors with their shapes.
        MissingLibraryError: safetensors is not installed and the file needs it.
    """
    path = Path(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    given = _read(path)
    if not own.keys() & given.keys():
        given = {_WRAPPERS.sub("", name): tensor for name, tensor in given.items()}

    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    in_head = {name for name in own if head and _within(name, head[0])}
    if in_head == own.keys():  # a linear classifier: leaving its head would load nothing
        in_head = set()
    wrong = {name: reason for name in own if (reason := _misfit(name, own[name], given)) is not None}
    unexpected = sorted(given.keys() - own.keys())
    left = {name for name in wrong if name.endswith("num_batches_tracked") and name not in given}
    if not strict_head and in_head & wrong.keys():
        left |= in_head  # as a whole: a new weight with an old bias is neither
    parts = {name.partition(".")[0] for name in own}
    surplus = [name for name in unexpected if name.partition(".")[0] in parts and not (head and _within(name, head[0]))]
    problems = [wrong[name] for name in wrong if name not in left]
    problems += [f"{name} is in the file only" for name in surplus]
    if problems:
        listed = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        raise InvalidInputError(
            f"{path} does not fit this {type(model).__name__} in {len(problems)} tensors: {listed}. Take the network "
            "(and its norm, channels and classes) that the weights were trained with. Nothing was loaded."
        )
    loaded = [name for name in own if name not in left]
    model.load_state_dict({name: given[name] for name in loaded}, strict=False)
    return WeightsReport(tuple(loaded), tuple(name for name in own if name in left), tuple(unexpected))


def _within(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")


def _misfit(name: str, own: Tensor, given: Mapping[str, Tensor]) -> str | None:
    """Why the file's tensor cannot take the place of the network's, or None."""
    found = given.get(name)
    if found is None:
        return f"{name} is not in the file"
    if found.shape != own.shape:
        return f"{name} is {tuple(found.shape)} in the file and {tuple(own.shape)} in the network"
    if found.layout is not torch.strided or found.is_quantized or found.is_complex() or found.device.type != "cpu":
        return f"{name} is {found.dtype}, {found.layout}, on {found.device} in the file, and must be plain numbers"
    if found.is_floating_point() and not bool(found.isfinite().all()):
        return f"{name} has NaN or infinite values in the file"
    if found.is_floating_point() != own.is_floating_point():
        return f"{name} is {found.dtype} in the file and {own.dtype} in the network"
    return None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InvalidInputError(f"The weights {path} do not exist, or are no file. Give a .safetensors or .pth file.")
    kind = path.suffix.lower()
    if kind not in (".safetensors", ".pt", ".pth", ".bin"):
        raise InvalidInputError(f"Weights are read from .safetensors, .pt, .pth and .bin files; got {path}.")
    content: Any
    if kind == ".safetensors":
        safetensors = require("safetensors.torch", "Reading weights from .safetensors", "vision")
    try:
        if kind == ".safetensors":
            content = safetensors.load_file(path, device="cpu")
        else:
            _check_size(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way in both libraries
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InvalidInputError(
            f"The weights {path} cannot be read ({type(error).__name__}: {reason}). Either the file is damaged or cut "
            "off, or it holds more than tensors: save model.state_dict() alone, best as .safetensors."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )
    if not tensors or not content:
        raise InvalidInputError(
            f"The weights {path} must hold a dictionary of names and tensors, as model.state_dict() gives; got "
            f"{_described(content)}."
        )
    return dict(content)


def _check_size(path: Path) -> None:
    """Refuse an archive that is small and claims to be large; those of torch are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
        if claimed > size:
            raise ValueError(f"it has {size} bytes and claims to hold {claimed}")


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return f"a dictionary with {', '.join(repr(key) for key in list(content)[:_SHOWN]) or 'nothing'}"
