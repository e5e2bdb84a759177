"""Markdown and figure of the comparison of selection gradients, from its JSON alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Results = dict[str, Any]
Found = dict[str, Any]
#: What a reader's own batch may be.
SHOWN = (16, 128, 1024)
TYPICAL = 64
#: Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def _number(value: float | None, pattern: str = ".2f") -> str:
    return "–" if value is None else format(value, pattern)


def _biased(cell: Found) -> str:
    return f"{cell['bias']:.3f} ± {cell['bias_error']:.3f}"


def _temperatures(problem: Found) -> list[tuple[str, Found]]:
    return list(problem["relaxed"].items())


def _at(batch: int, results: Results) -> str:
    """The batch size itself, or the nearest below it that was measured."""
    return str(max(b for b in results["setup"]["batches"] if b <= batch))


def _signal(cell: Found, batch: int = 1) -> float | None:
    return None if cell["signal"] is None else cell["signal"] * math.sqrt(batch)


def closer_from(problem: Found, temperature: str) -> int | None:
    """The smallest batch size from which on the unbiased estimator has the smaller root-mean-square error."""
    answer = None
    for batch, cell in reversed(problem["unbiased"].items()):
        if cell["rmse"] > problem["relaxed"][temperature]["rmse_by_batch"][batch]:
            break
        answer = int(batch)
    return answer


def bias_outweighs_from(cell: Found) -> int | None:
    """The batch size from which on the squared bias exceeds the variance; None where no bias is seen."""
    squared = cell["bias"] ** 2 - cell["bias_error"] ** 2
    return None if squared <= 3 * cell["bias_error"] ** 2 else math.floor(cell["variance"] / squared) + 1


def tables(results: Results) -> list[str]:
    """Bias, cosine, error and signal."""
    found: list[Found] = results["problems"]
    typical = _at(TYPICAL, results)
    heads = [f"tau = {t}" for t, _ in _temperatures(found[0])]
    bias, cosine, error, signal = [], [], [], []
    for p in found:
        relaxed = _temperatures(p)
        name = p["name"] + ("" if p["truth_norm"] else " (absolute)")
        bias.append(
            [name, f"{p['truth_norm']:.3g}", _biased(p["unbiased"][typical]), *(_biased(c) for _, c in relaxed)]
        )
        if p["truth_norm"]:
            cosine.append([name, *(_number(c["cosine"]) for c in (p["unbiased"][typical], *dict(relaxed).values()))])
            plain, grouped = (_number(_signal(p[way][typical])) for way in ("unbiased", "grouped"))
            signal.append([name, plain, grouped, *(_number(_signal(c, int(typical))) for _, c in relaxed)])
        for batch in dict.fromkeys(_at(b, results) for b in SHOWN):
            error.append(
                [
                    name,
                    batch,
                    _number(p["unbiased"][batch]["rmse"]),
                    _number(p["grouped"][batch]["rmse"]),
                    *(_number(c["rmse_by_batch"][batch]) for _, c in relaxed),
                ]
            )
        first = (str(closer_from(p, t) or "never") for t, _ in relaxed)
        error.append([name, "from here on unbiased is closer", "", "", *first])
        outweighs = (_number(bias_outweighs_from(c), ".0f") for _, c in relaxed)
        error.append([name, "from here on the bias outweighs the noise", "", "", *outweighs])
    group = f"unbiased, groups of {results['setup']['group']}"
    return [
        "**Bias**: distance between the mean estimate and the truth, relative to the truth's length (absolute where "
        f"the truth is zero), ± what an estimator without bias would show. Unbiased: batches of {typical}.",
        "",
        *_lines(["loss", "truth's length", "unbiased", *(f"eq. (9), {h}" for h in heads)], bias),
        "",
        "**Cosine** of the mean estimate and the truth: which way many updates lead.",
        "",
        *_lines(["loss", "unbiased", *(f"eq. (9), {h}" for h in heads)], cosine),
        "",
        f"**Signal to noise** of one batch of {typical}: the mean estimate's component along the truth over the root "
        "of the trace of one estimate's covariance. Scaling an estimator leaves it as it is, as RMSprop and Adam do.",
        "",
        *_lines(["loss", "unbiased", group, *(f"eq. (9), {h}" for h in heads)], signal),
        "",
        "**Root-mean-square error** of one batch's estimate, relative to the truth's length. The estimate 0 has the "
        "error 1, so a small error can also come from an estimate that is too short.",
        "",
        *_lines(["loss", "B", "unbiased", group, *(f"eq. (9), {h}" for h in heads)], error),
    ]


def _span(values: Sequence[float], pattern: str) -> str:
    low, high = format(min(values), pattern), format(max(values), pattern)
    return low if low == high else f"{low} to {high}"


def verdict(results: Results) -> list[str]:
    """What the numbers say, in sentences that are computed from them."""
    found: list[Found] = results["problems"]
    typical = _at(TYPICAL, results)
    known = [p for p in found if p["truth_norm"]]
    images = [p for p in known if len(p["truth"]) > 1]
    worst = max(
        (c["bias"] / c["bias_error"], p["name"], b)
        for p in known
        for b, c in p["unbiased"].items()
        if c["bias_error"] > 0
    )
    told = [
        f"The unbiased estimator shows no bias beyond its error: the largest ratio of the two over all losses and "
        f"batch sizes is {worst[0]:.1f} ({worst[1]}, B = {worst[2]})."
        if worst[0] < 3.5
        else f"The unbiased estimator is {worst[0]:.1f} errors off in {worst[1]}, B = {worst[2]}: LOOK INTO IT."
    ]
    for p in known:
        cells = dict(_temperatures(p)).values()
        cosines = [c["cosine"] for c in cells if c["cosine"] is not None]
        direction = f"cosine {_span(cosines, '.2f')}" if cosines else "it is always zero"
        told.append(
            f"Eq. (9), {p['name']}: off by {_span([100 * c['bias'] for c in cells], '.0f')} % of the truth's length "
            f"over the temperatures; {direction}."
        )
    for p in found:
        if not p["truth_norm"]:
            lengths = [c["bias"] for _, c in _temperatures(p)]
            told.append(f"Eq. (9), {p['name']}: the truth is 0, its mean has the length {_span(lengths, '.2f')}.")
    low, high = (min(results["setup"]["temperatures"]), max(results["setup"]["temperatures"]))
    growth = [p["relaxed"][str(low)]["variance"] / p["relaxed"][str(high)]["variance"] for p in images]
    told.append(
        f"A small temperature does not remove eq. (9)'s bias, and it costs variance: {_span(growth, '.0f')} times as "
        f"much at {low:g} as at {high:g} (digits)."
    )
    better = []
    for p in images:
        mine = _signal(p["unbiased"][typical]) or 0.0
        theirs = max(_signal(c, int(typical)) or 0.0 for _, c in _temperatures(p))
        better.append(f"{mine:.2f} against {theirs:.2f} ({p['name']})")
    told.append(
        f"Signal to noise of one batch of {typical}, unbiased against eq. (9) at its best temperature: "
        f"{'; '.join(better)}."
    )
    for p in images:
        at = {t: closer_from(p, t) for t, _ in _temperatures(p)}
        parts = ", ".join(f"{b or 'none measured'} (tau = {t})" for t, b in at.items())
        beaten = [
            error
            for _, c in _temperatures(p)
            for b, error in c["rmse_by_batch"].items()
            if error < p["unbiased"][b]["rmse"]
        ]
        rest = (
            f" Below, eq. (9)'s error is {min(beaten):.2f} or more, and that of the estimate 0 is 1." if beaten else ""
        )
        told.append(
            f"By root-mean-square error the unbiased estimator is the closer one from this batch size: {parts} "
            f"({p['name']}).{rest}"
        )
    group = results["setup"]["group"]
    costs = [p["grouped"][typical]["variance"] / p["unbiased"][typical]["variance"] for p in images]
    told.append(
        f"One pick for {group} images in place of one each multiplies the unbiased estimator's variance by "
        f"{_span(costs, '.1f')} at B = {typical} (digits)."
    )
    return told


def markdown(results: Results) -> str:
    """The page."""
    setup, env = results["setup"], results["environment"]
    return "\n".join(
        [
            "# Two gradients of the selection probabilities, against the enumerated truth"
            + (" (smoke run)" if setup["smoke"] else ""),
            "",
            f"{setup['samples']:,} draws for each loss and estimator; the batches of one size share no draw. The first "
            "four losses are functions of a number y that the picked one of two operations puts out. The others are of "
            f"{setup['images']} digits after {setup['stages']} stages of {', '.join(setup['operations'])} (always "
            f"applied, at magnitude {setup['magnitude']}, signs drawn): the cross-entropy of a network of 32 tanh "
            "units with random weights, or trained; and the cross derivative, minus the product of an image's loss "
            "gradient with the validation gradient, from which an outer step gets its hypergradient (first-order "
            "solver). A batch is drawn from the images with replacement, so its variance holds that of the images as "
            "well. Eq. (9) sends its gradient through a factor in front of the picked image, as if more of an "
            "operation were more of its brightness.",
            "",
            *(f"- {line}" for line in verdict(results)),
            "",
            *tables(results),
            "",
            f"float64, seed {setup['seed']}, {results['cpu_seconds']:.0f} CPU seconds, {env['cpu']}, 1 of "
            f"{env['cores']} threads, torch {env['torch']}, Python {env['python']}, commit {results['commit']}. "
            f"Made by `{results['command']}`.",
            "",
        ]
    )


def plot(results: Results, path: Path) -> None:
    """Error against batch size for three losses, and bias against temperature for all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found: list[Found] = results["problems"]
    batches = results["setup"]["batches"]
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9))
    chosen = [found[0], next(p for p in found if "trained" in p["name"]), found[-1]]
    for axis, problem in zip(axes.flat, chosen, strict=False):
        axis.plot(batches, [problem["unbiased"][str(b)]["rmse"] for b in batches], "o-", color=COLOURS[0], linewidth=2,
                  label="unbiased")  # fmt: skip
        sizes = [int(b) for b in problem["grouped"]]
        axis.plot(sizes, [c["rmse"] for c in problem["grouped"].values()], "s:", color=COLOURS[0], markerfacecolor="w",
                  label=f"unbiased, groups of {results['setup']['group']}")  # fmt: skip
        for i, (temperature, cell) in enumerate(_temperatures(problem)):
            axis.plot(batches, [cell["rmse_by_batch"][str(b)] for b in batches], "--", marker="^v<>D"[i % 5],
                      markersize=4, color=(*COLOURS[1:4], *COLOURS[5:])[i % 6],
                      label=f"eq. (9), tau = {temperature}")  # fmt: skip
        axis.axhline(1, color="grey", linewidth=1)
        axis.text(batches[0], 1.04, "the estimate 0", color="grey", fontsize=8)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("batch size")
        axis.set_ylabel("root-mean-square error / length of the truth")
        axis.set_title(problem["name"])
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    axis = axes[1][1]
    for i, problem in enumerate(found):
        temperatures, cells = zip(*((float(t), c) for t, c in _temperatures(problem)), strict=True)
        zero = "" if problem["truth_norm"] else ", truth 0: absolute"
        axis.errorbar(temperatures, [c["bias"] for c in cells], yerr=[c["bias_error"] for c in cells],
                      color=COLOURS[i % 8], marker="osD^v<>P"[i % 8], markersize=5, capsize=2,
                      linestyle="--" if zero else "-", label=problem["name"] + zero)  # fmt: skip
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("temperature of eq. (9)")
    axis.set_ylabel("bias of eq. (9) / length of the truth")
    axis.set_title("bias (0 for the unbiased estimator)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    if results["setup"]["smoke"]:
        figure.suptitle("smoke run")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
