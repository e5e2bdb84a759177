"""How do other libraries' hypergradients compare: speed, memory, accuracy?

Each library answers the same questions about the same files in a process of its own, held open; rounds are
interleaved and their order rotates. Peers that are not found are named and left out. Nothing of this repository depends
on them; an environment for each of those that install is made by --make-environments.

    python benchmarks/peers.py --make-environments peers      # once: needs a package registry
    python benchmarks/peers.py --environments peers --checkout hypertorch=DIR       # some 40 minutes of one core
    python benchmarks/peers.py --environments peers --parts accuracy,softmax        # these anew, the others kept
    python benchmarks/peers.py --smoke --output -                  # seconds: ours and by hand only
    python benchmarks/peers.py --render benchmarks/results/peers.json
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _cells import environment, git_commit, write_json
from _peers_figure import plot
from _peers_libraries import PEERS
from _peers_measure import accuracy, memory, passes
from _peers_pool import OWN, Place, Worker, find, make_environments, workers
from _peers_problems import make
from _peers_reports import reports
from _peers_table import render
from hvp import positive

RESULT = Path(__file__).resolve().parent / "results" / "peers.json"
PARTS = ("reports", "accuracy", "softmax", "networks", "memory")
BUDGETS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 70, 100, 140, 200)


def pair(text: str) -> tuple[str, str]:
    """``NAME=PATH``."""
    name, separator, path = text.partition("=")
    if not separator or name not in PEERS:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH with NAME one of {', '.join(PEERS)}; got {text!r}")
    # An interpreter's path must not be resolved: that would leave its virtual environment.
    return name, str(Path(path).absolute())


def parts(text: str) -> list[str]:
    """Names of parts, separated by commas."""
    chosen = text.split(",")
    unknown = [p for p in chosen if p not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(PARTS)}; got {', '.join(unknown)}")
    return chosen


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--make-environments", metavar="FOLDER", type=Path, help="make them there, and stop")
    result.add_argument("--environments", metavar="FOLDER", type=Path, help="where they were made")
    result.add_argument(
        "--python", metavar="NAME=PATH", type=pair, action="append", default=[], help="a peer's interpreter"
    )
    result.add_argument(
        "--checkout", metavar="NAME=PATH", type=pair, action="append", default=[], help="a peer's source folder"
    )
    result.add_argument("--parts", type=parts, default=list(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    result.add_argument("--networks", default="wrn-16-1,wrn-28-2", help="(default: %(default)s)")
    result.add_argument("--rounds", type=positive, default=9, help="(default: %(default)s)")
    result.add_argument("--smoke", action="store_true", help="ours and by hand only, tiny, one round")
    result.add_argument("--output", default=str(RESULT), help="JSON file, table and plots beside it; - for none")
    result.add_argument("--render", metavar="FILE", help="table and plots again, from the JSON alone")
    return result


def measure(
    options: argparse.Namespace, places: dict[str, Place], pool: dict[str, Worker], folder: Path
) -> Iterator[tuple[str, list[Any]]]:
    """The parts that were asked for, one after the other."""
    smoke = options.smoke
    rounds = 1 if smoke else options.rounds
    budgets = (2, 5) if smoke else BUDGETS
    size = {"samples": 60, "features": 10} if smoke else {"samples": 2000, "features": 200}
    batch = 2 if smoke else 32
    kinds = [f"{name} {norm}" for name in options.networks.split(",") for norm in ("group", "batch")]
    kinds = ["wrn-10-1 batch"] if smoke else kinds
    few = {"neumann": 1} if smoke else {"neumann": 5, "cg": 5}
    if "reports" in options.parts:
        yield "reports", reports(places)
    if "accuracy" in options.parts:
        conditions = [1e2] if smoke else [1e3, 1e4]
        measured = [accuracy(pool, folder, condition=c, budgets=budgets, rounds=rounds, **size) for c in conditions]
        yield "accuracy", measured
    if "softmax" in options.parts:
        count, more = {"neumann": 2 if smoke else 20}, 1 if smoke else max(rounds, 15)
        yield "softmax", [passes(pool, folder, "softmax", solvers=count, rounds=more, floors=100)]
    if "networks" in options.parts:
        priced = [passes(pool, folder, kind, solvers=few, rounds=rounds, floors=3, batch=batch) for kind in kinds]
        yield "networks", priced
    if "memory" in options.parts:
        yield "memory", [memory(places, folder, kind, solvers=few, batch=batch) for kind in kinds]


def loaded(places: dict[str, Place], pool: dict[str, Worker], folder: Path) -> dict[str, Any]:
    """Version of each peer, None for those that were not found; those that do not load are left out from here on."""
    path = folder / "hello.npz"
    make("softmax", path, seed=0)
    found = {name: worker.ask("load", path=str(path)) for name, worker in pool.items()}
    for name in PEERS:
        problem = "not found" if name not in found else found[name].get("error")
        if problem:
            print(f"{name}: {problem}; left out.", file=sys.stderr)
            places.pop(name, None)
            if name in pool:
                pool.pop(name).close()
    return {name: found.get(name) for name in PEERS}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    if options.make_environments:
        make_environments(options.make_environments.absolute())
        return 0
    torch.set_num_threads(1)
    # A smoke run measures nothing, so it must not stand among the results.
    nowhere = ("-", str(RESULT)) if options.smoke else ("-",)
    path = None if options.output in nowhere else Path(options.output)
    if options.render:
        path = Path(options.render)
        result = json.loads(path.read_text(encoding="utf-8"))
    else:
        environments = options.environments.absolute() if options.environments else None
        places = find(environments, dict(options.python), dict(options.checkout))
        if options.smoke:
            places = {name: places[name] for name in OWN}
        with tempfile.TemporaryDirectory() as folder, workers(places) as pool:
            stamp = {
                "command": shlex.join(["python", "benchmarks/peers.py", *arguments]),
                "commit": git_commit(),
                "environment": {k: v for k, v in environment().items() if k != "threads_per_run"},
                "smoke": options.smoke,
                "peers": loaded(places, pool, Path(folder)),
            }
            held = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
            for part, rows in measure(options, places, pool, Path(folder)):
                held[part] = {"made": stamp, "rows": rows}
                result = {name: held[name] for name in PARTS if name in held}
                if path:  # after each part, so that an interrupted run loses no more than one
                    write_json(path, result, indent=1)
    page = render(result)
    if path:
        path.with_suffix(".md").write_text(page, encoding="utf-8")
        plot(result, path.with_suffix(".png"))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
