"""An undocumented public name fails the build."""

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import hypergrad

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()
DIRECTIVES = re.findall(r"^::: (\S+)$", API, re.MULTILINE)


def resolve(path: str) -> object:
    """The object that a dotted path names."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"docs/api.md names {path}, which does not exist")


@pytest.mark.parametrize("name", hypergrad.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(hypergrad, name)
    if isinstance(value, str):  # __version__
        return
    assert inspect.getdoc(value), f"hypergrad.{name} has no docstring"
    # By its name, or by the page of the module that defines it.
    named = re.search(rf"\bhypergrad\.{re.escape(name)}\b", API)
    assert named or getattr(value, "__module__", None) in DIRECTIVES, f"hypergrad.{name} is not in docs/api.md"


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_what_the_reference_names_exists_and_is_documented(directive: str) -> None:
    assert inspect.getdoc(resolve(directive)), f"{directive} has no docstring"


def test_names_are_unique_and_the_version_is_the_distribution_s() -> None:
    assert len(set(hypergrad.__all__)) == len(hypergrad.__all__)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert hypergrad.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
