"""The measurements behind ``peers.py``: accuracy and time, cost in forward and backward passes, memory."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _peers_pool import Place, Worker, workers
from _peers_problems import LOG_DECAY, make, make_logistic

Row = dict[str, Any]
#: Of alpha, in units of 1 / lambda_max, and of rho, in units of lambda_max: each solver gets the best in hindsight.
ALPHAS = (0.5, 1.0, 1.5, 1.9)
RHOS = (1e-4, 1e-3, 1e-2, 1e-1)
ALPHA = 1e-3  # where the answer is not judged, only its price
SEED = 0

#: What a solver is asked: "budget", "budget and alpha", "budget and rho", or nothing.
ASKED = {
    "neumann": "alpha", "fixed point": "alpha", "nystrom": "rho",
    "first-order": None, "dense": None, "darts": None,
}  # fmt: skip


def settings(solver: str, budgets: Sequence[int], top: float) -> list[list[Row]]:
    """What to try: for each budget the settings of which the best is taken."""
    asked = ASKED.get(solver, "")
    if asked is None:
        return [[{}]]
    if asked == "":
        return [[{"budget": k}] for k in budgets]
    values = [c / top for c in ALPHAS] if asked == "alpha" else [c * top for c in RHOS]
    return [[{"budget": k, asked: v} for v in values] for k in budgets]


def error(answer: Sequence[float], exact: Sequence[float]) -> float:
    """Relative, in the 2-norm; infinite where the answer is not finite."""
    size = math.sqrt(sum(e * e for e in exact))
    off = math.sqrt(sum((a - e) ** 2 for a, e in zip(answer, exact, strict=True))) / size
    return off if math.isfinite(off) else math.inf


def accuracy(
    pool: Mapping[str, Worker], folder: Path, *, condition: float, budgets: Sequence[int], rounds: int, **size: int
) -> Row:
    """Every solver's error on a logistic regression, and its time, for each budget."""
    path = folder / f"logistic-{condition:g}.npz"
    about = make_logistic(path, condition=condition, seed=SEED, **size)
    exact = about.pop("exact")
    rows, failed = [], []
    for name, worker in pool.items():
        loaded = worker.ask("load", path=str(path))
        for solver in loaded.get("solvers", []):
            for choices in settings(solver, budgets, about["lambda_max"]):
                tried = []
                for options in choices:
                    reply = worker.ask("answer", solver=solver, options=json.dumps(options))
                    if "error" in reply:
                        failed.append({"library": name, "solver": solver, **options, **reply})
                    else:
                        tried.append((error(reply["answer"], exact), options))
                if tried:
                    least, options = min(tried, key=lambda item: item[0])
                    shown = least if math.isfinite(least) else None
                    rows.append({"library": name, "solver": solver, "options": options, "error": shown})
        if "error" in loaded:
            failed.append({"library": name, **loaded})
    timed = interleaved(pool, rows, rounds=rounds, target=0.03 if rounds > 1 else 0.0)
    for row, times in zip(rows, timed, strict=True):
        row["cpu_seconds"] = [round(t["seconds"], 7) for t in times]
    return {**about, "rows": rows, "failed": failed}


def interleaved(
    pool: Mapping[str, Worker], rows: Sequence[Row], *, rounds: int, target: float, floors: int = 0
) -> list[list[Row]]:
    """CPU seconds of each row in each round: every round has all rows, and its order rotates.

    Args:
        target: seconds of CPU that a measurement should take, by repeating short calls.
        floors: repeats of the unit beside each.
    """

    def ask(row: Row, repeats: int, units: int) -> Row:
        question = {"solver": row["solver"], "options": json.dumps(row["options"])}
        return pool[row["library"]].ask("time", **question, repeats=repeats, floors=units)

    first = [ask(row, 1, 0).get("seconds", math.inf) for row in rows]  # also warms up
    repeats = [max(1, min(50, int(target / max(t, 1e-6)))) for t in first]
    times: list[list[Row]] = [[] for _ in rows]
    for turn in range(rounds):
        for place in range(len(rows)):
            k = (turn * max(1, len(rows) // rounds) + place) % len(rows)
            times[k].append(ask(rows[k], repeats[k], floors))
    return times


def passes(
    pool: Mapping[str, Worker],
    folder: Path,
    kind: str,
    *,
    solvers: Mapping[str, int],
    rounds: int,
    floors: int,
    batch: int = 32,
) -> Row:
    """The price of a hypergradient in forward and backward passes, for each library and solver; equal answers marked.

    Args:
        solvers: products for each.
    """
    rows: list[Row] = []
    for solver, budget in solvers.items():
        path = folder / f"{kind} {solver}.npz"
        make(kind, path, seed=SEED, batch=batch, log_decay=LOG_DECAY[solver])
        options = {"budget": budget, **({"alpha": ALPHA} if solver == "neumann" else {})}
        group: list[Row] = []
        for name, worker in pool.items():
            loaded = worker.ask("load", path=str(path))
            row = {"library": name, "solver": solver, "options": options}
            reply = (
                worker.ask("answer", solver=solver, options=json.dumps(options)) if "error" not in loaded else loaded
            )
            group.append(row | reply)
        reference = next(row["answer"] for row in group if row["library"] == "by hand")
        good = [row for row in group if "answer" in row]
        timed = interleaved(pool, good, rounds=rounds, target=0.1, floors=floors)
        for row, times in zip(good, timed, strict=True):
            row["error"] = error(row.pop("answer"), reference)
            row["cpu_seconds"] = [round(t["seconds"], 7) for t in times]
            row["floor_seconds"] = [round(t["floor"], 7) for t in times]
        rows += group
    return {"kind": kind, "batch": batch, "rows": rows}


def memory(places: Mapping[str, Place], folder: Path, kind: str, *, solvers: Mapping[str, int], batch: int) -> Row:
    """Peak memory above set-up of each library and solver, each in a fresh process."""
    rows: list[Row] = []
    for solver, budget in solvers.items():
        path = folder / f"{kind} {solver} memory.npz"
        make(kind, path, seed=SEED, batch=batch, log_decay=LOG_DECAY[solver])
        options = {"budget": budget, **({"alpha": ALPHA} if solver == "neumann" else {})}
        for name, place in places.items():
            with workers({name: place}) as pool:
                reply = pool[name].ask("load", path=str(path))
                if "error" not in reply:
                    reply = pool[name].ask("memory", solver=solver, options=json.dumps(options))
            rows.append({"library": name, "solver": solver, "options": options, **reply})
    return {"kind": kind, "batch": batch, "rows": rows}


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, q2, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, q2, q3


def best(rows: Sequence[Row], wanted: float, keep: Callable[[Row], bool]) -> Row | None:
    """The quickest of some rows (by median) whose error is at most ``wanted``."""
    good = [r for r in rows if keep(r) and r["error"] is not None and r["error"] <= wanted]
    return min(good, key=lambda r: median(r["cpu_seconds"]), default=None)


def ratio(top: Row, bottom: Row) -> tuple[float, float, float]:
    """Quartiles of the ratio of two rows' times, round by round."""
    return quartiles([a / b for a, b in zip(top["cpu_seconds"], bottom["cpu_seconds"], strict=True)])
