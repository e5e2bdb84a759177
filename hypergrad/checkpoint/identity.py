"""What a run is: a checkpoint may be resumed by the same run only, and the difference is shown otherwise."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import hypergrad.version

_ABSENT = object()


def code_identity() -> dict[str, Any]:
    """What the bits of a result depend on besides the settings: versions, threads and processor architecture."""
    return {
        "hypergrad": hypergrad.version.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def digest(*tensors: Tensor | None) -> str:
    """SHA-256 of dtypes, shapes and elements, in hexadecimal: data, or parameters to be compared between ranks."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            found.update(b"none;")
            continue
        found.update(f"{tensor.dtype}{tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def differences(before: Any, now: Any) -> list[str]:
    """Sentences, one for each value that differs, by the way to it: ``config.lr was 0.1 and is 0.2``."""
    return [f"{where} was {_shown(a)} and is {_shown(b)}" for where, a, b in _differing(before, now, "")]


def _differing(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            way = f"{where}.{key}" if where else str(key)
            yield from _differing(a.get(key, _ABSENT), b.get(key, _ABSENT), way)
    elif a is _ABSENT or b is _ABSENT or type(a) is not type(b) or a != b:
        yield where or "identity", a, b


def _shown(value: Any) -> str:
    text = "absent" if value is _ABSENT else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
