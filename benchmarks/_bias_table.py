"""What the bias benchmark shows, as Markdown, from its JSON alone."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from _bias_measure import DAMPED, LARGE, NONE, NUM_HVPS, OPTIONS, ROUNDING, SMALL, SYSTEMS

from hypergrad.report.pairing import paired

Results = dict[str, Any]
ROWS = (*OPTIONS, NONE)
#: Of the test of a bias by random signs, without a correction for how many there are.
LEVEL = 0.01


def shares(results: Results) -> list[float]:
    """The points, ascending."""
    return sorted({cell["point"] for cell in results["cells"]})


def at(results: Results, share: float, system: str, row: str) -> list[dict[str, Any]]:
    """A row's numbers at a point, seed by seed."""
    return [c["systems"][system]["rows"][row] for c in results["cells"] if c["point"] == share]


def bias(numbers: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Bias in units of a draw's noise, root of the mean square over seeds, and its bound: two standard errors more."""
    n = len(numbers)
    square = math.fsum(c["squared_bias"] for c in numbers) / n
    error = math.sqrt(math.fsum(c["squared_bias_error"] ** 2 for c in numbers)) / n
    return math.sqrt(max(square, 0.0)), math.sqrt(max(square + 2 * error, 0.0))


def seen(numbers: Sequence[dict[str, Any]]) -> bool:
    """Whether a bias is told from 0: Fisher's combination of the seeds' p-values."""
    x = -math.fsum(math.log(c["bias_p"]) for c in numbers)
    return math.exp(-x) * math.fsum(x**k / math.factorial(k) for k in range(len(numbers))) < LEVEL


def _median(numbers: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(c[name] for c in numbers)


def _error(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.1g}"


def _cosine(value: float) -> str:
    missing = 1 - value
    return f"{value:.3f}" if missing >= 5e-4 else f"1 - {max(missing, 0.0):.0e}"


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def _signal(numbers: Sequence[dict[str, Any]]) -> str:
    """Length of the expected exact hypergradient in units of a draw's noise; a dash where chance hides it."""
    n = len(numbers)
    square = math.fsum(e["squared_signal"] / e["noise"] ** 2 for e in numbers) / n
    return _error(math.sqrt(square)) if square > 0 else "–"


def _table(results: Results, system: str) -> list[str]:
    points = shares(results)

    def row(name: str) -> list[str]:
        found = [at(results, share, system, name) for share in points]
        biases = []
        for numbers in found:
            value, bound = bias(numbers)
            biases.append(_error(value) if seen(numbers) else f"< {_error(bound)}")
        return [
            name if name == NONE else f"`{name}`",
            " / ".join(_error(_median(f, "relative_error")) for f in found),
            " / ".join(_cosine(_median(f, "cosine")) for f in found),
            " / ".join(biases),
            " / ".join(_cosine(_median(f, "cosine_of_means")) for f in found),
            " / ".join(f"{_median(f, 'variance'):.2f}" for f in found),
        ]

    exact = [[c["systems"][system]["exact"] for c in results["cells"] if c["point"] == s] for s in points]
    other = [
        "exact, other batches",
        " / ".join(_error(_median(e, "relative_difference")) for e in exact),
        " / ".join(f"{_median(e, 'cosine'):.3f}" for e in exact),
        "signal: " + " / ".join(_signal(e) for e in exact),
        " / ".join(f"{_median(e, 'cosine_of_means'):.3f}" for e in exact),
        "1",
    ]
    head = ["", "relative error", "cosine", "bias / noise", "cosine of means", "variance"]
    return [f"## {system}", "", *_lines(head, [other, *(row(name) for name in ROWS)]), ""]


def findings(results: Results) -> list[str]:
    """Sentences computed from the numbers."""
    points, told = shares(results), []
    cells = results["cells"]
    high, low = ([c[name] for c in cells] for name in ("lambda_max", "lambda_min"))
    told.append(
        f"Largest curvature of a batch {min(high):.3g} to {max(high):.3g}, lowest {min(low):.2g} to {max(low):.2g}: "
        f"alpha * lambda_max is {1e-3 * min(high):.2g} to {1e-3 * max(high):.2g} at alpha = 0.001."
    )
    for system in SYSTEMS:
        parts = []
        for name in OPTIONS:
            found = [at(results, share, system, name) for share in points]
            worst = max(found, key=lambda numbers: bias(numbers)[1])
            value, bound = bias(worst)
            draws = 1 / bound**2 if bound > 0 else math.inf
            size = _error(value) if seen(worst) else f"below {_error(bound)}"
            many = "more than a million" if draws > 1e6 else f"about {draws:,.0f}" if draws >= 10 else f"{draws:.0f}"
            parts.append(f"{name} {size} ({many} draws)")
        told.append(
            f"{system}: the largest bias over the points, in units of the noise of one draw, and how many draws their "
            f"mean must have before their noise is no larger than its upper bound: " + "; ".join(parts) + "."
        )
    return told


def training(results: Results) -> list[str]:
    """The paired differences of the training check."""
    trained = results["training"]
    if trained is None:
        return []
    (first, *others), told = list(trained["errors"]), []
    for other in others:
        seeds = [s for s in trained["errors"][first] if s in trained["errors"][other]]
        body = []
        for kind in ("val_error", "test_error"):
            mine, theirs = ([trained["errors"][row][s][kind] for s in seeds] for row in (other, first))
            pair = paired(mine, theirs)
            body.append(
                [kind.partition("_")[0].replace("val", "validation"), f"{statistics.fmean(mine):.2f}",
                 f"{statistics.fmean(theirs):.2f}",
                 f"{pair.mean:+.2f}" + ("" if pair.sd is None else f" ± {pair.sd:.2f}"),
                 "–" if pair.p is None else f"{pair.p:.2g}",
                 "–" if pair.detectable is None else f"{pair.detectable:.2f}"]
            )  # fmt: skip
        head = ["error / %", f"`{other}`", f"`{first}`", "difference", "p", "could have shown"]
        told += [*_lines(head, body), ""]
    smoke = " A smoke run: the numbers mean nothing." if trained["smoke"] else ""
    return [
        "## Does the training notice?",
        "",
        f"MADAO trained by the study ({trained['data']}, {trained['epochs']} epochs, {len(trained['seeds'])} paired "
        f"seeds), with and without the option.{smoke} Last column: the smallest true difference, in points, that these "
        "seeds find in 80 % of repetitions.",
        "",
        *told,
        f"Commits {', '.join(trained['commits'])}; made by `{trained['command']}`.",
        "",
    ]


def markdown(results: Results) -> str:
    """The page."""
    plan, config, env = results["plan"], results["config"], results["environment"]
    seeds = len({cell["seed"] for cell in results["cells"]})
    points = [f"{100 * share:.0f} %" for share in shares(results)]
    smoke = ["A smoke run: it shows that the code works; the numbers mean nothing.", ""] if results["smoke"] else []
    return "\n".join(
        [
            f"# Bias of cheaper products: {results['data']}",
            "",
            *smoke,
            f"{config['model']['name']}, {config['epochs']} epochs of batches of {config['batch_size']} under a fixed "
            f"policy (MADAO's as it starts), {seeds} {'seed' if seeds == 1 else 'seeds'}. Hypergradients in the "
            f"policy's raw pi, mu and p, {NUM_HVPS} products each, {plan['draws']} draws a cell "
            f"({plan['rounding_draws']} of `{ROUNDING}`): pairs of batches with picks of their own, the same for every "
            "option. Where a cell has several numbers they are those at "
            f"{', '.join(points)} of the run; medians over seeds.",
            "",
            *(line for system in SYSTEMS for line in _table(results, system)),
            *(f"- {line}" for line in findings(results)),
            "",
            "How to read it:",
            "",
            "- Relative error and cosine: of one hypergradient, against the exact products' on the same batches with "
            "the same noise; medians over the draws.",
            "- Exact, other batches: the same two numbers between two exact hypergradients on different batches, which "
            "is the noise that an outer step has anyway; and the length of the expected exact hypergradient in units "
            "of that noise, which is what a bias must be small against when many outer steps are averaged.",
            "- Bias / noise: length of the expected difference over the noise of one exact draw (root of the trace of "
            f"its covariance). `<`: random signs make it as long with p above {LEVEL} (seeds combined by Fisher's "
            "method), so its upper bound is shown (two jackknife standard errors). n draws average the noise down to "
            "1/sqrt(n) of it; the bias stays.",
            "- Cosine of means: of the means over all draws, for the first row of the two halves' means. Variance: of "
            "a draw, in units of the exact one's: what an option adds to the noise, or (by a shorter answer) takes "
            "from it.",
            f"- {LARGE}: lambda_max is the largest over {plan['batches']} batches, so the series converges on most. "
            f"{DAMPED}: damping is twice the size of the lowest curvature, the same for all options, so that the exact "
            f"system is positive definite on most batches. {SMALL}: the paper's; six terms are nearly six times the "
            "first.",
            f"- {NONE}: the first-order method, times the factor that fits best. An option that is no nearer than this "
            "saves nothing by its products.",
            "",
            *training(results),
            f"{env['cpu']}, one thread, torch {env['torch']}, Python {env['python']}, commit "
            f"{', '.join(results['commits'])}. Made by `{results['command']}`.",
            "",
        ]
    )
