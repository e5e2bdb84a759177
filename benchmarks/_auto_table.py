"""The tables of ``auto.py``, from its JSON alone."""

import math
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
TOLERANCE = 1.1
ROUNDING = 1e-9  # errors below it are rounding, and not compared


def mean(values: Iterable[float]) -> float:
    """Geometric."""
    held = [math.log(max(v, 1e-12)) for v in values]
    return math.exp(sum(held) / len(held))


def ratio(row: Row, mode: str) -> float:
    """The error of auto over that of the best fixed choice."""
    found = row[mode]
    if found["auto"] < ROUNDING:
        return min(1.0, found["auto"] / found["best"])
    return float(found["auto"] / found["best"])


def unmet(rows: list[Row], mode: str) -> list[Row]:
    """Where auto is worse than the best fixed choice by more than a tenth."""
    return [row for row in rows if ratio(row, mode) > TOLERANCE]


def render(result: Row) -> str:
    """The Markdown page."""
    env = result["environment"]
    return "\n\n".join(
        [
            "# auto, preconditioning and warm starts",
            _against(result["fixed"]),
            _time(result["time"]),
            _preconditioned(result["preconditioned"]),
            _warm(result["warm"]),
            f"{env['cpu']}, torch {env['torch']}, Python {env['python']}, commit {result['commit']}. "
            f"Made by `{result['command']}`.\n",
        ]
    )


