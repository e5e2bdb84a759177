"""What a search was asked to do: the file ``search.json`` of its folder."""

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.files import Field, read_json, write_atomically
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.searching.base import PolicySearch
from hypergrad.vision.searching.table import make_search

#: Of the folder's layout.
SCHEMA = 1
#: The file's name.
FILE = "search.json"
#: Where attempts are kept unless another place is asked for, relative to the folder.
JOURNAL = "journal:journal.log"
_FIELDS = (
    "schema", "kind", "search", "options", "channels", "study", "method", "trials", "seconds", "seed", "pruning",
    "storage", "config", "space",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search over whole trainings.

    Attributes:
        name: of the search.
        search: it, with the options that were asked for.
        channels: of the images, 1 or 3.
        study: its name in the storage.
        trials: trainings in total; None: all of a grid, or as many as the time allows.
        seconds: no training starts once those before took that long together; None: no limit.
        seed: of the proposals.
        pruning: whether hopeless trainings are given up.
        storage: URL; ``journal:NAME`` is a file in the search's folder.
        config: what all trainings share; its method is the standard augmentation, which each training replaces.
    """

    name: str
    search: PolicySearch = field(repr=False)
    channels: int
    study: str
    trials: int | None
    seconds: float | None
    seed: int
    pruning: bool
    storage: str
    config: TrainConfig = field(repr=False)

    @property
    def settled(self) -> PolicySearch:
        """The search with the options that depend on the images."""
        return self.search.for_images(self.channels)

    def url(self, folder: Path) -> str:
        """The storage, wherever the folder is now."""
        kind, _, place = self.storage.partition(":")
        return f"journal:{folder / place}" if kind == "journal" else self.storage

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        space = self.settled.space(self.seed)
        return {
            "schema": SCHEMA,
            "kind": "search",
            "search": self.name,
            "options": asdict(self.search),  # type: ignore[call-overload]
            "channels": self.channels,
            "study": self.study,
            "method": self.search.proposals,
            "trials": self.trials,
            "seconds": self.seconds,
            "seed": self.seed,
            "pruning": self.pruning,
            "storage": self.storage,
            "config": self.config.model_dump(mode="json"),
            "space": {name: {"kind": type(part).__name__.lower(), **asdict(part)} for name, part in space.items()},
        }

    def write(self, folder: Path) -> None:
        """Write the file."""
        write_atomically(folder / FILE, json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n")


def read_plan(folder: Path) -> Plan:
    """Read the file.

    Raises:
        InvalidInputError: the folder is no search's, or a field of the file cannot be; the message names it.
        UnknownNameError: a search that is not registered (one of your own must be imported first).
    """
    if not (folder / FILE).is_file():
        raise InvalidInputError(f"{folder} is no search of hypergrad: it has no {FILE}. Give the --output of a search.")
    content = read_json(folder / FILE)
    held = content.fields(*_FIELDS)
    if held["schema"].integer(1) > SCHEMA:
        raise InvalidInputError(
            f"{content.file}: schema is {held['schema'].value}, and this version of hypergrad reads up to {SCHEMA}. "
            "Install a newer one: pip install -U hypergrad-toolkit."
        )
    held["kind"].one_of("search")
    if not isinstance(held["options"].value, dict):
        raise held["options"].error("an object")
    try:
        config = TrainConfig.model_validate(held["config"].value)
    except ValueError as error:
        raise InvalidInputError(
            f"{content.file}: config is no configuration of a run: {' '.join(str(error).split())}. Mend it there."
        ) from error
    name = held["search"].text()
    try:
        search = make_search(name, held["options"].value)
    except UnknownNameError as error:
        raise UnknownNameError(f"{content.file}: {error}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{content.file}: {error}") from error
    return Plan(
        name=name,
        search=search,
        channels=held["channels"].integer(1),
        study=held["study"].text(),
        trials=_optional(held["trials"], lambda value: value.integer(1)),
        seconds=_optional(held["seconds"], Field.positive),
        seed=held["seed"].integer(0),
        pruning=held["pruning"].flag(),
        storage=held["storage"].text(),
        config=config,
    )


def _optional(value: Field, read: Any) -> Any:
    return None if value.value is None else read(value)


def stored(storage: str | None) -> str:
    """The URL as the file keeps it.

    Raises:
        InvalidInputError: it holds a password, which would stand in the file.
    """
    if storage is None:
        return JOURNAL
    kind, _, place = storage.partition(":")
    if kind == "journal":
        if not place:
            raise InvalidInputError(f"The storage {storage!r} names no file. Give journal:PATH.")
        return f"journal:{os.path.abspath(place)}"
    if kind == "sqlite":
        file = place.removeprefix("///")
        return f"sqlite:///{os.path.abspath(file)}"
    try:
        password = urlsplit(storage).password
    except ValueError as error:
        raise InvalidInputError(f"The storage is no URL ({error}). Give postgresql://USER@HOST/DATABASE.") from error
    if password is not None or re.search(r"[?&]password=", storage):
        shown = storage.replace(f":{password}@", "@") if password else storage.partition("?")[0]
        raise InvalidInputError(
            f"The storage's URL holds a password, which the search's folder would keep. Give {shown}, and the password "
            "in the environment variable PGPASSWORD or in ~/.pgpass."
        )
    return storage


def study_name(name: str, storage: str) -> str:
    """A name for the study: the search's own in a file of its own, else one that no other search has."""
    return name if storage == JOURNAL else f"{name}-{secrets.token_hex(4)}"
