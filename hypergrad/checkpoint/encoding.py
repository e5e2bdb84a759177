"""A state as JSON and named tensors, and back, equal in everything that a resumed run can see.

JSON knows neither integer keys nor tuples nor infinities, and a file of tensors neither strides nor that two names
are one tensor; here each of them is tagged: an object with the key ``"$"``. What has no tag is refused, not guessed:
nothing is ever pickled.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError

TAG = "$"

#: What the file format holds; complex and quantised tensors are refused.
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


def encode(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """A state as what JSON holds, and its tensors by name: contiguous copies on the CPU.

    Args:
        value: None, truth values, numbers, strings, lists, tuples, dictionaries with keys of these kinds, counters,
            dtypes, and tensors, nested as deeply as one likes. Tensors that are the same elements in the same order
            (tied weights) are stored once, and are one tensor again afterwards.

    Raises:
        InvalidInputError: names the place and the type of what cannot be stored.
    """
    encoder = _Encoder()
    return encoder.encode(value, "state"), encoder.tensors


def decode(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`encode` was given.

    Raises:
        InvalidInputError: names the place of what :func:`encode` does not write.
    """
    return _Decoder(tensors).decode(content, "state")


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same, bit for bit (NaN equals NaN, 0.0 is not -0.0), with types and strides."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a.dtype, a.shape, _steps(a)) == (b.dtype, b.shape, _steps(b)) and _bytes(a) == _bytes(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(type(x) is type(y) and equal(a[x], b[y]) for x, y in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return bool(a == b)


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._kept: list[Tensor] = []  # so that no address is used twice while we look at addresses

    def encode(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, str, int):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
        if type(value) is list:
            return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if type(value) is tuple or isinstance(value, torch.Size):
            kind = "tuple" if type(value) is tuple else "size"
            return {TAG: kind, "items": [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, Mapping) and type(value).__name__ in ("dict", "OrderedDict", "mappingproxy"):
            return self._mapping(value, where)
        if type(value) is Counter:  # the milestones of a learning-rate scheduler
            return {TAG: "counter", "items": [[self.encode(k, f"a key of {where}"), n] for k, n in value.items()]}
        if isinstance(value, torch.dtype):
            return {TAG: "dtype", "value": str(value).removeprefix("torch.")}
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        raise InvalidInputError(
            f"{where} is of type {type(value).__qualname__}, which a checkpoint cannot hold (nothing is pickled). "
            "Use numbers, strings, lists, tuples, dictionaries and tensors."
        )

    def _mapping(self, value: Mapping[Any, Any], where: str) -> Any:
        if all(type(k) is str for k in value) and TAG not in value:
            return {k: self.encode(v, f"{where}.{k}") for k, v in value.items()}
        pairs = [[self.encode(k, f"a key of {where}"), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]
        return {TAG: "dict", "items": pairs}

    def _tensor(self, value: Tensor, where: str) -> Any:
        tensor = value.detach()
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES or tensor.layout is not torch.strided:
            raise InvalidInputError(
                f"{where} is a tensor of {tensor.dtype}, {tensor.layout}, which a checkpoint cannot hold. There are: "
                f"{', '.join(DTYPES)}, dense."
            )
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        name = self._names.get(place) if tensor.numel() else None
        if name is None:
            name = f"t{len(self.tensors)}"
            self._names[place] = name
            self._kept.append(tensor)
            self.tensors[name] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()
        result: dict[str, Any] = {TAG: "tensor", "name": name}
        if not tensor.is_contiguous() and _dense(tensor):
            result["stride"] = list(tensor.stride())
        return result


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def decode(self, content: Any, where: str) -> Any:
        if isinstance(content, list):
            return [self.decode(v, f"{where}[{i}]") for i, v in enumerate(content)]
        if not isinstance(content, dict):
            return content
        if TAG not in content:
            return {k: self.decode(v, f"{where}.{k}") for k, v in content.items()}
        try:
            return self._tagged(content, where)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            if isinstance(error, InvalidInputError):
                raise
            shown = repr(content)
            raise InvalidInputError(
                f"{where} of the checkpoint cannot be read ({error!r}): {shown[:80]}. The file is damaged, or of "
                "another program."
            ) from error

    def _tagged(self, content: dict[str, Any], where: str) -> Any:
        kind = content[TAG]
        if kind == "float":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content["value"]]
        if kind == "dtype":
            return DTYPES[content["value"]]
        if kind in ("tuple", "size"):
            items = tuple(self.decode(v, f"{where}[{i}]") for i, v in enumerate(content["items"]))
            return items if kind == "tuple" else torch.Size(items)
        if kind == "dict":
            return {self.decode(k, where): self.decode(v, f"{where}[{k!r}]") for k, v in content["items"]}
        if kind == "counter":
            return Counter({self.decode(k, where): int(n) for k, n in content["items"]})
        if kind == "tensor":
            stride = content.get("stride")
            place = (content["name"], None if stride is None else tuple(stride))
            if place not in self._made:
                self._made[place] = _strided(self._tensors[content["name"]], stride)
            return self._made[place]
        raise InvalidInputError(f"{where} of the checkpoint has the unknown tag {kind!r}. Update hypergrad.")


def _strided(tensor: Tensor, stride: list[int] | None) -> Tensor:
    """The elements with these strides, which must reach each element once."""
    if stride is None:
        return tensor
    order = sorted((s, n) for s, n in zip(stride, tensor.shape, strict=True) if n > 1)
    expected = 1
    for step, length in order:
        if step != expected:
            raise ValueError(f"strides {stride} do not fit the shape {tuple(tensor.shape)}")
        expected *= length
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill their storage without holes and overlaps, in whatever order."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _steps(tensor: Tensor) -> list[int]:
    """Strides, where there is anything to step over."""
    return [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1] if tensor.numel() else []


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