def _against(rows: list[Row]) -> str:
    budgets = sorted({row["budget"] for row in rows})
    seeds = len({row["seed"] for row in rows})
    parts = [
        "## auto against the best fixed choice",
        "Relative error of x in the 2-norm, auto's over that of the fixed choice with the smallest (first_order; "
        "neumann with six alphas around 1 / lambda_max; cg; minres; nystrom with four rho), chosen in hindsight for "
        f"each cell; the worst of {seeds} seeds. Below 1 auto is better than every fixed choice, **bold** where it is "
        "worse by more than a tenth. b: *any* has equal parts in all eigendirections, *in range* is multiplied with "
        "the matrix.",
    ]
    for mode, title in (
        ("single", "A single solve, equal products."),
        (
            "sequence",
            "26 solves with the same matrix and other right-hand sides, auto's state kept, geometric means; its probe "
            "counts, so that the fixed choices have as many products on average, rounded up.",
        ),
    ):
        lines = [f"{title} Columns: products a solve.", ""]
        lines += [f"| spectrum | b | {' | '.join(map(str, budgets))} |", "|---|---|" + "---|" * len(budgets)]
        for kind, name, side in dict.fromkeys((r["kind"], r["spectrum"], r["b"]) for r in rows):
            group = [r for r in rows if (r["spectrum"], r["b"]) == (name, side)]
            cells = []
            for budget in budgets:
                worst = max(ratio(r, mode) for r in group if r["budget"] == budget)
                cells.append(f"**{worst:.3g}**" if worst > TOLERANCE else f"{worst:.2f}")
            lines.append(f"| {kind}: {name} | {side} | {' | '.join(cells)} |")
        missed = unmet(rows, mode)
        names = sorted({r[mode]["name"].split(",")[0] for r in missed})
        lines += [
            "",
            f"Met in {len(rows) - len(missed)} of {len(rows)} cells (spectrum, b, products, seed); geometric mean of "
            f"the ratio {mean(ratio(r, mode) for r in rows):.2f}."
            + (f" Where it is not met, the better one is {', '.join(names)}." if missed else ""),
            *_misses(missed, mode),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


#: Why a miss is one, by the kind of spectrum and the name of the better fixed choice; the first that fits.
REASONS = (
    (
        ("single", "", "nystrom"),
        "rho is the smallest eigenvalue, by hindsight: outside of a few large ones, x is b / rho. A matrix whose "
        "smallest eigenvalue is larger or smaller gives the same products up to here.",
    ),
    (
        ("sequence", "", "nystrom"),
        "As in a single solve; the probe's further products see a part of it.",
    ),
    (
        ("single", "indefinite", ""),
        "Where the products show no negative curvature yet, they are those of a positive definite matrix too, for "
        "which the free step is right; where they do, no answer is near, and CG's, which is not safe then, happens to "
        "be nearer.",
    ),
    (
        ("sequence", "", ""),
        "The fixed choice has one more product in most solves, as auto's mean is rounded up, and is at a place where "
        "one product counts: rounded down, auto was the better one (checked for seeds 0 to 3).",
    ),
)


def _misses(missed: list[Row], mode: str) -> list[str]:
    """Each spectrum, b and number of products with a miss, the worst first, and why."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in missed:
        groups.setdefault((row["kind"], row["spectrum"], row["b"], row["budget"]), []).append(row)
    if not groups:
        return []
    lines = ["", "| not met | b | products | seeds | worst | errors there | the better one | why |", "|---" * 8 + "|"]
    for (kind, name, side, budget), rows in sorted(groups.items(), key=lambda g: -max(ratio(r, mode) for r in g[1])):
        worst = max(rows, key=lambda r: ratio(r, mode))
        found = worst[mode]
        reasons = (
            reason
            for (of, spectra, better), reason in REASONS
            if of == mode and spectra in ("", kind) and found["name"].startswith(better)
        )
        seeds = ", ".join(str(r["seed"]) for r in rows)
        lines.append(
            f"| {name} | {side} | {budget} | {seeds} | {ratio(worst, mode):.2f} | "
            f"{found['auto']:.2g}, {found['best']:.2g} | {found['name']} | {next(reasons, 'Not understood.')} |"
        )
    return lines


def _time(rows: list[Row]) -> str:
    accuracies = list(dict.fromkeys(r["accuracy"] for r in rows))
    names = sorted({n for r in rows for n in r["best"]}, key=lambda n: (n != "auto", n))
    lines = [
        f"| condition | solver | {' | '.join(f'{a:.0e}' for a in accuracies)} |",
        "|---|---|" + "---|" * len(accuracies),
    ]
    for condition in dict.fromkeys(r["condition"] for r in rows):
        for name in names:
            cells = []
            for accuracy in accuracies:
                held = [r["best"].get(name) for r in rows if (r["condition"], r["accuracy"]) == (condition, accuracy)]
                if None in held:
                    cells.append("-")
                    continue
                cells.append(f"{1e3 * mean(h[0] for h in held):.0f} ({mean(h[1] for h in held):.0f})")
            lines.append(f"| {condition:.0e} | {name} | {' | '.join(cells)} |")
    ratios = [
        r["best"]["auto"][0] / min(v[0] for k, v in r["best"].items() if k != "auto")
        for r in rows
        if "auto" in r["best"] and len(r["best"]) > 1
    ]
    return "\n\n".join(
        [
            "## Error against time on logistic regression",
            "2000 samples, 200 features, float64, a decay for each weight, at the optimum. CPU milliseconds of a whole "
            "hypergradient (in brackets the products) by the quickest setting of each solver that reaches the relative "
            "error of the column; -: none of its settings does. Medians over interleaved rounds, geometric means over "
            "seeds.",
            "\n".join(lines),
            f"auto takes between {min(ratios):.2f} and {max(ratios):.2f} times as long as the quickest fixed solver "
            f"(geometric mean {mean(ratios):.2f}; {len(ratios)} of {len(rows)} cells, the rest no fixed solver "
            "reached).",
        ]
    )


def _grid(rows: list[Row], columns: Callable[[Row], Any], cell: Callable[[list[Row]], str], head: list[str]) -> str:
    """A table with a line for each distinct tuple of ``head``, in the order of the rows."""
    values = list(dict.fromkeys(columns(r) for r in rows))
    lines = [f"| {' | '.join(head)} | {' | '.join(map(str, values))} |", "|---" * (len(head) + len(values)) + "|"]
    for key in dict.fromkeys(tuple(r[h] for h in head) for r in rows):
        group = [r for r in rows if tuple(r[h] for h in head) == key]
        cells = [cell([r for r in group if columns(r) == v]) for v in values]
        shown = [f"{k:.0e}" if isinstance(k, float) and k >= 100 else str(k) for k in key]
        lines.append(f"| {' | '.join(shown)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _preconditioned(rows: list[Row]) -> str:
    return "\n\n".join(
        [
            "## Preconditioning",
            "Relative error of x (geometric mean over seeds) against products of the solve; those of the estimate come "
            "once for several solves: 5 for Hutchinson's, 10 for the Nystrom sketch (and those of alpha = auto for "
            "neumann). *scales*: a well-conditioned core between parameters of different scales. *low rank*: "
            "eigenvalues that fall by e each, over a damping of 1. Adam: M = diag(A)^(1/2), what its second moments "
            "are where the Hessian is the covariance of the gradients.",
            _grid(
                rows,
                lambda r: r["budget"],
                lambda held: f"{mean(r['error'] for r in held):.1e}",
                ["problem", "condition", "solver", "way"],
            ),
        ]
    )


def _warm(rows: list[Row]) -> str:
    def cell(held: list[Row]) -> str:
        cold, warm = mean(r["cold"] for r in held), mean(r["warm"] for r in held)
        return f"{warm / cold:.2f} ({cold:.1e})"

    return "\n\n".join(
        [
            "## Warm starts in a loop",
            "A quadratic that drifts: each outer step replaces the given share of the gradient b and of a 10 % jitter "
            "of the eigenvalues. Error with a warm start over error with a cold one at equal products, in brackets the "
            "error of the cold start (geometric means over steps 10 to 30 and seeds). Columns: the share.",
            _grid(rows, lambda r: r["change"], cell, ["condition", "budget", "solver"]),
        ]
    )
