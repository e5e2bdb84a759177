"""Cells in parallel processes: what is missing is computed, what is finished survives an interruption."""

import contextlib
import multiprocessing
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _cells import cell_digest, cell_path, git_commit, probe_digest, probe_path, read_cell, write_json
from _probe import probe_cells
from _recipe import Recipe
from _rows import Row, import_files, parse_rows
from _runs import StudyError
from _study import read_images, train_cell

import hypergrad

#: What a worker tells: ("steps", n, "") or ("cell", 1, a line about it) or ("error", 0, a traceback).
Event = tuple[str, int, str]
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Plan:
    """What a study consists of; it travels to the workers, so rows are text."""

    recipe: Recipe
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    output: Path
    imports: tuple[str, ...] = ()
    data_dir: Path | None = None

    def parsed(self) -> list[Row]:
        """The rows, ``fixed`` first."""
        import_files(self.imports)
        return parse_rows(self.rows)


def missing_rows(plan: Plan, rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows of this seed that have no finished cell."""
    return [
        row for row in rows if read_cell(cell_path(plan.output, row, seed), cell_digest(plan.recipe, row, seed)) is None
    ]


def missing_probes(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """The learning rows that have not been compared with the dense solver."""
    return [
        row
        for row in rows
        if row.learns and read_cell(probe_path(plan.output, row), probe_digest(plan.recipe, row)) is None
    ]


def run_seed(plan: Plan, seed: int, emit: Emit) -> None:
    """Every missing row of one seed, in this process, after the fixed policy's run that their times refer to.

    The fixed policy runs again even where its cell is finished: seconds of another process are no measure here.
    """
    rows = plan.parsed()
    missing = missing_rows(plan, rows, seed)
    if not missing:
        return
    recipe = plan.recipe
    # A stream of the study's own, apart from the draws of the pilots (README.md says what was chosen when).
    draws = hypergrad.keys.derive("table5", seed)
    dataset = read_images(recipe, draws, plan.data_dir)
    # The first steps of a process are slow (allocator, lazy imports), and would be charged to the fixed policy.
    train_cell(replace(recipe, epochs=1, sizes=(4 * recipe.batch_size, *recipe.sizes[1:])), rows[0], draws, dataset)
    reference: dict[str, Any] = {}
    for row in [rows[0], *(row for row in missing if row is not rows[0])]:
        cell = train_cell(recipe, row, draws, dataset, lambda done: emit(("steps", done, "")))
        if not reference:
            reference = cell
        shown = "failed" if cell["test_error"] is None else f"error {cell['test_error']:.2f} %"
        if row in missing:
            cell |= {
                "seed": seed,
                # A run that broke down has no time to compare.
                "fixed_seconds": reference["seconds"] if cell["seconds"] else None,
                "fixed_cpu_seconds": reference["cpu_seconds"] if cell["cpu_seconds"] else None,
                "digest": cell_digest(recipe, row, seed),
                "commit": git_commit(),
                "torch": torch.__version__,
            }
            write_json(cell_path(plan.output, row, seed), cell)
        else:
            shown += " (for its time)"
        took = "" if cell["seconds"] is None else f"  {cell['seconds']:.1f} s"
        emit(("cell", 1, f"seed {seed}  {row.label}  {shown}{took}"))


def run_probes(plan: Plan, emit: Emit) -> None:
    """The cosine to the dense solver's hypergradient, for every row that lacks it."""
    rows = {row.label: row for row in missing_probes(plan, plan.parsed())}
    for cell in probe_cells(plan.recipe, list(rows.values()), plan.data_dir):
        row = rows[cell["row"]]
        write_json(probe_path(plan.output, row), cell | {"digest": probe_digest(plan.recipe, row)})
        emit(("cell", 1, f"sub-problem  {row.label}  cosine to dense {cell['cosine']:.3f}"))


def _worker(plan: Plan, tasks: Any, events: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent decides, and files are written whole or not at all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while (task := tasks.get()) is not None:
            if task == "probes":
                run_probes(plan, events.put)
            else:
                run_seed(plan, task, events.put)
    except BaseException:
        events.put(("error", 0, traceback.format_exc()))
    events.put(("done", 0, ""))


def run(plan: Plan, workers: int) -> None:
    """Compute what is missing, with one torch thread in each of ``workers`` fresh processes.

    Raises:
        StudyError: a worker failed. Finished cells are kept.
        KeyboardInterrupt: passed on, after the workers were ended. Finished cells are kept.
    """
    rows = plan.parsed()
    pending = {seed: missing_rows(plan, rows, seed) for seed in plan.seeds}
    tasks_list: list[Any] = [seed for seed, missing in pending.items() if missing]
    runs = sum(len(m) + (rows[0] not in m) for m in pending.values() if m)
    probes = len(missing_probes(plan, rows))
    total = len(plan.seeds) * len(rows)
    done = total - sum(map(len, pending.values()))
    print(f"{plan.recipe.data}: {total} cells ({len(rows)} rows, {len(plan.seeds)} seeds), {done} finished before.")
    if probes:
        # First, because it is a long task: at the end it would keep one worker busy alone.
        tasks_list.insert(0, "probes")
    if not tasks_list:
        return
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    workers = min(workers, len(tasks_list))
    for task in tasks_list + [None] * workers:
        tasks.put(task)
    processes = [context.Process(target=_worker, args=(plan, tasks, events), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        with _progress(runs + probes, runs * plan.recipe.steps) as show:
            _follow(events, processes, show)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join()


def _follow(events: Any, processes: Sequence[Any], show: Emit) -> None:
    """Pass the workers' events on until all are done."""
    working = len(processes)
    while working:
        try:
            event = events.get(timeout=2)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if dead:
                raise StudyError(f"A worker ended with exit code {dead[0]} (killed, perhaps for memory).") from None
            continue
        if event[0] == "error":
            raise StudyError(event[2])
        if event[0] == "done":
            working -= 1
        else:
            show(event)


@contextlib.contextmanager
def _progress(cells: int, steps: int) -> Iterator[Emit]:
    """A bar on a terminal, one line a cell elsewhere."""
    finished, start = 0, time.monotonic()

    def line(text: str) -> str:
        nonlocal finished
        finished += 1
        return f"[{finished}/{cells}, {time.monotonic() - start:.0f} s] {text}"

    if not sys.stdout.isatty():
        yield lambda event: print(line(event[2]), flush=True) if event[0] == "cell" else None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task("training", total=max(steps, 1))

        def show(event: Event) -> None:
            if event[0] == "cell":
                progress.console.print(line(event[2]), highlight=False)
            else:
                progress.advance(bar, event[1])

        yield show
