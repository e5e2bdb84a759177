"""What pydantic refuses, in our words: one line a setting, with the value, where it came from, and the remedy."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hypergrad.cli.layers import Layer
from hypergrad.cli.setting_keys import sections, settings
from hypergrad.errors import InvalidInputError
from hypergrad.files import short
from hypergrad.registry import closest
from hypergrad.vision.config import TrainConfig

_ABSENT = object()


def validated(values: dict[str, Any], layers: Sequence[Layer]) -> TrainConfig:
    """The configuration.

    Args:
        values: merged.
        layers: what they were merged from, for messages.

    Raises:
        InvalidInputError: a line for each setting that cannot be.
    """
    _check_code(layers)
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for details in error.errors():
            path = _path(details, values)
            key = ".".join(path)
            # The members of a union each complain; the first says enough.
            lines.setdefault(key, f"{key}: {_reason(details, path, values)}{_origin(path, layers)}".removeprefix(": "))
        raise InvalidInputError("\n".join(lines.values())) from error


def _check_code(layers: Sequence[Layer]) -> None:
    """Refuse an import path that stands in a file alone: it would be imported, and the file may be anybody's.

    Raises:
        InvalidInputError: there is one; the message says how to confirm it.
    """
    for section, key in (("model", "name"), ("method", "proxy_model")):
        given = [(x, held[key]) for x in layers if isinstance(held := x.values.get(section), dict) and key in held]
        if given and given[-1][0].is_file and ":" in str(given[-1][1]):
            layer, name = given[-1]
            raise InvalidInputError(
                f"{section}.{key}: {short(name)} (from {layer.origin}) is an import path, whose code would run. If it "
                f"is yours, say so on the command line: --{section}.{key.replace('_', '-')} {short(name)}"
            )


def _path(details: ErrorDetails, values: dict[str, Any]) -> list[str]:
    """The keys that lead to the value; pydantic also names the members of unions that it tried."""
    path: list[str] = []
    held: Any = values
    for part in details["loc"]:
        if not isinstance(held, dict):
            break
        if part == held.get("name") and part not in held:  # the method's name, where its key would stand
            continue
        path.append(str(part))
        held = held.get(part)
    return [*path, "name"] if details["type"] == "union_tag_invalid" else path


def _reason(details: ErrorDetails, path: list[str], values: dict[str, Any]) -> str:
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return _unknown(path, values)
    if kind == "missing":
        return "must be given"
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        tag = details.get("ctx", {}).get("tag", "")
        names = _methods()
        return f"unknown method {tag!r}.{closest(str(tag), names)} There are: {', '.join(names)}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a section with settings; got {short(given)}"
    return f"{details['msg'].replace('Input should be', 'must be')}; got {short(given)}"


def _unknown(path: list[str], values: dict[str, Any]) -> str:
    """A key that does not exist, or belongs to another method."""
    key = ".".join(path)
    found = settings()
    if path[0] == "method":
        name = values["method"]["name"]
        others = [str(s.method) for s in found if s.key == key]
        known = [s.key for s in found if s.method == name]
        whose = f" It is a setting of {', '.join(others)}." if others else closest(key, known)
        return f"the method {name!r} has no such setting.{whose} There are: {', '.join(known)}"
    known = [s.key for s in found] + list(TrainConfig.model_fields)
    return f"there is no such setting.{closest(key, known)}"


def _methods() -> list[str]:
    return [model.model_fields["name"].default for model in sections(TrainConfig.model_fields["method"])]


def _origin(path: list[str], layers: Sequence[Layer]) -> str:
    """The highest layer that has the value."""
    for layer in reversed(layers):
        held: Any = layer.values
        for part in path:
            held = held.get(part, _ABSENT) if isinstance(held, dict) else _ABSENT
        if path and held is not _ABSENT:
            return f" (from {layer.origin})"
    return ""
