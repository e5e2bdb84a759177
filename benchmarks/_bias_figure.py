"""Picture of bias.py, from its JSON alone."""

import statistics
from pathlib import Path
from typing import Any

from _bias_measure import NONE, SYSTEMS
from _bias_table import ROWS, Results, at, bias, seen, shares

#: Of the points, early to late (Okabe and Ito).
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7")
LABELS = {"gauss-newton, quarter": "gauss-newton,\nquarter", "finite-difference": "finite-\ndifference",
          "low memory": "low\nmemory", NONE: "no\ncurvature"}  # fmt: skip


def _places(i: int, count: int) -> list[float]:
    return [k + (i - (count - 1) / 2) * 0.2 for k in range(len(ROWS))]


def _errors(axis: Any, results: Results, system: str) -> None:
    points = shares(results)
    for i, share in enumerate(points):
        values = [statistics.median(c["relative_error"] for c in at(results, share, system, row)) for row in ROWS]
        axis.plot(_places(i, len(points)), values, "o", color=COLOURS[i], label=f"{100 * share:.0f} % of the run")
    others = [
        cell["systems"][system]["exact"]["relative_difference"] for cell in results["cells"] if cell["point"] in points
    ]
    axis.axhline(statistics.median(others), color="black", linestyle="--", label="noise: exact, other batches")
    axis.set_title(system)


def _biases(axis: Any, results: Results, system: str) -> None:
    points = shares(results)
    for i, share in enumerate(points):
        for place, row in zip(_places(i, len(points)), ROWS, strict=True):
            numbers = at(results, share, system, row)
            value, bound = bias(numbers)
            if seen(numbers):
                axis.plot(place, value, "o", color=COLOURS[i])
            else:
                axis.plot(place, max(bound, 1e-12), "v", color=COLOURS[i], fillstyle="none")
    axis.axhline(1, color="black", linestyle="--")


def plot(results: Results, path: Path) -> None:
    """Relative error of a draw above, bias against noise below, a column for each system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(SYSTEMS), figsize=(15, 8), sharey="row", sharex=True)
    for column, system in enumerate(SYSTEMS):
        _errors(axes[0][column], results, system)
        _biases(axes[1][column], results, system)
    for axis in axes.flat:
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.set_xticks(range(len(ROWS)), [LABELS.get(row, row) for row in ROWS], rotation=35, ha="right", fontsize=9)
    axes[0][0].set_ylabel("relative error of one hypergradient")
    axes[1][0].set_ylabel("bias / noise of one draw")
    handles, labels = axes[0][0].get_legend_handles_labels()
    hollow = pyplot.Line2D([], [], marker="v", color="#666666", linestyle="", fillstyle="none")
    figure.legend([*handles, hollow], [*labels, "upper bound, no bias seen"], ncol=5, loc="lower center")
    smoke = " (smoke run)" if results["smoke"] else ""
    figure.suptitle(f"Cheaper products against exact ones, while {results['data']} is trained{smoke}")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
