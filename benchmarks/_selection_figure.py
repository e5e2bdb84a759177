"""Figure of the comparison of selection gradients, from its JSON alone."""

import statistics
from pathlib import Path

from _selection_table import Results, by_name, relaxed_rmse, temperatures, unbiased_rmse

#: Okabe and Ito's colours, which the colour-blind can tell apart, with grey for their yellow; markers differ as well.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#999999", "#0072B2", "#D55E00", "#CC79A7")
MARKERS = "osD^v<>P"


def plot(results: Results, path: Path) -> None:
    """Error against batch size for three losses, and bias against temperature for all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_name(results)
    names, taus = list(groups), temperatures(results)
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9))
    chosen = [names[0], next(n for n in names if "trained" in n), names[-1]]
    for axis, name in zip(axes.flat, chosen, strict=False):
        group = groups[name]
        for way, style, label in (
            ("unbiased", "o-", ""),
            ("grouped", "o:", f", groups of {results['setup']['group']}"),
        ):
            errors = {int(b): unbiased_rmse(group, b, way) for b in group[0][way]}
            axis.plot(errors.keys(), errors.values(), style, color="black", label=f"unbiased{label}",
                      markerfacecolor="white" if label else "black")  # fmt: skip
        for tau, colour, marker in zip(taus, COLOURS[1:4] + COLOURS[5:], "^v<>D", strict=False):
            errors = {int(b): relaxed_rmse(group, b, tau) for b in group[0]["unbiased"]}
            axis.plot(errors.keys(), errors.values(), "--", marker=marker, markersize=4, color=colour,
                      label=f"eq. (9), tau = {tau}")  # fmt: skip
        axis.axhline(1, color="grey", linewidth=1, label="the estimate 0")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("batch size")
        axis.set_ylabel("root-mean-square error / length of the truth")
        axis.set_title(name + (f" (median of {len(group)} seeds)" if len(group) > 1 else ""))
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axis = axes[1][1]
    for (name, group), colour, marker in zip(groups.items(), COLOURS, MARKERS, strict=False):
        held = [[p["relaxed"][t]["bias"] for p in group] for t in taus]
        middle = [statistics.median(values) for values in held]
        low = [m - min(values) for m, values in zip(middle, held, strict=True)]
        high = [max(values) - m for m, values in zip(middle, held, strict=True)]
        zero = "" if group[0]["truth_norm"] else " (truth 0: absolute)"
        axis.errorbar([float(t) for t in taus], middle, yerr=[low, high], color=colour, marker=marker, markersize=5,
                      capsize=2, linestyle="--" if zero else "-", label=name + zero)  # fmt: skip
    axis.set_xscale("log")
    axis.set_ylim(0, 1.7 * axis.get_ylim()[1])  # room for the legend
    axis.set_xlabel("temperature of eq. (9)")
    axis.set_ylabel("bias of eq. (9) / length of the truth")
    axis.set_title("bias; bars: range over the seeds")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper right")
    if results["setup"]["smoke"]:
        figure.suptitle("smoke run")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
