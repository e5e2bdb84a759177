"""What do two ranks bring, and what would more: an inner step and a hypergradient, over processes.

Measured: a WideResNet-16-1 with GroupNorm and one Neumann hypergradient (5 products), by one process with the whole
batch, and by two with half of it each (gloo over loopback, one thread each). Every round runs both, in an order that
alternates; the ratio is taken within a round. Wall time, since waiting is what matters here, so that other work on the
machine is part of it; beside it the CPU time of all ranks together, in units of one process's.

Modelled: more ranks than the machine has cores, from the numbers that the collectives of the measured step move, and a
latency and a bandwidth that are assumed (`_scaling_model.py` has the formula). No measurement stands behind these.

    python benchmarks/scaling.py                      # some minutes of two cores
    python benchmarks/scaling.py --smoke --output -   # seconds: shows that the code works, measures nothing
    python benchmarks/scaling.py --render benchmarks/results/scaling.json
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _cells import environment, git_commit, write_json
from _scaling_table import plot, render
from hvp import positive

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "scaling.json"
#: Ranks that are measured.
RANKS = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=positive, default=11, help="(default: %(default)s)")
    result.add_argument("--batch", type=positive, default=64, help="images of the whole batch (default: %(default)s)")
    result.add_argument("--num-hvps", type=positive, default=5, help="Hessian products (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--smoke", action="store_true", help="one round, one product, a batch of 4")
    result.add_argument("--output", default=str(RESULT), help="JSON file, table and chart beside it; - for none")
    result.add_argument("--render", metavar="FILE", help="table and chart again, from the JSON alone")
    return result


def measure(setup: dict[str, Any]) -> dict[str, Any]:
    """What the first rank found; each of them is a process of one thread."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, str(HERE / "_scaling_rank.py"), json.dumps(setup), str(found)]
        ranks = [
            subprocess.Popen([*command, str(rank), str(RANKS)], env={**os.environ, **threads, "PYTHONPATH": path})
            for rank in range(RANKS)
        ]
        try:
            if any([process.wait() for process in ranks]):
                raise SystemExit("scaling.py: a rank failed; its error is above.")
        finally:
            for process in ranks:
                process.kill()
        result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    path = None if options.output == "-" else Path(options.output)
    if options.render:
        path = Path(options.render)
        result = json.loads(path.read_text(encoding="utf-8"))
    else:
        if options.smoke:
            options.rounds, options.batch, options.num_hvps = 1, 4, 1
        setup = {k: getattr(options, k) for k in ("rounds", "batch", "num_hvps", "seed")}
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        result = {
            "command": shlex.join(["python", "benchmarks/scaling.py", *arguments]),
            "commit": git_commit(),
            "environment": {k: v for k, v in environment().items() if k != "threads_per_run"},
            "setup": {**setup, "ranks": RANKS, "threads_per_rank": 1, "load_average_before": load},
            **measure(setup),
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
