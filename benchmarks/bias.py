"""How wrong is a hypergradient whose products are cheaper, measured while a network trains?

The network of the recipe `short` trains under a fixed policy (MADAO's as it starts). At a few points the hypergradient
in the policy's raw parameters is drawn on many pairs of batches, exactly and with each option of cheaper products, by
the same solver and with the same batches and noise. The difference is judged against the noise between two pairs of
batches, at the paper's alpha (where the inverse hardly matters), at alpha = 1 / lambda_max, and for damped CG.

    python benchmarks/bias.py                                # rotated Fashion-MNIST
    python benchmarks/bias.py --data digits --seeds 1
    python benchmarks/bias.py --training benchmarks/results/bias-training-fashion-mnist-rotated.json
    python benchmarks/bias.py --smoke                        # seconds: shows that the code works, measures nothing
    python benchmarks/bias.py --render benchmarks/results/bias-fashion-mnist-rotated.json
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _bias_figure import plot
from _bias_measure import SMOKE, Plan, measure_point
from _bias_table import markdown
from _cells import environment, git_commit, read_cell, write_json
from _informative_run import StudyRun
from _stand_ins import STAND_INS, stand_in

from hypergrad import keys
from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.files import read_json
from hypergrad.vision.config import TrainConfig, recipe
from hypergrad.vision.data import read_dataset

HERE = Path(__file__).resolve().parent

#: Of finished parts: one with another number is measured again.
VERSION = 1

#: Shares of the run.
POINTS = (0.12, 0.5, 0.9)

#: So many steps between two updates of the policy that there is none.
NEVER = 10**9


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="bias.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--data", choices=sorted(STAND_INS), help="(default: fashion-mnist:rotated; smoke: digits)")
    result.add_argument("--root", type=Path, help="folder of the data set's files")
    result.add_argument("--seeds", type=_positive, default=2, help="trainings (default: %(default)s)")
    result.add_argument(
        "--draws", type=_positive, help=f"hypergradients of each kind, at least 3 (default: {Plan().draws})"
    )
    result.add_argument(
        "--training", type=Path, metavar="JSON", help="results of study.py with rows of cheaper products, for the page"
    )
    result.add_argument("--output", type=Path, help="folder of the finished parts (default: runs/bias-DATA)")
    result.add_argument("--results", type=Path, help="JSON file, page and picture beside it (default: in results/)")
    result.add_argument("--render", type=Path, metavar="JSON", help="page and picture again, from this JSON alone")
    result.add_argument("--smoke", action="store_true", help="seconds, on the digits; in runs/, not in results/")
    return result


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1; got {text!r}")
    return int(text)


def settings(data: str, seed: int, smoke: bool) -> TrainConfig:
    """A training of the recipe `short` on a stand-in's images, under the policy as it starts."""
    short = recipe("short")
    changes: dict[str, Any] = {name: short[name] for name in ("model", "batch_size", "lr", "epochs")}
    if data == "digits":
        changes["epochs"] = stand_in(data)["epochs"]  # as in the study: an epoch of the digits is short
    if smoke:
        changes |= {"epochs": 2, "batch_size": 32}
    method = {**short["method"], "every": NEVER}
    return TrainConfig(**{**stand_in(data, seed=seed, device="cpu", **changes), "method": method})


def digest(config: TrainConfig, plan: Plan, share: float) -> str:
    """What a part must have been asked to be used again."""
    changed = config.model_dump(mode="json", exclude_defaults=True)
    asked = {"version": VERSION, "config": changed, "plan": plan.plain(), "point": share}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def measure_seed(config: TrainConfig, plan: Plan, points: Sequence[float], output: Path, dataset: Any) -> list[Any]:
    """The parts of one training; those that are missing are measured and written."""
    paths = {share: output / f"seed{config.seed}" / f"point{share:g}.json" for share in points}
    run: StudyRun | None = None
    cells = []
    for share, path in paths.items():
        asked = digest(config, plan, share)
        cell = read_cell(path, asked)
        if cell is None:
            run = run or StudyRun(config, dataset)
            run.advance(round(share * run.steps))
            start = time.process_time()
            cell = measure_point(run, run.point(), plan, keys.derive("bias", config.seed, f"{share:g}"))
            cell |= {"seed": config.seed, "point": share, "seconds": time.process_time() - start}
            cell |= {"digest": asked, "commit": git_commit()}
            write_json(path, cell)
            print(
                f"seed {config.seed}  step {run.step} of {run.steps}: {cell['seconds']:.0f} s (CPU)",
                file=sys.stderr,
                flush=True,
            )
        cells.append({k: v for k, v in cell.items() if k != "digest"})
    return cells


