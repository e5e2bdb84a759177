"""What the cost benchmark shows, as Markdown, from its JSON alone."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from _cost_outer import OUTER_PARTS
from _cost_training import OUTER, PARTS
from hvp import summary

Results = dict[str, Any]
#: The paper's interval, and the ratio of times that is asked for there.
PAPER_EVERY, BAR = 60, 1.35
#: The ratio that is asked for of the cheapest of OPTIONS.
CHEAPER_BAR = 1.20
#: Settings of MADAO that make products with the curvature cheaper, by the name of their row.
OPTIONS: dict[str, dict[str, Any]] = {
    "gauss-newton": {"curvature": "gauss-newton"},
    "quarter": {"curvature_share": 0.25},
    "gauss-newton, quarter": {"curvature": "gauss-newton", "curvature_share": 0.25},
    "bfloat16": {"curvature_precision": "bfloat16"},
    "finite-difference": {"curvature": "finite-difference"},
    "low memory": {"memory": "low"},
}
#: The paper's section 5.4; its ratio is to a training with RandAugment.
PAPER = {"time": "1.9 (1.9 h against 1 h)", "memory": "1.94 (3.38 GB against 1.74 GB)"}
#: Computed beside the measured interval.
INTERVALS = (15, 30, 60, 120, 240)


def label_of(solver: str, option: str | None = None) -> str:
    """The row of MADAO with a solver, and with one of ``OPTIONS``."""
    return f"madao, {solver}" if option is None else f"madao, {solver}, {option}"


def cheaper_rows(results: Results) -> dict[str, str]:
    """The measured ones of ``OPTIONS``, and their rows."""
    labels = {option: label_of(results["setup"]["solver"], option) for option in OPTIONS}
    return {option: label for option, label in labels.items() if label in results["rows"]}


def ratios(results: Results, top: str, bottom: str) -> list[float]:
    """Of the seconds, round by round."""
    rows = results["rows"]
    return [a / b for a, b in zip(rows[top]["seconds"], rows[bottom]["seconds"], strict=True)]


def outer_in_steps(results: Results, label: str) -> list[float]:
    """One outer step in steps of the fixed policy's training, round by round."""
    rows, every = results["rows"], results["setup"]["every"]
    fixed = rows["fixed"]["seconds"]
    return [o / (f / every) for o, f in zip(rows[label]["parts"][OUTER], fixed, strict=True)]


def memory_ratio(results: Results, label: str) -> float:
    """Peak of the row's training over that of the fixed policy's, with what lives all the time in both."""
    rows = results["rows"]
    return (rows[label]["peak_bytes"] + rows[label]["held_bytes"]) / (
        rows["fixed"]["peak_bytes"] + rows["fixed"]["held_bytes"]
    )


def shown(values: Sequence[float]) -> str:
    """Median and quartiles."""
    found = summary(values)
    return f"{found['median']:.2f} ({found['q1']:.2f} to {found['q3']:.2f})"


def judged(results: Results) -> bool:
    """Whether the bar speaks about this setting."""
    setup = results["setup"]
    return setup["every"] == PAPER_EVERY and setup["solver"] == "neumann" and not setup["smoke"]


def findings(results: Results) -> list[str]:
    """Sentences computed from the numbers."""
    setup, rows = results["setup"], results["rows"]
    every, label = setup["every"], label_of(setup["solver"])
    time = statistics.median(ratios(results, label, "fixed"))
    outer = statistics.median(outer_in_steps(results, label))
    told = [f"With an outer step every {every} steps, MADAO's training takes {time:.2f} times the fixed policy's."]
    if judged(results):
        told[0] += f" At most {BAR} was wanted: {'met' if time <= BAR else 'NOT met'}."
    share = statistics.median(o / s for o, s in zip(rows[label]["parts"][OUTER], rows[label]["seconds"], strict=True))
    told.append(
        f"One outer step costs as much as {outer:.1f} steps of the fixed policy's training; it is {100 * share:.0f} % "
        "of MADAO's time. The inner steps are the same code for both."
    )
    plain = label_of("first_order")
    if plain in rows and label != plain:
        without = statistics.median(outer_in_steps(results, plain))
        products = setup["solver_options"].get("num_hvps", setup["solver_options"].get("max_steps"))
        told.append(
            f"Of these {outer:.1f}, {outer - without:.1f} are the {products} products with the inner Hessian, "
            f"{(outer - without) / products:.1f} each; the first-order method, which needs none, takes {without:.1f}: "
            "the validation gradient, the training gradient with its graph through the soft policy, and the mixed "
            "derivative."
        )
    told += _cheaper(results)
    others = ", ".join(f"{1 + outer / s:.2f} at s = {s}" for s in INTERVALS if s != every)
    told.append(
        f"Computed from that, not measured: {others}; {BAR} is reached at s = {math.ceil(outer / (BAR - 1))}. A share "
        f"w of warm-up without outer steps takes w of the excess away (the paper's 10 %: {1 + 0.9 * (time - 1):.2f})."
    )
    told.append(
        f"Peak memory is {memory_ratio(results, label):.2f} times the fixed policy's: that of an outer step, which "
        "keeps the graph of the training gradient for the second derivatives. Between outer steps it is the fixed "
        "policy's."
    )
    return told


