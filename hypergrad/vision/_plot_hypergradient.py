"""The updates of a policy over a run: norms of the hypergradients, residuals and statuses of the solves."""

from typing import Any

import numpy as np

from hypergrad.files import Field
from hypergrad.solvers.base import Status
from hypergrad.vision._plot import (
    LINES,
    Axes,
    Figure,
    add_axes,
    add_title,
    counts,
    log_scale,
    new_figure,
    numbers,
    whole_numbers,
)
from hypergrad.vision.run import Recorded

_STATUS_COLOURS = {
    Status.CONVERGED.value: "#009e73",
    Status.TRUNCATED.value: "#0072b2",
    Status.MAX_STEPS.value: "#e69f00",
    Status.NEGATIVE_CURVATURE.value: "#cc79a7",
    Status.DIVERGED.value: "#d55e00",
    Status.NONFINITE.value: "#000000",
}
_NOTHING_SOLVED = "nothing solved"


def hypergradient_history(run: Recorded, *, label: str, per_epoch: float) -> Figure:
    """Norms, residuals (where there are any) and statuses over inner steps.

    Args:
        run: with an update and an epoch.
        label: of the run.
        per_epoch: inner steps in an epoch.

    Raises:
        InvalidInputError: a record lacks a number, or has an unknown status.
    """
    steps = np.array(counts(run.path, "update", run.updates, "inner_step"))
    norms, residuals = (np.array(numbers(run.path, "update", run.updates, n)) for n in ("grad_norm", "residual"))
    statuses = [_status(run, i) for i in range(len(run.updates))]
    seen = [name for name in (*_STATUS_COLOURS, _NOTHING_SOLVED) if name in statuses]
    measured = bool(np.isfinite(residuals).any())
    crosses = "" if np.isfinite(norms).all() else "; crosses: not finite, and left out by the optimizer"
    note = f"{len(steps)} updates{crosses}" + ("" if measured else "; no residuals were recorded")
    heights = [2.3] + [1.9] * measured + [0.1 + 0.3 * len(seen)]
    figure = new_figure(9, 1.35 + sum(heights) + 0.2 * (len(heights) - 1) + 0.65)
    add_title(figure, f"The policy's hypergradients: {label}", note, 0.15)
    axes = [add_axes(figure, 2.0, 1.35 + sum(heights[:i]) + 0.2 * i, 6.7, height) for i, height in enumerate(heights)]
    for one in axes:
        one.set_xlim(0, 1.01 * max(float(steps[-1]), per_epoch * len(run.epochs)))
        one.grid(color="0.88")
        one.set_axisbelow(True)
        one.tick_params(labelbottom=one is axes[-1])
    _scatter(axes[0], steps, norms)
    axes[0].set_ylabel("norm of the\nhypergradient", size=10)
    if measured:
        _scatter(axes[1], steps, residuals)
        axes[1].set_ylabel("relative residual\nof the solve", size=10)
    for row, name in enumerate(seen):
        at = steps[[status == name for status in statuses]]
        axes[-1].eventplot(at, lineoffsets=row, linelengths=0.7, lw=1.2, color=_STATUS_COLOURS.get(name, "0.4"))
    rows = [f"{name.replace('_', ' ')}: {statuses.count(name)}" for name in seen]
    axes[-1].set_yticks(range(len(seen)), rows, size=9)
    axes[-1].set_ylim(len(seen) - 0.4, -0.6)
    axes[-1].set_xlabel("inner steps", size=10)
    upper = axes[0].secondary_xaxis("top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
    upper.set_xlabel("epochs", size=10)
    whole_numbers(upper.xaxis)
    return figure


def _status(run: Recorded, index: int) -> str:
    field = Field(str(run.path / "metrics.jsonl"), f"update record {index + 1}", run.updates[index]).member("status")
    return _NOTHING_SOLVED if field.value is None else field.one_of(*_STATUS_COLOURS)


def _scatter(axes: Axes, steps: Any, values: Any) -> None:
    """Values on a logarithmic scale if all are positive; crosses at the bottom where there is no finite one."""
    finite = np.isfinite(values)
    shown = values[finite]
    axes.plot(steps[finite], shown, color=LINES[0], lw=0.8, marker=".", ms=4)
    if len(shown) and (shown > 0).all():
        log_scale(axes, float(shown.min()), float(shown.max()))
    axes.plot(
        steps[~finite], [0.05] * int((~finite).sum()), "x", color=LINES[1], ms=6, mew=1.6,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
