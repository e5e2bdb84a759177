"""Figures 3 to 5: pi, mu and p of the policy over training.

Trains MADAO with some seeds, or takes runs that are there, and draws the policy after every epoch: of each run in its
folder, and the mean over the seeds among the results.

    python benchmarks/figures3_5.py                             # scikit-learn's digits
    python benchmarks/figures3_5.py --data fashion-mnist:rotated --seeds 5
    python benchmarks/figures3_5.py --run DIR --run DIR         # runs of `hypergrad train`
    python benchmarks/figures3_5.py --smoke                     # seconds: shows that the code works, measures nothing
    python benchmarks/figures3_5.py --render benchmarks/results/figures3_5-digits.json
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _cells import write_json
from _figure_study import add_arguments, checked, complain, folders, frame, settings
from _figures3_5_page import NAMES, render
from _runs import Cell, StudyError, failure, note, run_cells

from hypergrad.augment import Policy
from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.vision.config import Madao, TrainConfig
from hypergrad.vision.figures import draw_run
from hypergrad.vision.run import Recorded, read_run

SCRIPT = "figures3_5"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=f"{SCRIPT}.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(result, seeds="3")
    result.add_argument(
        "--run", action="append", type=Path, metavar="DIR", help="a run's folder, repeatable: nothing is trained"
    )
    return result


def trained(arguments: argparse.Namespace) -> tuple[list[Recorded], Path]:
    """The runs that the command line asks for, computed where they are missing, and the results' path."""
    seeds = arguments.seeds or tuple(range(2 if arguments.smoke else 3))
    method = {"every": 2} if arguments.smoke else {}
    config = TrainConfig.model_validate(settings(arguments, method=method))
    output, stem = folders(arguments, SCRIPT)
    cells = [Cell("madao", seed, config.model_copy(update={"seed": seed})) for seed in seeds]
    found = run_cells(cells, output, workers=arguments.workers)
    return [found["madao", seed] for seed in seeds], stem


def given(paths: Sequence[Path], results: Path | None) -> tuple[list[Recorded], Path]:
    """Runs that are there, and the results' path: in the first one's pictures, unless another folder is named."""
    runs = [read_run(path) for path in paths]
    return runs, (results or runs[0].path / "pictures") / SCRIPT


def collect(runs: Sequence[Recorded], arguments: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """All that is drawn as one JSON value; runs that broke down are left out and counted.

    Raises:
        InvalidInputError: no policy was recorded, or the runs do not belong together.
    """
    whole = [run for run in runs if failure(run) is None]
    for run in whole:
        if not run.policies:
            raise InvalidInputError(
                f"{run.path} has recorded no learned policy (method: {run.config.get('method', {}).get('name')}). Give "
                "a run of the method madao with at least one finished epoch."
            )
    if not whole:
        raise InvalidInputError("All runs broke down (their loss is not finite). A lower lr may help.")
    config = TrainConfig.model_validate(whole[0].config)
    first = whole[0].policies[0][1]
    for run in whole:
        other = TrainConfig.model_validate(run.config)
        if other.model_copy(update={"seed": config.seed}) != config:
            raise InvalidInputError(
                f"{run.path} and {whole[0].path} differ in more than the seed, so a mean over them has no meaning. "
                "Give runs of one configuration."
            )
    epochs = [epoch for epoch, _ in min((run.policies for run in whole), key=len)]
    assert isinstance(config.method, Madao)
    head = frame(SCRIPT, arguments, argv, config)
    if arguments.run:
        head["data"] = config.data.name
    return {
        **head,
        "commits": sorted({commit for run in whole if (commit := note(run)["commit"])}),
        "seeds": [run.config["seed"] for run in whole],
        "failures": len(runs) - len(whole),
        "images": _images(whole[0]),
        "stages": first.stages,
        "operations": list(first.operations),
        "ranges": config.method.ranges,
        "epochs": epochs,
        "first_update": _first_update(whole[0]),
        "runs": [
            {"seed": run.config["seed"], "updates": len(run.updates), **_values(run, len(epochs))} for run in whole
        ],
    }


def _images(run: Recorded) -> dict[str, int] | None:
    return None if run.result is None else run.result["images"]


def _first_update(run: Recorded) -> float | None:
    """In epochs."""
    if not run.updates:
        return None
    return run.updates[0]["inner_step"] * run.epochs[-1]["epoch"] / run.epochs[-1]["step"]


def _values(run: Recorded, epochs: int) -> dict[str, Any]:
    """pi, mu and p after each epoch, to four decimals."""

    def rounded(policy: Policy, name: str) -> list[list[float]]:
        return [[round(value, 4) for value in row] for row in policy.values()[name].tolist()]

    return {name: [rounded(policy, name) for _, policy in run.policies[:epochs]] for name in NAMES}


def main(argv: Sequence[str] | None = None) -> int:
    """Train or read, draw; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_args(words)
    drawn: list[Path] = []
    try:
        if arguments.render is not None:
            results = checked(json.loads(arguments.render.read_text(encoding="utf-8")), SCRIPT, arguments.render)
            stem = arguments.render.with_suffix("")
        else:
            runs, stem = given(arguments.run, arguments.results) if arguments.run else trained(arguments)
            results = collect(runs, arguments, words)
            drawn = [picture for run in runs if run.policies for picture in draw_run(run.path)]
            write_json(stem.with_name(stem.name + ".json"), results)
    except (HypergradError, StudyError, OSError, ValueError) as error:
        return complain(SCRIPT, error)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished runs are kept; the same command goes on from there.", file=sys.stderr)
        return 130
    for path in [*(p for p in drawn if p.name == "policy.png"), *render(results, stem)]:
        print(path)
    return 0


if __name__ == "__main__":
    # As Ctrl-C does: the workers are ended too, and do not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
