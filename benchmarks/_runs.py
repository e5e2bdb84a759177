"""Cells that are whole runs of hypergrad's vision layer, each with its folder: computed in processes, kept when done.

A study is a list of cells; ``run_cells`` computes those that are missing and returns what all of them recorded.
``stand_in`` (of ``_stand_ins.py``) has the settings for each data set on which the paper's scripts run.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _cells import git_commit, write_json
from _stand_ins import PAPER_SETS, STAND_INS, stand_in
from pydantic import ValidationError

from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.progress import Progress
from hypergrad.vision.config import Madao, TrainConfig
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import SCHEMA, Recorded, RunDirectory, read_run
from hypergrad.vision.training import train

__all__ = [
    "PAPER_SETS",
    "STAND_INS",
    "Cell",
    "StudyError",
    "cell_path",
    "default_workers",
    "failure",
    "is_finished",
    "note",
    "parse_seeds",
    "run_cells",
    "stand_in",
]

#: What is beside a run's own files: why it broke down, and what the study knows of it.
_FAILURE, _NOTE = "failure.json", "benchmark.json"


class StudyError(Exception):
    """A worker failed; the message is its traceback."""


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        row: its label; with the seed it names the cell.
        seed: of the run, as in the configuration.
        config: everything that decides the result.
    """

    row: str
    seed: int
    config: TrainConfig


def cell_path(output: Path, cell: Cell) -> Path:
    """The folder of the cell's run."""
    return output / f"seed{cell.seed}" / re.sub(r"[^A-Za-z0-9.=-]+", "_", cell.row)


def failure(run: Recorded) -> str | None:
    """Why the run broke down (its loss was not finite any more); None for one that ended."""
    content = _read(run.path / _FAILURE)
    return None if content is None else str(content["error"])


def note(run: Recorded) -> dict[str, Any]:
    """What the study wrote beside the run: ``commit`` of the code, and ``seconds`` of the whole cell."""
    return _read(run.path / _NOTE) or {"commit": None, "seconds": None}


def is_finished(output: Path, cell: Cell) -> bool:
    """Whether the cell's folder holds a finished (or failed) run of exactly its configuration."""
    path = cell_path(output, cell)
    try:
        # Read into the model: a setting that came later, with the default that the code had before, changes nothing.
        held = TrainConfig.model_validate(_read(path / "config.json"))
    except ValidationError:
        return False
    if held != cell.config:
        return False
    ends = [_read(path / "result.json"), _read(path / _FAILURE)]
    return any(end is not None and end.get("schema") == SCHEMA for end in ends)


def run_cells(
    cells: Sequence[Cell], output: Path, *, workers: int, quiet: bool = False
) -> dict[tuple[str, int], Recorded]:
    """Compute the cells that are missing, with one torch thread in each of ``workers`` fresh processes.

    A cell is a run's folder ``output/seed<S>/<row>/``. It is finished when its result is there and its configuration
    is the wanted one; anything else of a run in its place is moved aside and run again. A run whose loss is not finite
    any more is a result: see :func:`failure`.

    Args:
        cells: in the order in which they are run.
        output: folder of the study.
        workers: processes.
        quiet: print nothing.

    Returns:
        What each cell recorded, by row and seed.

    Raises:
        InvalidInputError: two cells share a folder, a seed differs from its configuration's, a folder in the place of a
            cell is no run, or a run refuses its configuration.
        StudyError: a worker failed. Finished cells are kept, as in every other case.
        KeyboardInterrupt: passed on, after the workers were ended.
    """
    _check(cells, output)
    missing = [cell for cell in cells if not is_finished(output, cell)]
    for cell in missing:
        _make_room(cell_path(output, cell))
    if not quiet:
        print(f"{len(cells)} cells, {len(cells) - len(missing)} finished before: {output}", flush=True)
    if missing:
        _compute(missing, output, min(workers, len(missing)), quiet)
    return {(cell.row, cell.seed): read_run(cell_path(output, cell)) for cell in cells}


def _check(cells: Sequence[Cell], output: Path) -> None:
    seen: dict[Path, Cell] = {}
    for cell in cells:
        path = cell_path(output, cell)
        if path in seen:
            raise InvalidInputError(
                f"The cells {seen[path].row!r} and {cell.row!r} of seed {cell.seed} would share the folder {path}. "
                "Give rows that differ in letters or digits."
            )
        if cell.config.seed != cell.seed:
            raise InvalidInputError(
                f"The cell {cell.row!r} of seed {cell.seed} has a configuration of seed {cell.config.seed}. Give both "
                "the same."
            )
        seen[path] = cell