def training(path: Path) -> dict[str, Any]:
    """Errors by row and seed, and what was trained, from results of study.py.

    Raises:
        InvalidInputError: the file holds none.
    """
    found = read_json(path).value
    if not isinstance(found, dict) or found.get("study") != "study" or len(found.get("rows", ())) < 2:
        raise InvalidInputError(f"--training {path} holds no results of study.py with two rows or more. Give such one.")
    errors: dict[str, dict[str, Mapping[str, float]]] = {row: {} for row in found["rows"]}
    for cell in found["cells"]:
        if cell["failure"] is None:
            errors[cell["row"]][str(cell["seed"])] = {k: cell[k] for k in ("val_error", "test_error")}
    kept = ("data", "smoke", "command", "commits", "seeds")
    return {"errors": errors, "epochs": found["settings"]["epochs"], **{k: found[k] for k in kept}}


def command_line(options: argparse.Namespace) -> str:
    """The command that gives the same results, without folders, which change nothing."""
    parts = ["python", "benchmarks/bias.py"]
    parts += [] if options.data is None else ["--data", options.data]
    parts += [] if options.root is None else ["--root", "DIR"]
    parts += ["--seeds", str(options.seeds)] if options.seeds != parser().get_default("seeds") else []
    parts += [] if options.draws is None else ["--draws", str(options.draws)]
    parts += [] if options.training is None else ["--training", f"benchmarks/results/{options.training.name}"]
    return shlex.join(parts + (["--smoke"] if options.smoke else []))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write, print; the exit status."""
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        return _render(options) if options.render is not None else _measure(options)
    except (HypergradError, OSError) as error:
        print(f"bias.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished parts are kept; the same command goes on from there.", file=sys.stderr)
        return 130


def _measure(options: argparse.Namespace) -> int:
    data = options.data or ("digits" if options.smoke else "fashion-mnist:rotated")
    name = f"bias-{data.replace(':', '-')}" + ("-smoke" if options.smoke else "")
    output = options.output or HERE / "runs" / name
    results = options.results or HERE / ("runs" if options.smoke else "results") / f"{name}.json"
    base = SMOKE if options.smoke else Plan()
    plan = base if options.draws is None else replace(base, draws=max(3, options.draws))
    points = POINTS[:1] if options.smoke else POINTS
    trained = None if options.training is None else training(options.training)
    configs = [settings(data, seed, options.smoke) for seed in range(1 if options.smoke else options.seeds)]
    dataset = read_dataset(configs[0].data.name, options.root)
    cells = [cell for config in configs for cell in measure_seed(config, plan, points, output, dataset)]
    result = {
        "benchmark": "bias",
        "command": command_line(options),
        "commits": sorted({cell["commit"] for cell in cells if cell["commit"]}),
        "environment": environment(),
        "data": data,
        "smoke": options.smoke,
        "config": configs[0].model_dump(mode="json"),
        "plan": plan.plain(),
        "cells": cells,
        "training": trained,
    }
    write_json(results, result, indent=1)
    _write(result, results)
    return 0


def _render(options: argparse.Namespace) -> int:
    result = read_json(options.render).value
    if not isinstance(result, dict) or result.get("benchmark") != "bias":
        raise InvalidInputError(f"{options.render} holds no results of bias.py. Give the JSON that it wrote.")
    if options.training is not None:
        result["training"] = training(options.training)
        write_json(options.render, result, indent=1)
    _write(result, options.render)
    return 0


def _write(result: dict[str, Any], path: Path) -> None:
    page = markdown(result)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    plot(result, path.with_suffix(".png"))
    print(page)


if __name__ == "__main__":
    sys.exit(main())
