"""The picture of ``faults.py``, from its JSON alone: where in the run each fault fell, and what came of it."""

import random
from pathlib import Path
from typing import Any

from _faults_probe import PHASES

GOOD, BAD = "#0072B2", "#D55E00"
PANELS = {"train": "hypergrad train", "solve": "solve(checkpoint=)"}
#: Fault to marker.
MARKERS = {"kill -9": "o", "kill -9 before a change of a file": "x", "SIGTERM": "^", "SIGINT": "v"}


def plot(result: dict[str, Any], path: Path) -> None:
    """A panel for the trainings and one for the solves, if any: what the process was at, against how far it was."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    panels = {k: v for k, v in PANELS.items() if k in result}
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(1 + 5.5 * len(panels), 4.2), sharey=True, squeeze=False)
    for axis, (group, title) in zip(axes[0], panels.items(), strict=True):
        spread = random.Random(0)
        trials = [t for t in result[group]["trials"] if t["fault"] in MARKERS]
        for trial in trials:
            axis.scatter(
                min(trial["at"], 1.0) + (0.02 * spread.random() if trial["at"] else 0),
                PHASES.index(trial["phase"]) + spread.uniform(-0.3, 0.3),
                marker=MARKERS[trial["fault"]], s=26, linewidths=1, alpha=0.8,
                color=GOOD if trial["survived"] else BAD,
            )  # fmt: skip
        survived = sum(t["survived"] for t in trials)
        axis.set_title(f"{title}: {survived} of {len(trials)} end as the uninterrupted run", loc="left", fontsize=10)
        axis.set_xlabel("share of the run's inner steps that was done")
        axis.set_xlim(-0.03, 1.05)
        for edge in range(len(PHASES) - 1):
            axis.axhline(edge + 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    axes[0, 0].set_yticks(range(len(PHASES)), labels=PHASES)
    axes[0, 0].set_ylim(len(PHASES) - 0.5, -0.5)
    axes[0, 0].set_ylabel("what the process was at")
    entries = [
        Line2D([], [], color="#444444", marker=marker, linestyle="", markersize=5, label=fault)
        for fault, marker in MARKERS.items()
    ]
    entries.append(Line2D([], [], color=GOOD, marker="s", linestyle="", markersize=5, label="bit-equal after resume"))
    entries.append(Line2D([], [], color=BAD, marker="s", linestyle="", markersize=5, label="lost"))
    figure.tight_layout(rect=(0, 0.08 if len(panels) > 1 else 0.12, 1, 1))
    figure.legend(handles=entries, loc="lower center", ncols=3 * len(panels), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