def _cheaper(results: Results) -> list[str]:
    """What the options do to the training's time, the cheapest first, and what is left without any product."""
    found = {option: statistics.median(ratios(results, row, "fixed")) for option, row in cheaper_rows(results).items()}
    if not found:
        return []
    ranked = sorted(found, key=found.__getitem__)
    told = "Times the fixed policy's with cheaper products: " + ", ".join(f"{n} {found[n]:.2f}" for n in ranked) + "."
    if judged(results):
        met = [n for n in ranked if found[n] <= CHEAPER_BAR]
        told += f" At most {CHEAPER_BAR:.2f} was wanted: {'met by ' + '; '.join(met) if met else 'NOT met by any'}."
    plain = label_of("first_order")
    if plain in results["rows"]:
        every = results["setup"]["every"]
        steps = {n: statistics.median(outer_in_steps(results, row)) for n, row in cheaper_rows(results).items()}
        least = statistics.median(outer_in_steps(results, plain))
        told += (
            " An outer step takes as long as so many steps of the fixed policy's training: "
            + ", ".join(f"{n} {steps[n]:.1f}" for n in ranked)
            + f"; without any product (first_order) {least:.1f}, which alone makes {1 + least / every:.2f}."
        )
    return [told]


def _outer_table(results: Results) -> list[str]:
    """The parts of an outer step in steps of the fixed policy's training."""
    rows, every = results["rows"], results["setup"]["every"]
    fixed = [s / every for s in rows["fixed"]["seconds"]]
    body = []
    for name, row in rows.items():
        if not row["outer_steps"] or not any(map(any, row["outer_parts"].values())):
            continue
        whole = row["parts"][OUTER]
        parts = [row["outer_parts"][part] for part in OUTER_PARTS]
        rest = [w - math.fsum(p) for w, p in zip(whole, zip(*parts, strict=True), strict=True)]
        shares = [statistics.median(a / b for a, b in zip(p, fixed, strict=True)) for p in (whole, *parts, rest)]
        body.append([f"`{name}`", *(f"{share:.1f}" for share in shares)])
    if not body:
        return []
    return [
        "One outer step and its parts, in steps of the fixed policy's training (medians of the rounds). With a "
        "sub-batch, its graph is made within the products, and the whole batch's within the mixed derivative:",
        "",
        *_lines(["training", OUTER, *OUTER_PARTS, "rest"], body),
        "",
    ]


def markdown(results: Results) -> str:
    """The page."""
    setup, env, rows = results["setup"], results["environment"], results["rows"]
    every = setup["every"]
    label = label_of(setup["solver"])
    times = []
    for name, row in rows.items():
        peak = (row["peak_bytes"] + row["held_bytes"]) / 2**20
        ms = 1e3 * row["step_seconds"]["median"]
        times.append(
            [f"`{name}`", f"{ms:.1f}"]
            + [
                "1" if name == base else shown(ratios(results, name, base))
                for base in ("fixed", "randaugment", "standard")
            ]
            + [f"{peak:.1f}", f"{memory_ratio(results, name):.2f}"]
        )
    split = [
        [f"`{name}`"]
        + [
            f"{1e3 * statistics.median(row['parts'][part]) / every:.2f} "
            f"({100 * statistics.median(p / s for p, s in zip(row['parts'][part], row['seconds'], strict=True)):.0f} %)"
            for part in PARTS
        ]
        for name, row in rows.items()
    ]
    options = ", ".join(f"{k} = {v}" for k, v in setup["solver_options"].items())
    norm = "" if setup["norm"] is None else f" ({setup['norm']} norm)"
    cuda = setup["device"] == "cuda"
    memory = "the allocator's peak" if cuda else "bytes of tensors alive at once, not the allocator's peak"
    where = env.get("gpu") or f"{env['cpu']}, {setup['threads']} of {env['cores']} threads"
    smoke = ["A smoke run: it shows that the code works; the numbers mean nothing.", ""] if setup["smoke"] else []
    return "\n".join(
        [
            f"# Cost of MADAO: {setup['model']}{norm} on {setup['data']}",
            "",
            *smoke,
            f"{setup['parameters']:,} parameters, batch {setup['batch_size']}x{setup['channels']}x{setup['side']}x"
            f"{setup['side']}, {setup['precision']}{', channels_last' if setup['channels_last'] else ''}; an outer "
            f"step every {every} steps ({setup['solver']}{': ' + options if options else ''}, selection "
            f"{setup['selection']}). {setup['rounds']} interleaved rounds of {every} steps a row; each holds one outer "
            "step for MADAO. Median and quartiles of the ratios by round.",
            "",
            *_lines(
                ["training", "ms a step", "time / fixed", "time / randaugment", "time / standard", "peak MiB",
                 "memory / fixed"],
                times,
            ),
            "",
            f"The paper (section 5.4, its own network and GPU, against RandAugment): time {PAPER['time']}, memory "
            f"{PAPER['memory']}. Measured here against RandAugment: time "
            f"{statistics.median(ratios(results, label, 'randaugment')):.2f}.",
            "",
            "Where the time goes, ms a step and share (the outer step's time is spread over the steps):",
            "",
            *_lines(["training", *PARTS], split),
            "",
            *_outer_table(results),
            *(f"- {line}" for line in findings(results)),
            *(f"- No row `{row}`: {reason}" for row, reason in results["refused"].items()),
            "",
            f"Time: {setup['clock']}; evaluation, which all have, is left out. Memory: weights, momentum and the peak "
            f"of a step, for MADAO with its outer step ({memory}). `fixed` is MADAO's policy as it starts, `standard` "
            "crop and flip alone, which all rows have.",
            "",
            f"{where}, torch {env['torch']}, Python {env['python']}, seed {setup['seed']}, commit {results['commit']}. "
            f"Made by `{results['command']}`.",
            "",
        ]
    )  # fmt: skip


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
