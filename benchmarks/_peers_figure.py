"""The figure of ``peers.py``, from its JSON alone."""

from pathlib import Path
from typing import Any

from _peers_measure import Row, median, quartiles
from _peers_table import floors

COLOURS = {
    "ours": "#000000", "by hand": "#999999", "betty": "#0072B2", "torchopt": "#E69F00", "moskomule": "#CC79A7",
    "boat": "#009E73", "hypertorch": "#D55E00",
}  # fmt: skip
NAMES = {"ours": "hypergrad (ours)", "betty": "betty-ml", "moskomule": "hypergrad (moskomule)", "boat": "BOAT"}
STYLES = {"cg": "-", "neumann": "--", "auto": ":", "minres": "-.", "nystrom": (0, (1, 3))}
MARKERS = {"cg": "o", "neumann": "s", "auto": "*", "minres": "v", "nystrom": "^", "dense": "D"}
LEFT_OUT = ("first-order", "darts", "fixed point", "cg, normal equations", "neumann, alpha found")


def plot(result: dict[str, Any], path: Path) -> None:
    """Above: error against time. Below: price in passes, and memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = result.get("accuracy", {}).get("rows", [])
    prices = [row for name in ("softmax", "networks") for row in result.get(name, {}).get("rows", [])]
    held = result.get("memory", {}).get("rows", [])
    count = max(2, len(curves), len(prices), len(held))
    figure = pyplot.figure(figsize=(4.2 * count, 15))
    grid = figure.add_gridspec(3, count, height_ratios=(1.5, 1, 1))
    for k, part in enumerate(curves):
        half = count / max(1, len(curves))
        _curves(figure.add_subplot(grid[0, int(k * half) : int((k + 1) * half)]), part)
    for k, part in enumerate(prices):
        _bars(figure.add_subplot(grid[1, k]), part, "passes")
    for k, part in enumerate(held):
        _bars(figure.add_subplot(grid[2, k]), part, "memory")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def _curves(axis: Any, part: Row) -> None:
    for library, solver in dict.fromkeys((r["library"], r["solver"]) for r in part["rows"]):
        rows = [r for r in part["rows"] if (r["library"], r["solver"]) == (library, solver) and r["error"] is not None]
        if not rows or solver in LEFT_OUT:
            continue
        axis.plot(
            [1e3 * median(r["cpu_seconds"]) for r in rows],
            [min(max(r["error"], 1e-13), 1e2) for r in rows],
            color=COLOURS[library],
            linestyle=STYLES.get(solver, "-"),
            marker=MARKERS.get(solver, "x"),
            markersize=8 if solver == "auto" else 4,
            linewidth=2 if library == "ours" else 1.2,
            label=f"{NAMES.get(library, library)}, {solver}",
        )
    axis.set(xscale="log", yscale="log", xlabel="CPU time, ms", ylabel="relative error of the hypergradient")
    axis.set_ylim(1e-13, 30)
    axis.set_title(f"logistic regression, condition number {part['condition']:.0f}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncol=2, loc="lower left")


def _bars(axis: Any, part: Row, what: str) -> None:
    solvers = list(dict.fromkeys(r["solver"] for r in part["rows"]))
    libraries = list(dict.fromkeys(r["library"] for r in part["rows"]))
    height = 0.8 / len(solvers)
    for place, solver in enumerate(solvers):
        for at, library in enumerate(libraries):
            row = next(r for r in part["rows"] if (r["library"], r["solver"]) == (library, solver))
            spot = -at - place * height
            colour = {"color": COLOURS[library], "alpha": 1.0 if place == 0 else 0.5}
            if what == "passes" and "cpu_seconds" in row:
                low, middle, high = quartiles(floors(row))
                axis.barh(spot, middle, height, xerr=[[middle - low], [high - middle]], ecolor="#555555", **colour)
            elif what == "memory" and "call" in row:
                middle = row["call"]["live"] / row["floor"]["live"]
                axis.barh(spot, middle, height, **colour)
            else:
                axis.text(0, spot, " failed", va="center", fontsize=7)
                continue
            axis.text(middle, spot, f" {middle:.1f}", va="center", fontsize=7)
    axis.set_yticks([-k - 0.4 * (len(solvers) > 1) * 0.5 for k in range(len(libraries))])
    axis.set_yticklabels([NAMES.get(name, name) for name in libraries], fontsize=7)
    kind = "softmax regression" if part["kind"] == "softmax" else part["kind"].replace("wrn", "WRN")
    budget = part["rows"][0]["options"]["budget"]
    if what == "passes":
        axis.set_xscale("log")
        label = f"forward and backward passes, {budget} products"
    else:
        label = "peak of live tensors, in passes"
    pale = f" (pale: {solvers[1]})" if len(solvers) > 1 else ""
    axis.set_title(f"{kind}: {solvers[0]}{pale}", fontsize=9)
    axis.set_xlabel(label, fontsize=8)
    axis.margins(x=0.15)
