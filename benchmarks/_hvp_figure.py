"""The bar chart of ``hvp.py``, from its JSON alone: time beside FLOPs, and memory."""

from pathlib import Path
from typing import Any

from _hvp_table import TITLES
from _hvp_ways import FLOOR

TIME, FLOPS, MEMORY = "#0072B2", "#E69F00", "#009E73"


def plot(result: dict[str, Any], path: Path) -> None:
    """A line of two panels for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    problems = result["problems"]
    heights = [1.2 + 0.42 * (len(p["ways"]) - 1) for p in problems]
    figure, axes = pyplot.subplots(
        len(problems), 2, figsize=(12, sum(heights)), squeeze=False, height_ratios=heights, width_ratios=(2, 1)
    )
    for (left, right), problem in zip(axes, problems, strict=True):
        unit = problem["ways"][FLOOR]
        rows = {name: row for name, row in problem["ways"].items() if name != FLOOR}
        places = range(len(rows))
        times = [row["time"] for row in rows.values()]
        medians = [t["median"] for t in times]
        spread = [[t["median"] - t["q1"] for t in times], [t["q3"] - t["median"] for t in times]]
        left.barh([p - 0.2 for p in places], medians, 0.38, color=TIME, label="time", xerr=spread, ecolor="#555555")
        left.barh(
            [p + 0.2 for p in places],
            [row["flops"] / unit["flops"] for row in rows.values()],
            0.38, color=FLOPS, label="FLOPs",
        )  # fmt: skip
        right.barh(places, [row["peak_bytes"] / unit["peak_bytes"] for row in rows.values()], 0.6, color=MEMORY)
        step = problem["training_step_bytes"] / unit["peak_bytes"]
        right.axvline(step, color="#555555", linewidth=1, label="a training step")
        left.set_yticks(list(places), labels=list(rows))
        right.set_yticks(list(places), labels=[""] * len(rows))
        for axis in (left, right):
            axis.invert_yaxis()
            axis.grid(axis="x", alpha=0.3)
            axis.set_axisbelow(True)
            axis.legend(fontsize=8, loc="lower right")
        if max(medians) > 4 * sorted(medians)[-2]:  # one way would leave the others no room
            left.set_xlim(0, 1.3 * sorted(medians)[-2])
            left.set_xlabel(f"in forward and backward passes (cut off: {max(medians):.0f})")
        else:
            left.set_xlabel("in forward and backward passes")
        right.set_xlabel("peak memory, of one pass")
        left.set_title(
            f"{TITLES[problem['problem']]}: batch {problem['batch']}, {problem['num_hvps']} products", loc="left"
        )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
