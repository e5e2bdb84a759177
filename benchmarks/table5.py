"""Table 5: which solver learns the better augmentation policy?

A small network is trained with MADAO's policy, learned through different inverse-Hessian solvers, beside a fixed policy
and two controls, with the same seeds, batches and budget. Finished (row, seed) cells are kept, so an interrupted study
goes on where it stopped.

    python benchmarks/table5.py                                   # scikit-learn's digits
    python benchmarks/table5.py --data fashion-mnist:rotated      # the policy must find Rotate
    python benchmarks/table5.py --row fixed --row neumann:alpha=0.01,num_hvps=10 --seeds 3
    python benchmarks/table5.py --import my_solver.py --row my_solver
    python benchmarks/table5.py --render benchmarks/results/table5-digits.json
"""

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from _cells import cell_digest, cell_path, environment, probe_digest, probe_path, read_cell, write_json
from _models import parameter_count
from _probe import PROBE_DAMPING
from _recipe import RECIPES, smoke
from _rows import DEFAULT_ROWS, EXTRA_ROWS, RowError
from _runs import StudyError, parse_seeds
from _study import cell_config, network, read_images, split
from _table import render
from _workers import Plan, run

from hypergrad.errors import HypergradError

HERE = Path(__file__).resolve().parent
SMOKE_ROWS = ("fixed", "neumann", "control:flipped")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="table5.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--data", choices=tuple(RECIPES), default="digits", help="what is trained on (default: %(default)s)"
    )
    result.add_argument("--data-dir", type=Path, help="folder of the Fashion-MNIST files (default: Debian's)")
    result.add_argument(
        "--row",
        action="append",
        metavar="NAME[:option=value,...]",
        help=f"a row, repeatable; the default is all of: {' '.join(DEFAULT_ROWS)}",
    )
    result.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file that registers solvers",
    )
    result.add_argument("--seeds", type=parse_seeds, help="a count or a list (default: by data set)")
    result.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, one torch thread each")
    result.add_argument("--output", type=Path, help="folder of the cells (default: benchmarks/runs/<data>)")
    result.add_argument("--results", type=Path, help="folder of JSON, table and plot (default: benchmarks/results)")
    result.add_argument("--smoke", action="store_true", help="a run of seconds that shows that the code works")
    result.add_argument("--render", type=Path, metavar="JSON", help="render table and plot from results, and stop")
    return result


def _all_rows(data: str) -> tuple[str, ...]:
    return DEFAULT_ROWS + EXTRA_ROWS.get(data, ())


def command_line(arguments: argparse.Namespace) -> str:
    """The command that gives the same results, without folders, which change nothing."""
    parts = ["python", "benchmarks/table5.py", "--data", arguments.data]
    for text in arguments.imports:
        parts += ["--import", Path(text).name]
    for text in arguments.row or []:
        parts += ["--row", text]
    if arguments.seeds is not None:
        parts += ["--seeds", ",".join(map(str, arguments.seeds)) + ("," if len(arguments.seeds) == 1 else "")]
    return shlex.join(parts + (["--smoke"] if arguments.smoke else []))


def collect(plan: Plan, command: str, is_smoke: bool, parameters: int) -> dict[str, Any]:
    """All cells of the plan as one JSON value."""
    rows = plan.parsed()
    cells = [
        read_cell(cell_path(plan.output, row, seed), cell_digest(plan.recipe, row, seed))
        for row in rows
        for seed in plan.seeds
    ]
    probes = [read_cell(probe_path(plan.output, row), probe_digest(plan.recipe, row)) for row in rows if row.learns]
    return {
        "study": "table5",
        "data": plan.recipe.data,
        "smoke": is_smoke,
        "command": command,
        "commits": sorted({cell["commit"] for cell in cells if cell and cell["commit"]}),
        "environment": environment() | {"hypergrad": metadata.version("hypergrad-toolkit")},
        "recipe": plan.recipe.as_dict(),
        "parameters": parameters,
        "probe_damping": PROBE_DAMPING,
        "seeds": list(plan.seeds),
        "rows": [{"label": row.label, "name": row.name, "options": row.options} for row in rows],
        "probes": [probe for probe in probes if probe],
        "cells": [cell for cell in cells if cell],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and render it; the exit status."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.render is not None:
            results = json.loads(arguments.render.read_text(encoding="utf-8"))
            stem = arguments.render.with_suffix("")
        else:
            results, stem = study(arguments)
    except (RowError, HypergradError, StudyError, FileNotFoundError) as error:
        print(f"table5.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished cells are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    for path in render(results, stem):
        print(path)
    return 0


def study(arguments: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Compute what is missing and write the results; returns them and the path without its ending."""
    recipe = smoke(RECIPES[arguments.data]) if arguments.smoke else RECIPES[arguments.data]
    name = arguments.data.replace(":", "-")
    output = arguments.output or (Path(tempfile.mkdtemp(prefix="table5-")) if arguments.smoke else HERE / "runs" / name)
    results_folder = arguments.results or (output if arguments.smoke else HERE / "results")
    plan = Plan(
        recipe=recipe,
        rows=tuple(arguments.row or (SMOKE_ROWS if arguments.smoke else _all_rows(arguments.data))),
        seeds=arguments.seeds or tuple(range(recipe.seeds)),
        output=output,
        imports=tuple(arguments.imports),
        data_dir=arguments.data_dir,
    )
    # Missing files and too few images are told before any work.
    config = cell_config(recipe, plan.parsed()[0], plan.seeds[0])
    splits = split(config, read_images(recipe, config.seed, plan.data_dir))
    run(plan, max(1, arguments.workers))
    results = collect(plan, command_line(arguments), arguments.smoke, parameter_count(network(splits)))
    stem = results_folder / f"table5-{name}"
    write_json(stem.with_name(stem.name + ".json"), results, indent=1)
    return results, stem


if __name__ == "__main__":
    # As Ctrl-C does: the workers are ended too, and do not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
