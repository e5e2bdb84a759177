"""A cell of a study and its folder: a whole run, or a search of several; finished, unfinished, or something else."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hypergrad.baselines import SearchFailedError
from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.files import write_atomically
from hypergrad.vision.config import Standard, TrainConfig
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import FOLDER, OtherRunError
from hypergrad.vision.run import SCHEMA, Recorded, RunDirectory, read_run
from hypergrad.vision.searching import read_searched, search_and_record
from hypergrad.vision.searching.plan import FILE, read_plan
from hypergrad.vision.searching.table import make_search

#: What is beside a run's own files: why it broke down, and what the study knows of it.
_FAILURE, _NOTE = "failure.json", "cell.json"
#: What a run's folder holds before its configuration.
_FIRST = ("policies", FOLDER)
#: What the note was called before; studies of that time are read as well.
_FORMER_NOTE = "benchmark.json"


@dataclass(frozen=True)
class Cell:
    """One run of a study, or one search.

    Attributes:
        row: its label; with the seed it names the cell.
        seed: of the run, as in the configuration.
        config: everything that decides the result; of a search, what its attempts share (its method is not used).
        search: name of the search over the method, see :mod:`hypergrad.vision.searching`; None for a run.
        trials: attempts of the search; None: the search's own number.
        options: of the search.
    """

    row: str
    seed: int
    config: TrainConfig
    search: str | None = None
    trials: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def cell_path(output: Path, cell: Cell) -> Path:
    """The folder of the cell's run or search."""
    return output / f"seed{cell.seed}" / re.sub(r"[^A-Za-z0-9.=-]+", "_", cell.row)


def failure(run: Recorded) -> str | None:
    """Why the run broke down (its loss was not finite any more); None for one that ended."""
    content = _read(run.path / _FAILURE)
    return None if content is None else str(content["error"])


def note(run: Recorded) -> dict[str, Any]:
    """What the study wrote beside the run: ``seconds`` of the whole cell, and what else it was given (``commit``)."""
    return _read(run.path / _NOTE) or _read(run.path / _FORMER_NOTE) or {"commit": None, "seconds": None}


def is_finished(output: Path, cell: Cell) -> bool:
    """Whether the cell's folder holds a finished (or failed) run, or search, of exactly its configuration."""
    path = cell_path(output, cell)
    if not _is_of(path, cell):
        return False
    ends = [_read(path / "result.json"), _read(path / _FAILURE)]
    return any(end is not None and end.get("schema") == SCHEMA for end in ends)


def _is_of(path: Path, cell: Cell) -> bool:
    """Whether what is in the folder was asked for by this cell."""
    if cell.search is None:
        try:
            # Read into the model: a setting that came later, with the default that the code had before, changes
            # nothing.
            return TrainConfig.model_validate(_read(path / "config.json")) == cell.config
        except ValidationError:
            return False
    try:
        plan = read_plan(path)
    except InvalidInputError:
        return False
    shared = cell.config.model_copy(update={"method": Standard()})
    same = plan.search == make_search(cell.search, cell.options) and plan.config == shared
    return same and cell.trials in (None, plan.trials)


def make_room(output: Path, cell: Cell) -> None:
    """Move what another run left out of the way; nothing is deleted. An unfinished run or search is continued.

    Raises:
        InvalidInputError: what is there is neither a run nor a search.
    """
    path = cell_path(output, cell)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    over = (path / "result.json").exists() or (path / _FAILURE).exists()  # and not by this cell, or broken
    if _is_of(path, cell) and (cell.search is not None or not over):
        return
    # A run that is ended while its folder is made leaves no more than this.
    begun = path.is_dir() and all(p.name in _FIRST or p.name.startswith(".hypergrad-") for p in path.iterdir())
    if not begun and not (path / "config.json").is_file() and not (path / FILE).is_file():
        raise InvalidInputError(
            f"{path} is in the place of a run, and is none (it has no config.json). Move it away, or name another "
            "--output."
        )
    _move_aside(path)


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}~{number}")).exists():  # no row's folder has a tilde
        number += 1
    path.rename(aside)


def read_cell(output: Path, cell: Cell) -> Recorded | None:
    """What a finished cell recorded; of a search the run that counts, or None where no attempt came to its end."""
    path = cell_path(output, cell)
    return read_run(path) if cell.search is None else read_searched(path).best


def run_cell(cell: Cell, output: Path, extra: Callable[[], dict[str, Any]] | None = None) -> None:
    """Compute a cell; a loss that is not finite any more is recorded as its failure.

    Args:
        cell: which.
        output: folder of the study.
        extra: called before it; its values are added to the note.

    Raises:
        InvalidInputError: the run refuses its configuration; the message names the cell.
    """
    path = cell_path(output, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    started, more = time.perf_counter(), extra() if extra is not None else {}
    try:
        if cell.search is None:
            _train(cell.config, path)
        else:
            search_and_record(
                cell.config, cell.search, path, options=cell.options, trials=cell.trials, resume=True, progress=False
            )
    except (NonFiniteError, SearchFailedError) as error:
        if cell.search is None and not (path / "config.json").is_file():  # before its first step, in a search
            RunDirectory.create(path, cell.config.model_dump(mode="json"))
        _write(path / _FAILURE, {"schema": SCHEMA, "error": str(error)})
    except InvalidInputError as error:
        raise InvalidInputError(f"{cell.row}, seed {cell.seed}: {error}") from error
    _write(path / _NOTE, {"row": cell.row, **more, "seconds": time.perf_counter() - started, "torch_threads": 1})


def _train(config: TrainConfig, path: Path) -> None:
    """The run, from its newest checkpoint if there is one; one by other code, or damaged, is moved aside."""
    try:
        train_and_record(config, path, progress=False, resume="auto")
    except OtherRunError:
        _move_aside(path)
        train_and_record(config, path, progress=False, resume="auto")


def share_done(output: Path, cell: Cell) -> float:
    """The share of the passes over its images that a running cell has recorded."""
    path, runs = cell_path(output, cell), 1
    files = [path / "metrics.jsonl"]
    if cell.search is not None:
        runs = _trials(path)
        files = [folder / "metrics.jsonl" for folder in path.glob("trials/*") if "~" not in folder.name]
    passes = 0
    for file in files:
        with contextlib.suppress(OSError):
            passes += file.read_bytes().count(b'"kind": "epoch"')
    return min(passes / (runs * cell.config.epochs), 1.0)


def _trials(path: Path) -> int:
    """As many as a search in this folder was asked for; 1 where it is not begun, or has no such number."""
    content = _read(path / FILE) or {}
    trials = content.get("trials")
    return trials if isinstance(trials, int) else 1


def told(output: Path, cell: Cell) -> str:
    """A line on a finished cell."""
    path = cell_path(output, cell)
    name = f"seed {cell.seed}  {cell.row}"
    run = None if (path / _FAILURE).is_file() else read_cell(output, cell)
    if run is None or run.result is None:
        return f"{name}: failed, its loss is not finite"
    result = run.result
    measured, part = (result["test"], "test") if result["test"] else (result["val"], "validation")
    seconds = (_read(path / _NOTE) or {}).get("seconds", 0.0)
    return f"{name}: {part} error {measured['error']:.2f} %, {seconds:.1f} s"


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none, or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
