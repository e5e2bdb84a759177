"""What does one hypergradient cost, by every way of forming its Hessian products?

One Neumann hypergradient on a WideResNet-16-1 (5 products; GroupNorm and BatchNorm) and on a softmax regression (20):

- floor: one forward and backward pass of the training loss, the unit of everything else;
- by hand: a kept graph of the gradient, torch.func's vjp and jvp, central and one-sided differences;
- hypergrad: the exact hypergradient, and each option of the estimator.

Every round runs all of them, in an order that rotates, and ratios are taken within a round, so that other load on the
machine meets numerator and denominator alike. Times are CPU seconds of this process; on CUDA, seconds between two
synchronisations.

    python benchmarks/hvp.py                          # 11 rounds on one thread, some ten minutes
    python benchmarks/hvp.py --smoke --output -       # seconds: shows that the code works, measures nothing
    python benchmarks/hvp.py --norm batch --device cuda --output batch.json
    python benchmarks/hvp.py --render benchmarks/results/hvp.json
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from _cells import environment, git_commit, write_json
from _hvp_figure import plot
from _hvp_measure import measure, summary
from _hvp_table import render

__all__ = ["main", "measure", "positive", "summary"]

RESULT = Path(__file__).resolve().parent / "results" / "hvp.json"


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=positive, default=11, help="(default: %(default)s)")
    result.add_argument("--threads", type=positive, default=1, help="torch threads (default: %(default)s)")
    result.add_argument("--batch", type=positive, default=32, help="(default: %(default)s)")
    result.add_argument("--num-hvps", type=positive, help="Hessian products (default: 5; 20 for softmax)")
    result.add_argument(
        "--norm",
        choices=("group", "batch", "softmax"),
        help="one problem alone: the network with that norm, or the softmax regression (default: all three)",
    )
    result.add_argument(
        "--floor-repeats", type=positive, default=5, help="of the floor in a round (default: %(default)s)"
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    result.add_argument("--smoke", action="store_true", help="one round, one product, batches of 4")
    result.add_argument("--output", default=str(RESULT), help="JSON file, table and chart beside it; - for none")
    result.add_argument("--render", metavar="FILE", help="table and chart again, from the JSON alone")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    path = None if options.output == "-" else Path(options.output)
    if options.render:
        path = Path(options.render)
        result = json.loads(path.read_text(encoding="utf-8"))
    else:
        if options.smoke:
            options.rounds, options.floor_repeats, options.batch, options.num_hvps = 1, 1, 4, 1
        held = {k: getattr(options, k) for k in ("rounds", "floor_repeats", "batch", "seed", "device")}
        result = {
            "command": shlex.join(["python", "benchmarks/hvp.py", *arguments]),
            "commit": git_commit(),
            "environment": {k: v for k, v in environment().items() if k != "threads_per_run"},
            "setup": {**held, "threads": options.threads},
            "problems": [
                measure(name, num_hvps=options.num_hvps or (20 if name == "softmax" else 5), **held)
                for name in ([options.norm] if options.norm else ["group", "batch", "softmax"])
            ],
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
