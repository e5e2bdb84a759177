"""What a run loses when it is killed: faults by the hundred, each followed by a resume and a comparison.

Trainings, solves, search workers and ranks are ended by ``kill -9`` at random instants and before changes of files, get
signals, a full disk, damaged files; then they go on, and what they leave is compared with what an uninterrupted run
leaves, bit for bit. A control that forgets the momentum when it goes on shows that a difference would be seen. The
exit status is 1 if anything was lost that should not be.

    python benchmarks/faults.py                              # results/faults.{json,md,png}
    python benchmarks/faults.py --only train --kills 200 --seed 1
    python benchmarks/faults.py --smoke --output tried.json      # a few of each

Processes are forks of this one, which has imported everything; one kill in ten is of real interpreters.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _cells import git_commit
from _faults_figure import plot
from _faults_files import damage, torn_runs
from _faults_ranks import Ranks, deaths, one_signal, slow, torchrun
from _faults_runs import FAULTS, Runs, Trial, kills
from _faults_search import Searches, stalled
from _faults_search import kills as worker_kills
from _faults_table import render, summary

GROUPS = ("train", "solve", "files", "search", "ranks", "torchrun", "control")
#: Of each fault: in full, and with --smoke.
COUNTS = {
    "kills": (50, 3), "operations": (40, 3), "again": (3, 1), "signals": (20, 3), "second": (3, 1), "full": (10, 1),
    "torn": (20, 1), "tensors": (200, 30), "stride": (1, 29), "workers": (30, 3), "stalled": (3, 1),
    "deaths": (10, 2), "one_signal": (6, 1), "slow": (6, 2), "torchrun": (3, 0), "control": (6, 2),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Try the faults, and write the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="these groups alone; repeatable. Others stay in the JSON"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="of trainings and solves, at random instants")
    parser.add_argument("--seed", type=int, default=0, help="of where and when the faults fall (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="a few of each: shows that it works")
    parser.add_argument("--output", type=Path, metavar="PREFIX", help="of the files (default: results/faults)")
    parser.add_argument("--render", action="store_true", help="draw table and picture from the JSON that is there")
    parsed = parser.parse_args(argv)
    prefix = parsed.output or Path(__file__).parent / "results" / ("faults-smoke" if parsed.smoke else "faults")
    if parsed.render:
        return _write(json.loads(prefix.with_suffix(".json").read_text()), prefix)
    if os.environ.get("OMP_NUM_THREADS") != "1":  # numerical libraries start threads when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    counts = {name: pair[parsed.smoke] for name, pair in COUNTS.items()}
    if parsed.kills is not None:
        counts["kills"] = parsed.kills
    failed, place = 0, Path(tempfile.mkdtemp(prefix="hypergrad-faults-"))
    result = _before(prefix) if parsed.only else {}
    for group in parsed.only or GROUPS:
        started, trials = time.monotonic(), []
        # A seed a group, so that one group alone has the faults that it has among all.
        for trial in TRIALS[group](place / group, random.Random(f"{parsed.seed} {group}"), counts):
            trials.append(asdict(trial))
            if not trial.survived and group != "control":
                print(f"{group}, {trial.fault}: {trial.note}", file=sys.stderr, flush=True)
        result[group] = {
            "seed": parsed.seed, "command": " ".join(["python", "benchmarks/faults.py", *(argv or sys.argv[1:])]),
            "commit": git_commit(), "python": sys.version.split()[0], "torch": torch.__version__,
            "cores": os.cpu_count(), "seconds": round(time.monotonic() - started, 1), "trials": _numbered(trials),
        }  # fmt: skip
        failed = _write(result, prefix)  # after each group: the whole takes long
    print(prefix.with_suffix(".md").read_text())
    if failed:
        print(f"What the lost runs left is in {place}.", file=sys.stderr)
    else:
        shutil.rmtree(place, ignore_errors=True)
    return failed


def _before(prefix: Path) -> dict[str, Any]:
    """The groups that were tried before, which stay where only others are asked for."""
    path = prefix.with_suffix(".json")
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _runs(kind: str) -> Callable[[Path, random.Random, dict[str, int]], Iterator[Trial]]:
    def trials(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
        runs = Runs(kind, place, rng)
        for name, fault in FAULTS.items():
            yield from fault(runs, counts[name])

    return trials


def _files(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
    runs = Runs("train", place, rng)
    yield from damage(runs, counts["tensors"], counts["stride"])
    yield from torn_runs(runs, counts["torn"])


def _search(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
    searches = Searches(place, rng)
    yield from worker_kills(searches, counts["workers"])
    yield from stalled(searches, counts["stalled"])


def _ranks(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
    ranks = Ranks(place, rng)
    yield from deaths(ranks, counts["deaths"])
    yield from one_signal(ranks, counts["one_signal"])
    yield from slow(ranks, counts["slow"])


def _torchrun(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
    if counts["torchrun"]:
        yield from torchrun(Ranks(place, rng), counts["torchrun"])


def _control(place: Path, rng: random.Random, counts: dict[str, int]) -> Iterator[Trial]:
    for kind in ("train", "solve"):
        yield from kills(Runs(kind, place / kind, rng), counts["control"] // 2, forget=True)


TRIALS = {
    "train": _runs("train"),
    "solve": _runs("solve"),
    "files": _files,
    "search": _search,
    "ranks": _ranks,
    "torchrun": _torchrun,
    "control": _control,
}


def _numbered(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As JSON keeps them: of bytes by the thousand that all did as they should, one with their number."""
    found: dict[Any, dict[str, Any]] = {}
    for i, trial in enumerate(trials):
        alike = trial["at"] is None and trial["survived"] and not trial["note"]
        key = (trial["fault"], trial["steps"]) if alike else i
        found.setdefault(key, {**trial, "times": 0})["times"] += 1
    return list(found.values())


def _write(result: dict[str, Any], prefix: Path) -> int:
    """Write what there is; 1 where something was lost, or the control saw nothing."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(render(result))
    plot(result, prefix.with_suffix(".png"))
    rows = summary(result)
    lost = [r for r in rows if r["survived"] < r["tried"] and r["group"] != "control"]
    blind = [r for r in rows if r["group"] == "control" and r["survived"]]
    return 1 if lost or blind else 0


if __name__ == "__main__":
    sys.exit(main())
