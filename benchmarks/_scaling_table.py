"""The page and the chart of ``scaling.py``, from its JSON alone."""

import statistics
from pathlib import Path
from typing import Any

from _scaling_model import RANKS, formula, median_wall, speedups

COLOURS = {"inner step": "#0072B2", "hypergradient": "#D55E00"}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, q2, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, q2, q3


def ratios(work: dict[str, Any], clock: str) -> list[float]:
    """Round by round: one process's seconds over those of several (wall), or several over one (cpu)."""
    pairs = [(a[clock], b[clock]) for a, b in zip(work["one"], work["several"], strict=True)]
    return [a / b for a, b in pairs] if clock == "wall" else [b / a for a, b in pairs]


def render(result: dict[str, Any]) -> str:
    """Markdown."""
    setup, works = result["setup"], result["works"]
    p, h = result["parameters"], result["hyperparameters"]
    n = setup["ranks"]
    lines = [
        "# Two ranks, and a model of more",
        "",
        f"WideResNet-16-1 with GroupNorm, {p:,} parameters, {h} hyperparameters; batch {setup['batch']} (training and "
        f"validation), {setup['num_hvps']} products; {setup['rounds']} rounds, medians and quartiles. Each rank is one "
        f"process of one thread; gloo over loopback. {result['environment']['cores']} cores, load average before the "
        f"start {setup['load_average_before']}: **the machine is shared, and wall time has other people's work in "
        "it**; where the load is above the cores left over, two processes cannot be twice as fast as one. The CPU "
        "time says what the ranks add to the work.",
        "",
        "## Measured",
        "",
        f"| | one process, s | {n} ranks, s | speed-up (wall) | CPU time of all ranks, of one process's |",
        "|---|---|---|---|---|",
    ]
    for name, work in works.items():
        wall, cpu = quartiles(ratios(work, "wall")), quartiles(ratios(work, "cpu"))
        lines.append(
            f"| {name} | {median_wall(work['one']):.3f} | {median_wall(work['several']):.3f} "
            f"| {wall[1]:.2f} ({wall[0]:.2f} to {wall[2]:.2f}) | {cpu[1]:.2f} ({cpu[0]:.2f} to {cpu[2]:.2f}) |"
        )
    lines += [
        "",
        f"The hypergradient of the {n} ranks differs from that of one process by "
        f"{works['hypergradient']['difference']:.1e} (relative, float32).",
        "",
        "| counted in one call | reductions | elements | by the formula | gathers of counts and hashes |",
        "|---|---|---|---|---|",
    ]
    wanted = formula(p, h, setup["num_hvps"])
    for name, work in works.items():
        t = work["traffic"]
        text = "P" if name == "inner step" else f"(K + 2) P + 2 H, K = {setup['num_hvps']}"
        lines.append(f"| {name} | {t['reductions']} | {t['elements']:,} | {wanted[name]:,}: {text} | {t['gathers']} |")
    lines += [
        "",
        "## Modelled, not measured",
        "",
        "Speed-up with the same whole batch, if one process's time divides evenly and each reduction is a ring: "
        "`T(n) = T(1) / n + (2 (n - 1) reductions + (n - 1) gathers) latency + 2 (n - 1) / n bytes / bandwidth`. "
        "Latency and bandwidth are assumptions. T(1) is that of one thread of this machine: on a GPU it is far "
        "smaller, and the reductions weigh more.",
        "",
        "| | network | " + " | ".join(f"n = {r}" for r in RANKS) + " |",
        "|---|---|" + "---|" * len(RANKS),
    ]
    for name, work in works.items():
        for network, values in speedups(median_wall(work["one"]), work["traffic"]).items():
            lines.append(f"| {name} | {network} | " + " | ".join(f"{v:.1f}" for v in values) + " |")
    return "\n".join([*lines, "", f"`{result['command']}`, commit {result['commit']}.", ""])


def plot(result: dict[str, Any], path: Path) -> None:
    """Speed-up over ranks: points are measured, lines modelled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    axes.plot(RANKS, RANKS, color="#999999", linewidth=1, linestyle=":", label="n")
    for name, work in result["works"].items():
        modelled = speedups(median_wall(work["one"]), work["traffic"])
        for (network, values), style in zip(modelled.items(), ("--", "-"), strict=True):
            axes.plot(RANKS, values, style, color=COLOURS[name], linewidth=1.5, label=f"{name}: model, {network}")
        low, middle, high = quartiles(ratios(work, "wall"))
        place = result["setup"]["ranks"] * (0.97 if name == "inner step" else 1.03)  # beside each other
        axes.errorbar(
            place, middle, yerr=[[middle - low], [high - middle]], fmt="o", color=COLOURS[name], capsize=3,
            label=f"{name}: measured, loopback",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(RANKS, labels=[str(r) for r in RANKS])
    axes.set_yticks(RANKS, labels=[str(r) for r in RANKS])
    axes.minorticks_off()
    axes.set_xlabel("ranks")
    axes.set_ylabel("speed-up against one process")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
