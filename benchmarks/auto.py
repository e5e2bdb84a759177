"""Is ``solver="auto"`` as good as the best fixed choice, what do preconditioners do, and does a warm start help?

Linear systems with known spectra, the error of the solution in the 2-norm against the exact one, float64:

- auto against the best of all fixed choices (solver, alpha, rho, chosen in hindsight) at equal products;
- error of the hypergradient against time on logistic regression, auto and every fixed solver;
- preconditioned CG and Neumann on condition numbers 1e3, 1e4 and 1e6;
- warm against cold starts on a quadratic that drifts, at equal products.

    python benchmarks/auto.py                        # some ten minutes of one core
    python benchmarks/auto.py --smoke --output -     # seconds: shows that the code works
    python benchmarks/auto.py --render benchmarks/results/auto.json
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from _auto_figure import plot
from _auto_measure import against_fixed, preconditioned, warm_starts
from _auto_table import render
from _auto_time import against_time
from _cells import environment, git_commit, write_json

RESULT = Path(__file__).resolve().parent / "results" / "auto.json"
TIME_SEEDS, TIME_ROUNDS = 2, 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--seeds", type=int, default=4, help="of the systems (default: %(default)s)")
    result.add_argument("--only-time", action="store_true", help="measure the times again, keep the rest of the file")
    result.add_argument("--smoke", action="store_true", help="one seed and one budget")
    result.add_argument("--output", default=str(RESULT), help="JSON file, table and plot beside it; - for none")
    result.add_argument("--render", metavar="FILE", help="table and plot again, from the JSON alone")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    if options.seeds < 1:
        parser().error(f"--seeds must be at least 1; got {options.seeds}")
    torch.set_num_threads(1)
    path = None if options.output == "-" else Path(options.output)
    if options.render:
        path = Path(options.render)
        result = json.loads(path.read_text(encoding="utf-8"))
    elif options.only_time and path:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["time"] = list(against_time(TIME_SEEDS, TIME_ROUNDS))
        write_json(path, result, indent=1)
    else:
        seeds = 1 if options.smoke else options.seeds
        short, long = ([5], [5]) if options.smoke else ([5, 10, 20, 50], [2, 5, 10, 20, 50])
        result = {
            "command": shlex.join(["python", "benchmarks/auto.py", *arguments]),
            "commit": git_commit(),
            "environment": {k: v for k, v in environment().items() if k != "threads_per_run"},
            "fixed": list(against_fixed(long, seeds)),
            "time": list(against_time(1, 1) if options.smoke else against_time(TIME_SEEDS, TIME_ROUNDS)),
            "preconditioned": list(preconditioned(short, seeds)),
            "warm": list(warm_starts([5] if options.smoke else [5, 20], seeds)),
        }
        if path:
            write_json(path, result, indent=1)
    page = render(result)
    if path:
        path.with_suffix(".md").write_text(page, encoding="utf-8")
        plot(result, path.with_suffix(".png"))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
