"""Figure 2: how often should the policy be updated? Error and cost against s.

The same training with an update of the policy every s inner steps, beside the policy that is never updated
(s = infinity) and the standard augmentation alone. Each (row, seed) cell is a run's folder; finished ones are kept, so
an interrupted study goes on where it stopped.

    python benchmarks/figure2.py                              # scikit-learn's digits
    python benchmarks/figure2.py --data fashion-mnist:rotated --seeds 5
    python benchmarks/figure2.py --data cifar10 --root DIR --every 5 60
    python benchmarks/figure2.py --smoke                      # seconds: shows that the code works, measures nothing
    python benchmarks/figure2.py --render benchmarks/results/figure2-digits.json
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _cells import write_json
from _cost_training import Training, interleave
from _figure2_table import FIXED, STANDARD, render
from _figure_study import add_arguments, checked, complain, folders, frame, settings
from _runs import Cell, StudyError, failure, note, run_cells
from hvp import positive

from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.keys import derive
from hypergrad.progress import Progress
from hypergrad.vision.config import Madao, TrainConfig
from hypergrad.vision.run import Recorded
from hypergrad.vision.splits import make_splits

SCRIPT = "figure2"
INTERVALS, SMOKE_INTERVALS = (240, 60, 15, 5), (4, 2)
COST_ROUNDS = 11
#: Inner steps of a stretch where nothing is learned.
STRETCH, SMOKE_STRETCH = 60, 4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=f"{SCRIPT}.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(result, seeds="3")
    result.add_argument(
        "--every", type=positive, nargs="+", metavar="S", help=f"(default: {' '.join(map(str, INTERVALS))})"
    )
    result.add_argument(
        "--cost-rounds", type=positive, help=f"rounds of the cost's measurement (default: {COST_ROUNDS})"
    )
    return result


def row_label(every: int | None) -> str:
    """Of an interval; None never updates."""
    return FIXED if every is None else f"s={every}"


def configurations(arguments: argparse.Namespace) -> dict[str, TrainConfig]:
    """By row, all with seed 0."""
    every = arguments.every or (SMOKE_INTERVALS if arguments.smoke else INTERVALS)
    methods: dict[str, dict[str, Any]] = {STANDARD: {"name": "standard"}, row_label(None): {"name": "fixed"}}
    for s in sorted(set(every), reverse=True):
        methods[row_label(s)] = {"name": "madao", "every": s}
    return {label: TrainConfig.model_validate(settings(arguments, method=m)) for label, m in methods.items()}


def as_cell(row: str, seed: int, run: Recorded) -> dict[str, Any]:
    """What the page needs of a run, in plain numbers."""
    result, failed = run.result, failure(run)
    statuses: dict[str, int] = {}
    for epoch in run.epochs:
        for name, count in epoch["statuses"].items():
            statuses[name] = statuses.get(name, 0) + count
    part = None if result is None or failed is not None else result["test"] or result["val"]
    return {
        "row": row,
        "seed": seed,
        "error": None if part is None else part["error"],
        "val_error": None if part is None or result is None else result["val"]["error"],
        "failure": failed,
        "updates": len(run.updates),
        "seconds": None if result is None else result["seconds"],
        "statuses": statuses,
        "commit": note(run)["commit"],
    }


def measure_cost(rows: dict[str, TrainConfig], rounds: int, stretch: int) -> dict[str, Any]:
    """Seconds of a step in each row, by stretches of all rows in turn, as ``cost.py`` does it.

    The runs' own seconds are no measure: other runs and other programs run beside them.
    """
    torch.set_num_threads(1)
    on_cpu = not torch.cuda.is_available()
    trainings = []
    one = next(iter(rows.values()))
    splits = make_splits(one.data, derive(one.seed, "data"))
    for label, config in rows.items():
        every, method = stretch, config.method
        if isinstance(method, Madao):
            every, method = method.every, method.model_copy(update={"warmup": 0.0})
        clock = time.process_time if on_cpu else time.perf_counter
        config = config.model_copy(update={"method": method})
        trainings.append(Training.start(label, config, splits, clock, every))
    with Progress(rounds, "rounds of the cost") as shown:
        interleave(trainings, rounds=rounds, told=shown.update)
    return {
        "rounds": rounds,
        "clock": "CPU seconds" if on_cpu else "seconds on the clock",
        "step_seconds": {t.label: [s / t.every for s in t.seconds] for t in trainings},
    }


def study(arguments: argparse.Namespace, argv: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Compute what is missing and write the results; returns them and the path without its ending."""
    rows = configurations(arguments)
    seeds = arguments.seeds or tuple(range(2 if arguments.smoke else 3))
    output, stem = folders(arguments, SCRIPT)
    cells = [Cell(label, seed, c.model_copy(update={"seed": seed})) for seed in seeds for label, c in rows.items()]
    runs = run_cells(cells, output, workers=arguments.workers)
    ended = [run.result for run in runs.values() if run.result is not None]
    if not ended:
        raise InvalidInputError(f"All runs broke down (their loss is not finite): see {output}. A lower lr may help.")
    rounds = arguments.cost_rounds or (1 if arguments.smoke else COST_ROUNDS)
    learning = next(c for c in rows.values() if c.method.name == "madao")
    results = {
        **frame(SCRIPT, arguments, argv, learning),
        "commits": sorted({commit for run in runs.values() if (commit := note(run)["commit"])}),
        "seeds": list(seeds),
        "measured_on": "test" if ended[0]["test"] else "validation",
        "images": ended[0]["images"],
        "cost": measure_cost(rows, rounds, SMOKE_STRETCH if arguments.smoke else STRETCH),
        "rows": [{"label": name, "every": getattr(c.method, "every", None)} for name, c in rows.items()],
        "cells": [as_cell(label, seed, run) for (label, seed), run in runs.items()],
    }
    write_json(stem.with_name(stem.name + ".json"), results, indent=1)
    return results, stem


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and render it; the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_args(given)
    try:
        if arguments.render is not None:
            results = checked(json.loads(arguments.render.read_text(encoding="utf-8")), SCRIPT, arguments.render)
            stem = arguments.render.with_suffix("")
        else:
            results, stem = study(arguments, given)
    except (HypergradError, StudyError, OSError, ValueError) as error:
        return complain(SCRIPT, error)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished cells are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    for path in render(results, stem):
        print(path)
    return 0


if __name__ == "__main__":
    # As Ctrl-C does: the workers are ended too, and do not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
