"""The tables of ``hvp.py``, from its JSON alone."""

import statistics
from typing import Any

from _hvp_ways import BY_HAND, FLOOR

TITLES = {
    "group": "WideResNet-16-1, GroupNorm",
    "batch": "WideResNet-16-1, BatchNorm",
    "softmax": "softmax regression, 784 to 10",
}


def ratio(problem: dict[str, Any], way: str, other: str) -> float:
    """Median of the ratios of times within rounds."""
    rows = problem["ways"]
    return statistics.median(a / b for a, b in zip(rows[way]["seconds"], rows[other]["seconds"], strict=True))


def render(result: dict[str, Any]) -> str:
    """The Markdown page."""
    env, setup = result["environment"], result["setup"]
    clock = "time between synchronisations" if setup["device"] != "cpu" else "CPU time"
    return "\n\n".join(
        [
            "# What one hypergradient costs",
            "Neumann with a fixed number of products, alpha = 1e-3, a weight decay for each parameter tensor. Unit of "
            "time, FLOPs and memory: one forward and backward pass of the training loss. Time: median and quartiles of "
            f"{setup['rounds']} interleaved rounds, {clock}, ratios within a round. Memory: peak bytes of tensors. "
            "Error: of the hypergradient, against the kept graph in float64. Rows from **hypergrad** on are "
            "`hypergrad.Implicit` with these options; for 1/4 the error is that of one draw of the sub-batch.",
            *(_problem(p) for p in result["problems"]),
            f"{env['cpu']}, {setup['threads']} of {env['cores']} threads, torch {env['torch']}, Python "
            f"{env['python']}, commit {result['commit']}. Made by `{result['command']}`.\n",
        ]
    )


def _problem(problem: dict[str, Any]) -> str:
    rows, unit = problem["ways"], problem["ways"][FLOOR]
    lines = [
        f"## {TITLES[problem['problem']]}",
        "",
        f"Batch {problem['batch']}, {problem['num_hvps']} products, {problem['parameters']:,} parameters; a floor is "
        f"{1e3 * statistics.median(unit['seconds']):.3g} ms, {unit['flops'] / 1e9:.3g} GFLOP and "
        f"{unit['peak_bytes'] / 1e6:.3g} MB. A training step (SGD with momentum) peaks at "
        f"{problem['training_step_bytes'] / unit['peak_bytes']:.2f} floors.",
        "",
        "| | time | over by hand | FLOPs | memory | relative error | 1 - cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        if way == FLOOR:
            continue
        name = f"**{way}**" if way == "hypergrad" else way
        lines.append(
            f"| {name} | {row['time']['median']:.2f} ({row['time']['q1']:.2f} to {row['time']['q3']:.2f}) "
            f"| {ratio(problem, way, BY_HAND):.2f} | {row['flops'] / unit['flops']:.2f} "
            f"| {row['peak_bytes'] / unit['peak_bytes']:.2f} | {row['relative_error']:.1e} "
            f"| {max(0.0, 1 - row['cosine']):.0e} |"
        )
    lines += [f"| {way} | refused | | | | | |" for way in problem["refused"]]
    if problem["refused"]:
        lines += ["", f"Refused: {next(iter(problem['refused'].values()))}"]
    return "\n".join(lines)
