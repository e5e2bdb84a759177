"""The cells of a study, computed in processes: those that are missing, in order, and no longer than there is time.

A study is a list of cells; :func:`run_cells` computes those that are missing and returns what all of them recorded.
"""

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hypergrad.errors import InvalidInputError
from hypergrad.progress import Progress
from hypergrad.vision.cell_folder import (
    Cell,
    cell_path,
    failure,
    is_finished,
    make_room,
    note,
    read_cell,
    run_cell,
    share_done,
    told,
)
from hypergrad.vision.config import DataConfig, Madao, TrainConfig
from hypergrad.vision.finishing import Finishing
from hypergrad.vision.run import Recorded
from hypergrad.vision.training import train
from hypergrad.vision.workers import Event, run_tasks

__all__ = [
    "Cell",
    "cell_path",
    "default_workers",
    "failure",
    "is_finished",
    "note",
    "parse_seeds",
    "run_cells",
    "warm_up",
]

#: Share of the predicted work after which what was seen counts as much as the prediction.
_TRUST = 0.05


def run_cells(
    cells: Sequence[Cell],
    output: Path,
    *,
    workers: int,
    quiet: bool = False,
    extra: Callable[[], dict[str, Any]] | None = None,
    predicted: Sequence[float] | None = None,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[tuple[str, int], Recorded]:
    """Compute the cells that are missing, with one torch thread in each of ``workers`` fresh processes.

    A cell is a folder ``output/seed<S>/<row>/``. It is finished when its result is there and its configuration is the
    wanted one. An unfinished search or run of it is continued, a run from its newest checkpoint; anything else of a
    run in its place is moved aside and run again. A run whose loss is not finite any more is a result: see
    :func:`~hypergrad.vision.cell_folder.failure`.

    Args:
        cells: in the order in which they are run.
        output: folder of the study.
        workers: processes.
        quiet: print nothing.
        extra: picklable; called before each cell, and its values are added to the note beside the run.
        predicted: seconds of each cell, for the time that is left; None counts passes over the images.
        deadline: reading of the clock at which the cells that still run are stopped; None: never.
        clock: in seconds.

    Returns:
        What each finished cell recorded, by row and seed: all of them where there was no deadline. Of a search it is
        the run that counts; one without such a run is left out.

    Raises:
        InvalidInputError: two cells share a folder, a seed differs from its configuration's, a folder in the place of a
            cell is no run, or a run refuses its configuration.
        WorkerError: a worker failed. Finished cells are kept, as in every other case.
        KeyboardInterrupt: passed on, after the workers were ended.
    """
    _check(cells, output)
    left = [i for i, cell in enumerate(cells) if not is_finished(output, cell)]
    missing = [cells[i] for i in left]
    for cell in missing:
        make_room(output, cell)
    if not quiet:
        print(f"{len(cells)} cells, {len(cells) - len(missing)} finished before: {output}", flush=True)
    if missing:
        if predicted is None:
            finishing = Finishing(workers, [cell.config.epochs for cell in missing])
        else:
            finishing = Finishing(workers, [predicted[i] for i in left], _TRUST)
        with contextlib.closing(_compute(missing, output, workers, extra)) as events:
            _follow(missing, output, events, finishing, quiet, deadline, clock)
    done = [cell for cell in cells if deadline is None or is_finished(output, cell)]
    runs = {(cell.row, cell.seed): read_cell(output, cell) for cell in done}
    return {name: run for name, run in runs.items() if run is not None}


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


def _compute(
    missing: Sequence[Cell], output: Path, workers: int, extra: Callable[[], dict[str, Any]] | None
) -> Generator[Event, None, None]:
    return run_tasks(functools.partial(run_cell, output=output, extra=extra), missing, workers, prepare=warm_up)


def warm_up() -> None:
    """The first steps of a process are slow (allocator, lazy imports), and would be charged to its first cell."""
    config = TrainConfig(data=DataConfig(train_size=320), method=Madao(every=5), epochs=1)
    train(config, progress=False)


def _follow(
    missing: Sequence[Cell],
    output: Path,
    events: Iterator[Event],
    finishing: Finishing,
    quiet: bool,
    deadline: float | None,
    clock: Callable[[], float],
) -> None:
    """Show the workers' progress until all are done, or there is no time left."""
    started, shares = clock(), dict[int, float]()
    with Progress(1000, "thousandths of the time", enabled=not quiet) as shown:
        for event in events:
            now = clock()
            if deadline is not None and now >= deadline:
                return
            if event.task is not None:
                shares[event.task] = 0.0 if event.kind == "start" else 1.0
            finished = sum(share == 1 for share in shares.values())
            if event.kind == "end" and event.task is not None and not quiet:
                told_now = told(output, missing[event.task])
                print(f"[{finished}/{len(missing)}] {told_now}", file=sys.stderr, flush=True)
            if event.kind == "tick" and finished < len(missing):
                for i, share in shares.items():
                    # What a cell does after its last epoch takes time too.
                    shares[i] = share if share == 1 else min(share_done(output, missing[i]), 0.99)
                finishing.update(now - started, shares)
                left = finishing.left()
                _show(shown, f"{finished} of {len(missing)} cells", now - started, left)
        shown.update(1000, f"{len(missing)} of {len(missing)} cells")


def _show(shown: Progress, done: str, elapsed: float, left: float | None) -> None:
    if left is None:
        shown.update(0, done)
        return
    ends = time.strftime("%a %H:%M", time.localtime(time.time() + left))
    shown.update(min(999, int(1000 * elapsed / max(elapsed + left, 1e-9))), f"{done}, ends about {ends}")


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
