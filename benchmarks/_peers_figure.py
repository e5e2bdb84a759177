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

    rows = [
        (result.get("accuracy", {}).get("rows", []), 1.6, _curves),
        ([r for name in ("softmax", "networks") for r in result.get(name, {}).get("rows", [])], 1, _passes),
        (result.get("memory", {}).get("rows", []), 1, _memory),
    ]
    rows = [row for row in rows if row[0]]
    count = max([2, *(len(parts) for parts, _, _ in rows)])
    heights = [height for _, height, _ in rows] or [1]
    figure = pyplot.figure(figsize=(max(12, 4 * count), 4.2 * sum(heights)), layout="constrained")
    outer = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for k, (parts, _, draw) in enumerate(rows):
        inner = outer[k].subgridspec(1, len(parts))
        for j, part in enumerate(parts):
            draw(figure.add_subplot(inner[j]), part)
    lines = {label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncol=5, fontsize=8, frameon=False)
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


def _passes(axis: Any, part: Row) -> None:
    values = {(r["library"], r["solver"]): quartiles(floors(r)) if "cpu_seconds" in r else None for r in part["rows"]}
    _bars(axis, part, values, "forward and backward passes")


def _memory(axis: Any, part: Row) -> None:
    values = {
        (r["library"], r["solver"]): (r["call"]["live"] / r["floor"]["live"],) * 3 if "call" in r else None
        for r in part["rows"]
    }
    _bars(axis, part, values, "peak of live tensors, in forward and backward passes")


def _bars(axis: Any, part: Row, values: dict[Any, tuple[float, float, float] | None], label: str) -> None:
    solvers = list(dict.fromkeys(solver for _, solver in values))
    libraries = list(dict.fromkeys(library for library, _ in values))
    height = 0.8 / len(solvers)
    known = sorted(v[1] for v in values.values() if v)
    edge = min(known[-1], 2.5 * known[len(known) // 2]) * 1.25 if known else 1.0  # what is longer is cut off
    for at, library in enumerate(libraries):
        for place, solver in enumerate(solvers):
            spot, value = at + (place - (len(solvers) - 1) / 2) * height, values[library, solver]
            if value is None:
                axis.text(0, spot, " failed", va="center", fontsize=8)
                continue
            low, middle, high = value
            cut = middle > edge
            axis.barh(spot, min(middle, edge), height * 0.95, color=COLOURS[library], alpha=1.0 if place == 0 else 0.5)
            if not cut:
                axis.errorbar(middle, spot, xerr=[[middle - low], [high - middle]], color="#444444", linewidth=1)
            text = f"{middle:.0f} " if middle >= 100 else f"{middle:.1f} "
            axis.text(
                edge if cut else high + edge / 80,
                spot,
                text,
                va="center",
                ha="right" if cut else "left",
                fontsize=8,
                color="white" if cut and place == 0 else "black",
            )
    axis.set_xlim(0, edge)
    axis.set_yticks(range(len(libraries)), [NAMES.get(name, name) for name in libraries], fontsize=8)
    axis.invert_yaxis()
    kind = "softmax regression" if part["kind"] == "softmax" else f"{part['kind'].replace('wrn', 'WRN')} norm"
    pale = f", {solvers[1]} (pale)" if len(solvers) > 1 else ""
    budget = part["rows"][0]["options"]["budget"]
    axis.set_title(f"{kind}:\n{solvers[0]}{pale}, {budget} products", fontsize=8)
    axis.set_xlabel(label, fontsize=8)
