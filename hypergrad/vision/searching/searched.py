"""What a search has left so far, read from its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypergrad.baselines import Finished, SearchResult, read_search
from hypergrad.errors import HypergradError, InvalidInputError, UnknownNameError
from hypergrad.files import Field, Pathlike, read_json, write_atomically
from hypergrad.vision.run import Recorded, read_run
from hypergrad.vision.searching.attempt_run import BROKE_DOWN
from hypergrad.vision.searching.plan import FILE, SCHEMA, Plan, read_plan

#: Its presence says that the search is finished.
RESULT = "result.json"


@dataclass(frozen=True)
class Searched:
    """A search over whole trainings.

    Attributes:
        path: its folder.
        plan: the content of its ``search.json``.
        attempts: one record a training that ended, by number: ``number``, ``state`` ("complete", "pruned" or
            "failed"), ``value`` (the validation error in percent, None unless complete), ``params``, ``seconds`` (of
            the whole attempt: reading, training, evaluating), ``run`` (its folder, relative to ``path``; None where it
            has none here), ``error`` (of a failed one), ``passes``, ``test_error`` (None where there is none).
        best: the run with the lowest validation error; None where none is complete, or its folder is elsewhere.
        result: the content of ``result.json``; None while the search runs, or when it was stopped.
    """

    path: Path
    plan: dict[str, Any] = field(repr=False)
    attempts: list[dict[str, Any]] = field(repr=False)
    best: Recorded | None
    result: dict[str, Any] | None = field(repr=False)


def read_searched(path: Pathlike) -> Searched:
    """Read a search's folder. Of one that is finished, only files are read; else the storage of its attempts as well.

    Raises:
        InvalidInputError: no search, or a file of it is broken.
        MissingLibraryError: the search is not finished, and Optuna is not installed.
    """
    folder = Path(path)
    plan = read_plan(folder)
    content = read_json(folder / FILE).value
    if not (folder / RESULT).is_file():
        try:
            attempts = records(folder, read_search(plan.url(folder), plan.study))
        except UnknownNameError:  # stopped before it was made
            attempts = []
        except InvalidInputError:
            kind, _, place = plan.url(folder).partition(":")
            if kind == "journal" and Path(place).exists():  # it is damaged
                raise
            attempts = []
        return Searched(folder, content, attempts, _best(folder, attempts), None)
    held = read_json(folder / RESULT)
    attempts = [_check(row) for row in held.member("attempts").items()]
    return Searched(folder, content, attempts, _best(folder, attempts), held.value)


def records(folder: Path, result: SearchResult) -> list[dict[str, Any]]:
    """The attempts of the storage as :class:`Searched` has them."""
    return [_record(folder, attempt) for attempt in result.attempts]


def _record(folder: Path, attempt: Finished) -> dict[str, Any]:
    run = attempt.notes.get("run")
    here = isinstance(run, str) and ".." not in Path(run).parts and (folder / run / "config.json").is_file()
    passes = attempt.notes.get("passes")
    return {
        "number": attempt.number,
        "state": attempt.state,
        "value": attempt.value,
        "params": dict(attempt.params),
        "seconds": attempt.seconds,
        "run": run if here else None,
        "error": attempt.error,
        "passes": passes if passes is not None else _steps(folder / str(run)) if here else 0,
        "test_error": attempt.notes.get("test_error"),
    }


def _steps(path: Path) -> int:
    """Steps of the whole epochs of a run that did not end; each is a pass, because nothing is learned beside it."""
    try:
        epochs = read_run(path).epochs
    except HypergradError:
        return 0
    return int(epochs[-1]["step"]) if epochs else 0


def _best(folder: Path, attempts: list[dict[str, Any]]) -> Recorded | None:
    row = lowest_of(attempts)
    return None if row is None or row["run"] is None else read_run(folder / row["run"])


def _check(row: Field) -> dict[str, Any]:
    """A record of ``result.json``, if it is one; its run lies within the search's folder."""
    row.member("number").integer(0)
    row.member("state").one_of("complete", "pruned", "failed")
    value, run = row.member("value"), row.member("run")
    if row.value["state"] == "complete":
        value.number()
    if run.value is not None and (".." in Path(run.text()).parts or Path(run.text()).is_absolute()):
        raise run.error("a folder within the search's")
    checked: dict[str, Any] = row.value
    return checked


def lowest_of(attempts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The complete attempt of the lowest value; the first of equal ones."""
    complete = [row for row in attempts if row["state"] == "complete"]
    return min(complete, key=lambda row: (row["value"], row["number"]), default=None)


def is_decided(attempt: Finished) -> bool:
    """Whether an attempt has ended for good: by its value, the pruner, or a loss that is not finite any more."""
    return attempt.state in ("complete", "pruned") or BROKE_DOWN in attempt.notes


def write_result(folder: Path, plan: Plan, attempts: list[dict[str, Any]]) -> None:
    """Write ``result.json``."""
    best = lowest_of(attempts)
    content: Mapping[str, Any] = {
        "schema": SCHEMA,
        "search": plan.name,
        "best": None if best is None else best["number"],
        "attempts": attempts,
        "seconds": sum(row["seconds"] for row in attempts),
        "passes": sum(row["passes"] for row in attempts),
        "complete": sum(row["state"] == "complete" for row in attempts),
        "pruned": sum(row["state"] == "pruned" for row in attempts),
        "failed": sum(row["state"] == "failed" for row in attempts),
    }
    write_atomically(folder / RESULT, json.dumps(content, indent=2, allow_nan=False) + "\n")