def _make_room(path: Path) -> None:
    """Move what an unfinished or another run left out of the way; nothing is deleted."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    # A run that is ended while its folder is made leaves no more than this.
    begun = path.is_dir() and all(p.name == "policies" or p.name.startswith(".hypergrad-") for p in path.iterdir())
    if not begun and not (path / "config.json").is_file():
        raise InvalidInputError(
            f"{path} is in the place of a run, and is none (it has no config.json). Move it away, or name another "
            "--output."
        )
    number = 1
    while (aside := path.with_name(f"{path.name}~{number}")).exists():  # no row's folder has a tilde
        number += 1
    path.rename(aside)


def _compute(missing: Sequence[Cell], output: Path, workers: int, quiet: bool) -> None:
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    for task in [*range(len(missing)), *[None] * workers]:
        tasks.put(task)
    # No daemons: those may not have processes of their own, which decode image files.
    processes = [context.Process(target=_worker, args=(list(missing), output, tasks, events)) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        _follow(missing, output, processes, events, quiet)
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _worker(missing: list[Cell], output: Path, tasks: Any, events: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent decides, and files are written whole or not at all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        _warm_up()
        while (task := tasks.get()) is not None:
            events.put(("start", task))
            _run(missing[task], output)
            events.put(("end", task))
    except InvalidInputError as error:
        events.put(("refused", f"{missing[task].row}, seed {missing[task].seed}: {error}"))
    except BaseException:
        events.put(("error", traceback.format_exc()))
    events.put(("done", None))


def _warm_up() -> None:
    """The first steps of a process are slow (allocator, lazy imports), and would be charged to its first cell."""
    config = TrainConfig(method=Madao(every=5), epochs=1)
    train(config, progress=False)


def _run(cell: Cell, output: Path) -> None:
    path = cell_path(output, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    started, commit = time.perf_counter(), git_commit()
    try:
        train_and_record(cell.config, path, progress=False)
    except NonFiniteError as error:
        if not (path / "config.json").is_file():  # it broke down before its first step, in a search
            RunDirectory.create(path, cell.config.model_dump(mode="json"))
        write_json(path / _FAILURE, {"schema": SCHEMA, "error": str(error)}, indent=2)
    write_json(
        path / _NOTE,
        {"row": cell.row, "commit": commit, "seconds": time.perf_counter() - started, "torch_threads": 1},
        indent=2,
    )


def _follow(missing: Sequence[Cell], output: Path, processes: Sequence[Any], events: Any, quiet: bool) -> None:
    """Show the workers' progress until all are done."""
    working, running, finished = len(processes), set[int](), list[int]()
    total = sum(cell.config.epochs for cell in missing)
    with Progress(total, "epochs of all runs", enabled=not quiet) as shown:
        while working:
            for kind, content in _drain(events, processes):
                if kind == "error":
                    raise StudyError(content)
                if kind == "refused":
                    raise InvalidInputError(content)
                if kind == "done":
                    working -= 1
                elif kind == "start":
                    running.add(content)
                else:
                    running.discard(content)
                    finished.append(content)
                    if not quiet:
                        told = _told(missing[content], output)
                        print(f"[{len(finished)}/{len(missing)}] {told}", file=sys.stderr, flush=True)
            done = sum(missing[i].config.epochs for i in finished) + sum(_epochs(missing[i], output) for i in running)
            if len(finished) < len(missing):
                # What the last cell does after its last epoch takes time too.
                shown.update(min(done, total - 1))
        shown.update(total)


def _drain(events: Any, processes: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """What the workers told in the last second."""
    try:
        yield events.get(timeout=1)
        while True:
            yield events.get_nowait()
    except queue.Empty:
        dead = [process.exitcode for process in processes if process.exitcode not in (None, 0)]
        if dead:
            raise StudyError(f"A worker ended with exit code {dead[0]} (killed, perhaps for memory).") from None


def _epochs(cell: Cell, output: Path) -> int:
    """Passes that a running cell has recorded."""
    with contextlib.suppress(OSError):
        return (cell_path(output, cell) / "metrics.jsonl").read_bytes().count(b'"kind": "epoch"')
    return 0


def _told(cell: Cell, output: Path) -> str:
    path = cell_path(output, cell)
    result = _read(path / "result.json")
    if result is None:
        return f"seed {cell.seed}  {cell.row}: failed, its loss is not finite"
    measured, part = (result["test"], "test") if result["test"] else (result["val"], "validation")
    seconds = result["seconds"] + result["search_seconds"]
    return f"seed {cell.seed}  {cell.row}: {part} error {measured['error']:.2f} %, {seconds:.1f} s"


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none, or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def default_workers() -> int:
    """As many processes as cores; one where they would share a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def parse_seeds(text: str) -> tuple[int, ...]:
    """A type for argparse: ``3`` is the seeds 0 to 2; ``3,5`` is 3 and 5 (``3,`` is 3 alone)."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers) or ("," not in text and numbers[0] < 1):
        raise argparse.ArgumentTypeError(f"a count (3) or a list of different seeds (0,1,2); got {text!r}")
    return tuple(numbers) if "," in text else tuple(range(numbers[0]))
