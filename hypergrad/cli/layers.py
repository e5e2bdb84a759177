"""The settings of a run from their sources: recipe < file < environment < options of the command."""

import argparse
import json
import os
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_settings import BaseSettings, CliSettingsSource, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from hypergrad.cli.parsing import Parser
from hypergrad.cli.setting_keys import Setting, settings
from hypergrad.errors import InvalidInputError
from hypergrad.files import check_depth, read_bytes, read_json, short
from hypergrad.registry import closest
from hypergrad.vision.config import TrainConfig

PREFIX = "HYPERGRAD_"
#: What a section is when it does not say so itself.
_IMPLIED = {"method.name": "madao", "method.solver": "neumann"}
#: A key that says which of several things is meant, to what else of its section belongs to that one thing.
_OWNED: dict[str, tuple[str, ...] | None] = {"name": None, "solver": ("solver_options",)}


class _Settings(TrainConfig, BaseSettings):
    """Only for its sources: the values are validated once, by TrainConfig, after they are merged."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str="null",
    )


@dataclass(frozen=True)
class Layer:
    """Settings from one source.

    Attributes:
        origin: the source, for messages: ``"the environment"``.
        values: nested as in the model.
        is_file: whether somebody else may have written it.
    """

    origin: str
    values: dict[str, Any]
    is_file: bool = False


class Options:
    """The settings as options of a command; adds them to its parser."""

    def __init__(self, parser: Parser) -> None:
        self._source: CliSettingsSource[Any] = CliSettingsSource(_Settings, root_parser=parser, cli_parse_args=False)
        for group in parser._action_groups:
            group.title = (group.title or "").replace(" options", "")
        known = settings()
        for action in parser._actions:
            _explain(action, [s for s in known if s.key == action.dest])

    def layer(self, parsed: argparse.Namespace) -> Layer:
        """What was given of them.

        Raises:
            InvalidInputError: an option that holds several values cannot be split into them.
        """
        known = {s.key for s in settings()}
        given = {key: value for key, value in vars(parsed).items() if key in known}
        try:
            values: dict[str, Any] = self._source(parsed_args=given)()
        except SettingsError as error:
            raise InvalidInputError(
                f"An option cannot be read ({error}). Write --method.solver-options alpha=0.1,num_hvps=5, or JSON."
            ) from error
        return Layer("the command line", _typed(values))


def _explain(action: argparse.Action, found: list[Setting]) -> None:
    """A short form for the name of a section, and help in our words."""
    if action.dest in ("data", "model", "method"):
        # pydantic-settings puts a hidden option for the section as JSON there.
        action.dest, action.nargs, action.const = f"{action.dest}.name", None, None
        action.help, action.metavar = f"short for --{action.dest}", "NAME"
        return
    if not found:
        return
    action.metavar = found[0].placeholder
    if action.dest == "method.name":
        action.metavar = "{" + ",".join(str(s.method) for s in found) + "}"
        action.help = f"{found[0].description} (default: {TrainConfig().method.name})"
        return
    action.help = f"{found[0].description} ({_defaults(found)})".replace("%", "%%")


def _defaults(found: list[Setting]) -> str:
    """The default, or each method's."""
    texts = ["needed" if s.default is None else f"default: {_plain(s.default)}" for s in found]
    if found[0].method is None:
        return texts[0]
    if len(set(texts)) == 1:
        return f"{', '.join(str(s.method) for s in found)}; {texts[0]}"
    return "; ".join(f"{s.method}, {text}" for s, text in zip(found, texts, strict=True))


def _plain(text: str) -> str:
    value = json.loads(text)
    return value if isinstance(value, str) else text


def environment_layer(environment: Mapping[str, str] = os.environ) -> Layer:
    """The settings in environment variables, ``HYPERGRAD_DATA__NAME``.

    Raises:
        InvalidInputError: a variable with the prefix that is no setting, or a section that is not JSON.
    """
    _check_variables([name.upper() for name in environment if name.upper().startswith(PREFIX)])
    try:
        values: dict[str, Any] = EnvSettingsSource(_Settings)()
    except SettingsError as error:
        raise InvalidInputError(
            f"The environment's settings cannot be read ({error}). A whole section is given as JSON; one setting of it "
            f"as {PREFIX}DATA__NAME=digits."
        ) from error
    return Layer("the environment", _typed(values))


def _check_variables(names: Sequence[str]) -> None:
    known = {s.key for s in settings()}
    sections = {key.partition(".")[0] for key in known if "." in key}
    holding = {s.key for s in settings() if s.placeholder == "KEY=VALUE"}
    for name in names:
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        if key in known | sections or ".".join(key.split(".")[:2]) in holding:
            continue
        variables = [PREFIX + k.replace(".", "__").upper() for k in sorted(known)]
        raise InvalidInputError(
            f"The environment variable {name} is no setting.{closest(name, variables)} Mend its name, or unset it."
        )


def file_layer(path: Path) -> Layer:
    """The settings of a file, JSON or TOML.

    Raises:
        InvalidInputError: no such file, or not a table of settings.
    """
    content: Any
    if path.suffix.lower() == ".toml":
        try:
            content = tomllib.loads(read_bytes(path).decode())
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"{path} cannot be read as TOML ({error}). Mend it there.") from error
        check_depth(content, str(path))
    else:
        content = read_json(path).value
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{path} must hold an object with settings; it holds {type(content).__name__} {short(content, 40)}. "
            'Write {"epochs": 10}, for example.'
        )
    return Layer(str(path), content, is_file=True)


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """The layers laid over each other, the last on top.

    Where a layer names another method, model or data set than those below, the rest of that section below is dropped:
    it belongs to the other one. Likewise the options of a solver.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.values.items():
            below = result.get(key)
            both = isinstance(below, dict) and isinstance(value, dict)
            result[key] = _over(below, value, key) if both else value
    method = result.get("method")
    if isinstance(method, dict):
        result["method"] = {"name": _IMPLIED["method.name"], **method}
    return result


def _over(below: Any, above: Any, section: str) -> dict[str, Any]:
    kept = dict(below)
    for key, owned in _OWNED.items():
        before = below.get(key, _IMPLIED.get(f"{section}.{key}"))
        if key in above and before is not None and above[key] != before:
            kept = {} if owned is None else {k: v for k, v in kept.items() if k not in owned}
    for key, value in above.items():
        both = isinstance(kept.get(key), dict) and isinstance(value, dict)
        kept[key] = {**kept[key], **value} if both else value
    return kept


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Text from an option or a variable as what it stands for, where pydantic would leave it text or refuse it."""
    found = {s.key: s for s in settings()}

    def typed(key: str, value: Any) -> Any:
        setting = found.get(key)
        if setting is None:
            return {k: typed(f"{key}.{k}", v) for k, v in value.items()} if isinstance(value, dict) else value
        if setting.placeholder == "KEY=VALUE" and isinstance(value, dict):
            return {k: _scalar(v) for k, v in value.items()}
        if setting.placeholder == "NAME,..." and isinstance(value, str):
            return [part.strip() for part in value.split(",")]
        return _scalar(value) if _is_numeric_choice(setting.annotation) else value

    return {key: typed(key, value) for key, value in values.items()}


def _scalar(value: Any) -> Any:
    """``"0.05"`` as a number and ``"true"`` as a truth value; other text as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, bool | int | float) else value


def _is_numeric_choice(annotation: Any) -> bool:
    kinds = [annotation, *typing.get_args(annotation)]
    return any(typing.get_origin(k) is Literal and all(isinstance(v, int) for v in typing.get_args(k)) for k in kinds)
