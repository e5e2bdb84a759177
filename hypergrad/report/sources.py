"""From the paths that were given to the folders of runs and searches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypergrad.errors import InvalidInputError
from hypergrad.files import read_json

#: Of folders inside each other that are looked through.
_DEPTH = 6
#: What a cell that is run again leaves of its former self (``madao~1``): no result of anything.
_ASIDE = "~"


@dataclass(frozen=True)
class Source:
    """A folder of something that was run.

    Attributes:
        path: of the folder, as it was found below a given path.
        kind: ``run`` or ``search``.
    """

    path: Path
    kind: str


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """The runs and searches at the paths and in the folders below them, each once, in the order of their names.

    The runs of a search are part of it. Folders that begin with a dot, reports, and what was moved aside (a name with
    a tilde) are passed over.

    Raises:
        InvalidInputError: no path, one that does not exist, or one that holds no run.
    """
    if not paths:
        raise InvalidInputError("A report needs at least one run. Give the --output folders of finished runs.")
    found: dict[Path, Source] = {}
    for path in paths:
        if not path.is_dir():
            what = "is no folder" if path.exists() else "does not exist"
            raise InvalidInputError(f"{path} {what}. Give the --output folder of a run, a search or a comparison.")
        here = list(_below(path, _DEPTH))
        if not here:
            raise InvalidInputError(
                f"{path} holds no run of hypergrad: there is no config.json or search.json in it or in the folders "
                "below. Give the --output folder of a run, a search or a comparison."
            )
        for source in here:
            found.setdefault(source.path.resolve(), source)
    return list(found.values())


def _below(path: Path, depth: int) -> Iterator[Source]:
    if (path / "search.json").is_file():
        yield Source(path, "search")
    elif (path / "config.json").is_file():
        yield Source(path, "run")
    elif depth:
        for child in sorted(path.iterdir(), key=lambda p: p.name):
            if child.is_dir() and not child.name.startswith(".") and _ASIDE not in child.name:
                yield from _below(child, depth - 1)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InvalidInputError: it cannot be read; the message names the file.
    """
    try:
        content = read_json(path).value
    except InvalidInputError as error:
        raise InvalidInputError(f"{path} cannot be read ({error}) Leave its folder out, or make it anew.") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path} holds no JSON object. Leave its folder out, or make it anew.")
    return content


def read_optional(path: Path) -> dict[str, Any] | None:
    """As :func:`read_object`; None where there is no such file."""
    return read_object(path) if path.is_file() else None
