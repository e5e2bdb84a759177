"""Figures 3 to 5 from their JSON alone: the policy over training, of one seed or of the mean over seeds."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _figure_study import closing_lines, setting_line, table
from torch import Tensor

from hypergrad.augment import Policy
from hypergrad.files import write_atomically
from hypergrad.vision._plot import encode, plain_style
from hypergrad.vision._plot_policy import policy_history

Results = dict[str, Any]
NAMES = ("pi", "mu", "p")


def trajectories(results: Results) -> dict[str, Tensor]:
    """``pi``, ``mu`` and ``p``, each (S, E, K, N): seeds, epochs, stages, operations."""
    return {
        name: torch.tensor([run[name] for run in results["runs"]], dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        for name in NAMES
    }


def policy_of(results: Results, values: dict[str, Tensor]) -> Policy:
    """A policy with these constrained values, ``(K, N)`` each."""
    policy = Policy(results["stages"], results["operations"], ranges=results["ranges"])
    with torch.no_grad():
        policy.pi.copy_(values["pi"].log())  # the softmax normalises
        policy.mu.copy_(values["mu"].logit())
        policy.p.copy_(values["p"].logit())
    return policy


def mean_policies(results: Results) -> list[tuple[int, Policy]]:
    """Epoch and the policy whose pi, mu and p are the means over the seeds."""
    means = {name: value.mean(0) for name, value in trajectories(results).items()}
    return [
        (epoch, policy_of(results, {name: value[at] for name, value in means.items()}))
        for at, epoch in enumerate(results["epochs"])
    ]


def plot(results: Results, path: Path) -> None:
    """As `hypergrad train` draws a run's policy."""
    seeds = len(results["runs"])
    label = f"{results['data']}, " + (f"mean over {seeds} seeds" if seeds > 1 else f"seed {results['runs'][0]['seed']}")
    label += " (smoke run)" if results["smoke"] else ""
    with plain_style():
        figure = policy_history(path, mean_policies(results), label=label, first_update=results["first_update"])
        content = encode(figure, ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _spread(values: Tensor) -> str:  # (S,)
    shown = f"{float(values.mean()):.2f}"
    return shown if len(values) == 1 else f"{shown} ({float(values.min()):.2f} to {float(values.max()):.2f})"


def _fixed_magnitude(results: Results) -> list[bool]:
    """Of each operation, whether its magnitude changes nothing."""
    policy = Policy(1, results["operations"], ranges=results["ranges"])
    return [operation.identity == operation.strongest for operation in policy.mixture.operations]


def correlation(final: Tensor) -> float | None:  # (S, K, N)
    """Mean over stages and pairs of seeds of the correlation of the final values; None where there is none."""
    found = []
    for stage in range(final.shape[1]):
        for first, second in itertools.combinations(final[:, stage], 2):
            if float(first.std()) > 1e-9 and float(second.std()) > 1e-9:
                found.append(float(torch.corrcoef(torch.stack([first, second]))[0, 1]))
    return statistics.fmean(found) if found else None


def findings(results: Results) -> list[str]:
    """Sentences computed from the numbers."""
    names, seeds = results["operations"], len(results["runs"])
    final = {name: value[:, -1] for name, value in trajectories(results).items()}  # (S, K, N)
    updates = [run["updates"] for run in results["runs"]]
    told = [f"Updates of the policy in a run: {_range(updates)}."]
    for stage in range(results["stages"]):
        mean = final["pi"][:, stage].mean(0)
        best = int(mean.argmax())
        leads = sum(int(row.argmax()) == best for row in final["pi"][:, stage])
        told.append(
            f"Stage {stage + 1}: {names[best]} has the largest mean pi, {float(mean[best]):.2f} (uniform "
            f"{1 / len(names):.2f}); it is the largest in {leads} of {seeds} seeds."
        )
    without = torch.tensor(_fixed_magnitude(results))
    for name, start in (("mu", "magnitude"), ("p", "probability of application")):
        mean = final[name].mean(0)  # (K, N)
        moved = (mean - 0.5).abs()
        if name == "mu":
            moved = moved.masked_fill(without, -1.0)
        stage, operation = divmod(int(moved.argmax()), len(names))
        told.append(
            f"{name} ({start}, 0.5 at the start) of {names[operation]} in stage {stage + 1} has moved furthest on "
            f"average, to {float(mean[stage, operation]):.2f}."
        )
    alike = correlation(final["pi"])
    if alike is not None:
        told.append(
            f"Across operations the final pi of two seeds correlate by {alike:.2f} on average: 1 would be the same "
            "policy in every seed, 0 no likeness at all."
        )
    return told


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def markdown(results: Results, picture: str) -> str:
    """The page."""
    final = {name: value[:, -1] for name, value in trajectories(results).items()}
    without = _fixed_magnitude(results)
    stages = range(results["stages"])
    body = [["operation", *(f"{name}, stage {k + 1}" for name in NAMES for k in stages)]]
    for n, operation in enumerate(results["operations"]):
        body.append(
            [operation]
            + ["–" if name == "mu" and without[n] else _spread(final[name][:, k, n]) for name in NAMES for k in stages]
        )
    parts = [f"# Figures 3 to 5: pi, mu and p over training on {results['data']}"]
    if results["smoke"]:
        parts.append("A smoke run: it shows that the code works; the numbers mean nothing.")
    if results["data"] != "cifar10":
        parts.append("The paper's figures are of other data: this is no replication.")
    parts += [
        setting_line(results),
        f"![The policy over training]({picture})",
        f"After epoch {results['epochs'][-1]}, mean over seeds (lowest to highest):",
        table(body),
        "What it shows:\n\n" + "\n".join(f"- {line}" for line in findings(results)),
        "\n".join(closing_lines(results)),
    ]
    return "\n\n".join(parts) + "\n"


def render(results: Results, stem: Path) -> list[Path]:
    """Write ``stem.md`` and ``stem.png``."""
    page, picture = stem.with_name(stem.name + ".md"), stem.with_name(stem.name + ".png")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(results, picture.name), encoding="utf-8")
    plot(results, picture)
    return [page, picture]
