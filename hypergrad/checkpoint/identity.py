"""What a run is: a checkpoint may be resumed by the same run only, and the difference is shown otherwise."""

import dataclasses
import enum
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


def described(value: Any) -> Any:
    """The settings of a solver, an estimator, an optimizer or a scheduler, as plain values in nested dictionaries.

    Of a dataclass its fields, of an optimizer the options of each group, of a scheduler its state, of a tensor with
    one element its value and of a larger one its hash, of a function and of any other object the name alone. So what
    an object of another kind was made with is not seen.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [described(v) for v in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else digest(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    kind = value if isinstance(value, type) else type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": kind.__qualname__, **fields}
    if isinstance(value, torch.optim.Optimizer):
        groups = [{k: len(v) if k == "params" else described(v) for k, v in g.items()} for g in value.param_groups]
        return {"class": kind.__qualname__, "groups": {str(i): group for i, group in enumerate(groups)}}
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return {"class": kind.__qualname__, **described(value.state_dict())}
    return str(getattr(value, "__qualname__", kind.__qualname__))


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
