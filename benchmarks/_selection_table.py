"""Markdown of the comparison of selection gradients, from its JSON alone."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Results = dict[str, Any]
Found = dict[str, Any]
#: Batch sizes of the tables; the nearest below that was measured stands in for one that was not.
SHOWN = (16, 128, 1024)
TYPICAL = 64


def by_name(results: Results) -> dict[str, list[Found]]:
    """The problems with what was found for each seed, in the order of the run."""
    groups: dict[str, list[Found]] = {}
    for found in results["problems"]:
        groups.setdefault(found["name"], []).append(found)
    return groups


def nearest(batch: int, results: Results) -> str:
    """The batch size itself, or the nearest below it that was measured."""
    return str(max(b for b in results["setup"]["batches"] if b <= batch))


def temperatures(results: Results) -> list[str]:
    """As the JSON writes them."""
    return [str(t) for t in results["setup"]["temperatures"]]


def median(values: Iterable[float | None]) -> float | None:
    """The median, or None where a value is missing."""
    held = [v for v in values if v is not None]
    return statistics.median(held) if held else None


def signal(cell: Found, batch: int = 1) -> float | None:
    """Signal to noise of the mean of ``batch`` such estimates."""
    return None if cell["signal"] is None else cell["signal"] * math.sqrt(batch)


def unbiased_rmse(group: Sequence[Found], batch: str, way: str = "unbiased") -> float | None:
    """The median over seeds; None for a batch of a single group."""
    return median(p[way][batch]["rmse"] if batch in p[way] else None for p in group)


def relaxed_rmse(group: Sequence[Found], batch: str, temperature: str) -> float:
    """The median over seeds."""
    return statistics.median(p["relaxed"][temperature]["rmse_by_batch"][batch] for p in group)


def closer_from(group: Sequence[Found], temperature: str) -> int | None:
    """The smallest batch size from which on the unbiased estimator has the smaller root-mean-square error (medians)."""
    answer = None
    for batch in reversed(group[0]["unbiased"]):
        if unbiased_rmse(group, batch) > relaxed_rmse(group, batch, temperature):
            break
        answer = int(batch)
    return answer


def bias_outweighs_from(cell: Found) -> int | None:
    """The batch size from which on the squared bias exceeds the variance; None where no bias is seen."""
    squared = cell["bias"] ** 2 - cell["bias_error"] ** 2
    return None if squared <= 3 * cell["bias_error"] ** 2 else math.floor(cell["variance"] / squared) + 1


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def _number(value: float | None, pattern: str = ".2f") -> str:
    return "–" if value is None else format(value, pattern)


def _spread(values: Iterable[float | None], pattern: str = ".2f") -> str:
    """Median and range over the seeds."""
    held = [v for v in values if v is not None]
    if not held:
        return "–"
    middle = format(statistics.median(held), pattern)
    return middle if len(held) == 1 else f"{middle} ({min(held):{pattern}} to {max(held):{pattern}})"


def _bias(cells: Sequence[Found]) -> str:
    if len(cells) == 1:
        return f"{cells[0]['bias']:.3f} ± {cells[0]['bias_error']:.3f}"
    return _spread((c["bias"] for c in cells), ".2f")


def tables(results: Results) -> list[str]:
    """Bias, cosine, signal and error."""
    typical, taus = nearest(TYPICAL, results), temperatures(results)
    bias, cosine, noise, error = [], [], [], []
    for name, group in by_name(results).items():
        at = {t: [p["relaxed"][t] for p in group] for t in taus}
        plain = [p["unbiased"][typical] for p in group]
        known = group[0]["truth_norm"] > 0
        length = _spread((p["truth_norm"] for p in group), ".2g")
        bias.append([name + ("" if known else " (absolute)"), length, _bias(plain), *(_bias(c) for c in at.values())])
        if known:
            cosine.append([name, *(_spread(c["cosine"] for c in cells) for cells in (plain, *at.values()))])
            grouped = [p["grouped"][typical] for p in group]
            mine = [_spread(map(signal, cells)) for cells in (plain, grouped)]
            noise.append([name, *mine, *(_spread(signal(c, int(typical)) for c in cells) for cells in at.values())])
        for batch in dict.fromkeys(nearest(b, results) for b in SHOWN):
            mine = [_number(unbiased_rmse(group, batch, way)) for way in ("unbiased", "grouped")]
            error.append([name, batch, *mine, *(_number(relaxed_rmse(group, batch, t)) for t in taus)])
        error.append([name, "unbiased closer from", "", "", *(str(closer_from(group, t) or "never") for t in taus)])
        outweighs = (_number(median(map(bias_outweighs_from, at[t])), ".0f") for t in taus)
        error.append([name, "bias outweighs noise from", "", "", *outweighs])
    eq9 = [f"eq. (9), tau = {t}" for t in taus]
    group_name = f"unbiased, groups of {results['setup']['group']}"
    return [
        "Digits: median and range over the seeds; in the last table the median.",
        "",
        "**Bias**: distance between the mean estimate and the truth, relative to the truth's length (absolute where "
        "the truth is zero), ± what an estimator without bias would show with these draws. Unbiased: batches of "
        f"{typical}.",
        "",
        *_lines(["loss", "truth's length", "unbiased", *eq9], bias),
        "",
        "**Cosine** of the mean estimate and the truth: which way many updates lead.",
        "",
        *_lines(["loss", "unbiased", *eq9], cosine),
        "",
        f"**Signal to noise** of one batch of {typical}: the mean estimate's component along the truth over the root "
        "of the trace of one estimate's covariance. Scaling an estimator leaves it as it is, as RMSprop and Adam do.",
        "",
        *_lines(["loss", "unbiased", group_name, *eq9], noise),
        "",
        "**Root-mean-square error** of one batch's estimate, relative to the truth's length (absolute where that is "
        "zero). The estimate 0 has the error 1, so a small error can also come from an estimate that is too short.",
        "",
        *_lines(["loss", "batch size", "unbiased", group_name, *eq9], error),
    ]


def _span(values: Iterable[float], pattern: str) -> str:
    held = list(values)
    low, high = format(min(held), pattern), format(max(held), pattern)
    return low if low == high else f"{low} to {high}"


def _told_of_signal(name: str, group: Sequence[Found], taus: Sequence[str], typical: str) -> str:
    mine = [p["unbiased"][typical]["signal"] for p in group]
    best = [max(signal(p["relaxed"][t], int(typical)) for t in taus) for p in group]
    wins = sum(a > b for a, b in zip(mine, best, strict=True))
    return (
        f"Signal to noise of one batch of {typical}, {name}: unbiased {_spread(mine)}, eq. (9) at the best temperature "
        f"of each seed {_spread(best)}; the unbiased one is larger in {wins} of {len(group)} seeds."
    )


def verdict(results: Results) -> list[str]:
    """What the numbers say, in sentences that are computed from them."""
    typical, taus = nearest(TYPICAL, results), temperatures(results)
    groups = by_name(results)
    known = {name: group for name, group in groups.items() if group[0]["truth_norm"] > 0}
    digits = {name: group for name, group in known.items() if len(group[0]["truth"]) > 1}
    cells = [(c, p["name"]) for group in known.values() for p in group for c in p["unbiased"].values()]
    worst, where = max((c["bias"] / c["bias_error"], name) for c, name in cells)
    told = [
        f"Unbiased: over all losses, seeds and batch sizes the distance from the truth is at most {worst:.1f} times "
        f"what an estimator without bias would show ({where}){'' if worst < 4 else ': LOOK INTO IT'}."
    ]
    for name, group in known.items():
        held = [p["relaxed"][t] for p in group for t in taus]
        cosines = [c["cosine"] for c in held if c["cosine"] is not None]
        direction = f"cosine {_span(cosines, '.2f')}" if cosines else "it is always zero"
        off = _span((100 * c["bias"] for c in held), ".0f")
        told.append(f"Eq. (9), {name}: off by {off} % of the truth's length; {direction}.")
    for name, group in groups.items():
        if name not in known:
            lengths = (p["relaxed"][t]["bias"] for p in group for t in taus)
            told.append(f"Eq. (9), {name}: the truth is 0, the mean estimate has the length {_span(lengths, '.2f')}.")
    growth = [
        p["relaxed"][taus[0]]["variance"] / p["relaxed"][taus[-1]]["variance"] for g in digits.values() for p in g
    ]
    told.append(
        "A smaller temperature does not remove eq. (9)'s bias, and it costs variance: "
        f"{_span(growth, '.0f')} times as much at {taus[0]} as at {taus[-1]} (digits)."
    )
    told += [_told_of_signal(name, group, taus, typical) for name, group in digits.items()]
    for name, group in digits.items():
        pairs = [(relaxed_rmse(group, b, t), unbiased_rmse(group, b)) for t in taus for b in group[0]["unbiased"]]
        beaten = [theirs for theirs, mine in pairs if mine is not None and theirs < mine]
        rest = (
            f" Where eq. (9) is closer its error is {min(beaten):.2f} or more; that of the estimate 0 is 1."
            if beaten
            else ""
        )
        parts = ", ".join(f"{closer_from(group, t) or 'none measured'} (tau = {t})" for t in taus)
        told.append(
            f"By root-mean-square error ({name}) the unbiased estimator is the closer one from batch size {parts}."
            f"{rest}"
        )
    costs = [p["grouped"][typical]["variance"] / p["unbiased"][typical]["variance"] for g in digits.values() for p in g]
    told.append(
        f"One pick for {results['setup']['group']} images in place of one each multiplies the unbiased estimator's "
        f"variance by {_span(costs, '.1f')} at B = {typical} (digits)."
    )
    return told


def markdown(results: Results) -> str:
    """The page."""
    setup, env = results["setup"], results["environment"]
    smoke = " (smoke run)" if setup["smoke"] else ""
    return "\n".join(
        [
            f"# Two gradients of the selection probabilities, against the enumerated truth{smoke}",
            "",
            f"{setup['samples']:,} draws for each loss, seed and estimator; batches of one size share no draw. The "
            "first four losses are functions of a number y, which the picked one of two operations puts out. The "
            f"others are of {setup['images']} digits after {setup['stages']} stages of "
            f"{', '.join(setup['operations'])} (always applied, at magnitude {setup['magnitude']}, signs drawn), with "
            f"{setup['seeds']} seeds of network and "
            "digits: the cross-entropy of a network of 32 tanh units with random weights, or trained; and the cross "
            "derivative, minus the product of an image's loss gradient with the validation gradient, which gives an "
            "outer step with the first-order solver its hypergradient. A batch is drawn from the images with "
            "replacement, so its variance holds that of the images as well. Eq. (9) sends its gradient through a "
            "factor in front of the picked image, as if more of an operation were more of its brightness.",
            "",
            *(f"- {line}" for line in verdict(results)),
            "",
            *tables(results),
            "",
            f"float64, {results['cpu_seconds']:.0f} CPU seconds, {env['cpu']}, 1 of {env['cores']} threads, torch "
            f"{env['torch']}, Python {env['python']}, commit {results['commit']}. Made by `{results['command']}`.",
            "",
        ]
    )  # fmt: skip
