"""Which gradient of the selection probabilities is closer to the truth?

A policy picks one operation of N for each image, which has no derivative. Two estimators stand in for it:

- unbiased: the gradient of the pick's log-probability times the loss, with the mean loss of the batch's other images as
  baseline (hypergrad's default);
- relaxed: eq. (9) of the MADAO paper, the picked output times u_i / SG(u_i), at a temperature.

Here the truth is known, because every outcome of the draw is enumerated: for four losses of a single number and for
the loss of a small network on scikit-learn's digits with two stages of five operations, and for the derivative that an
outer step takes. Bias, variance and root-mean-square error are measured on a quarter of a million draws each, in
float64, for ten seeds of network and digits.

    python benchmarks/selection.py              # two minutes on one thread
    python benchmarks/selection.py --smoke      # seconds: shows that the code works, measures little
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _cells import environment, git_commit, write_json
from _selection_estimates import CHUNK, measure
from _selection_figure import plot
from _selection_problems import MAGNITUDE, OPERATIONS, STAGES, digit_problems, scalar_problems
from _selection_table import markdown
from hvp import positive

RESULT = Path(__file__).resolve().parent / "results" / "selection.json"
TEMPERATURES = (0.05, 0.1, 0.5, 1.0, 2.0)
BATCHES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GROUP = 4
SMOKE_SAMPLES = 1 << 12
SMOKE_IMAGES = 8


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--chunks", type=positive, default=8, help=f"of {CHUNK:,} draws (default: %(default)s)")
    result.add_argument("--images", type=positive, default=256, help="digits (default: %(default)s)")
    result.add_argument("--seeds", type=positive, default=10, help="of network and digits (default: %(default)s)")
    result.add_argument(
        "--smoke", action="store_true", help=f"{SMOKE_SAMPLES:,} draws of {SMOKE_IMAGES} digits, 1 seed"
    )
    result.add_argument("--output", default=str(RESULT), help="JSON file, table and figure beside it; - for none")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    samples = SMOKE_SAMPLES if options.smoke else options.chunks * CHUNK
    images = SMOKE_IMAGES if options.smoke else options.images
    start = time.process_time()
    seeds = 1 if options.smoke else options.seeds
    drawn = [(p, 0) for p in scalar_problems()]
    drawn += [(p, seed) for seed in range(seeds) for p in digit_problems(seed, images)]
    measured = [
        measure(p, seed=seed, samples=samples, temperatures=TEMPERATURES, batches=BATCHES, group=GROUP)
        for p, seed in drawn
    ]
    result = {
        "command": shlex.join(["python", "benchmarks/selection.py", *arguments]),
        "commit": git_commit(),
        "environment": environment(),
        "setup": {
            "samples": samples, "images": images, "seeds": seeds, "smoke": options.smoke,
            "temperatures": TEMPERATURES, "batches": BATCHES, "group": GROUP,
            "operations": OPERATIONS, "stages": STAGES, "magnitude": MAGNITUDE,
        },
        "cpu_seconds": time.process_time() - start,
        "problems": measured,
    }  # fmt: skip
    page = markdown(result)
    if options.output != "-":
        path = Path(options.output)
        write_json(path, result)
        path.with_suffix(".md").write_text(page, encoding="utf-8")
        plot(result, path.with_suffix(".png"))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
