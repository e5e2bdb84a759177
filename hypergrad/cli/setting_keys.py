"""Every setting of a training run, read off the pydantic model: key, kind, default, description."""

import json
import typing
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hypergrad.vision.config import TrainConfig


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        key: ``"epochs"``, ``"data.name"``.
        method: the method that has it; None outside of the section ``method``.
        kind: what its values are, in words.
        placeholder: for ``--help``, ``"N"``.
        default: as JSON; None when it must be given.
        description: what it is, with its unit.
        annotation: its type.
    """

    key: str
    method: str | None
    kind: str
    placeholder: str
    default: str | None
    description: str
    annotation: Any


def settings() -> list[Setting]:
    """All of them, in the model's order; a key that several methods have comes once for each."""
    found = []
    for name, field in TrainConfig.model_fields.items():
        for section in sections(field):
            method = section.model_fields["name"].default if name == "method" else None
            found += [_setting(f"{name}.{key}", method, f) for key, f in section.model_fields.items()]
        if not sections(field):
            found.append(_setting(name, None, field))
    return found


def sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The models that a field may hold: one for a section, several for the method, none for a plain setting."""
    return [t for t in _members(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]


def option(key: str) -> str:
    """The option of a key: ``--data.image-size``."""
    return "--" + key.replace("_", "-")


def _members(annotation: Any) -> list[Any]:
    """The types that a union consists of, without None."""
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [t for t in typing.get_args(annotation) if t is not type(None)]
    return [annotation]


def _setting(key: str, method: str | None, field: FieldInfo) -> Setting:
    kind, placeholder = _kind(field.annotation)
    value = field.get_default(call_default_factory=True)
    description = field.description or ""
    if key == "method.name":
        description = "How the training images are augmented."
    return Setting(
        key=key,
        method=method,
        kind=" ".join([kind, *_bounds(field)]),
        placeholder=placeholder,
        default=None if value is PydanticUndefined else json.dumps(value, default=str),
        description=description,
        annotation=field.annotation,
    )


def _kind(annotation: Any) -> tuple[str, str]:
    """In words, and in a word."""
    members = _members(annotation)
    if typing.get_origin(members[0]) is Literal:
        values = [str(v) for v in typing.get_args(members[0])]
        return " or ".join(values), "{" + ",".join(values) + "}"
    if typing.get_origin(members[0]) is dict:
        return "names and values", "KEY=VALUE"
    if typing.get_origin(members[0]) is tuple:
        return "names", "NAME,..."
    kinds = {
        bool: ("true or false", "true|false"),
        int: ("whole number", "N"),
        float: ("number", "X"),
        str: ("name", "NAME"),
        Path: ("path", "PATH"),
    }
    return kinds[float] if float in members else kinds[members[0]]


def _bounds(field: FieldInfo) -> list[str]:
    found = []
    for bound in field.metadata:
        for kind, sign in ((annotated_types.Ge, "≥"), (annotated_types.Gt, ">"), (annotated_types.Le, "≤"),
                           (annotated_types.Lt, "<")):  # fmt: skip
            if isinstance(bound, kind):
                found.append(f"{sign} {getattr(bound, kind.__name__.lower()):g}")
    return [", ".join(found)] if found else []
