"""How far cheaper products lead away from the exact hypergradient, at one point of a training."""

import copy
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _informative_curvature import DAMPING, lanczos
from _informative_gradients import Noise
from _informative_run import Point, StudyRun, flat, set_raw
from _informative_statistics import signal
from torch import Tensor

from hypergrad import keys, solvers
from hypergrad.estimators.implicit import Implicit, outer_gradient
from hypergrad.linearization import Linearization
from hypergrad.objective import ModelObjective
from hypergrad.vision import policies

#: Options of the implicit estimator, by the name of their row.
OPTIONS: dict[str, dict[str, Any]] = {
    "gauss-newton": {"curvature": "gauss-newton"},
    "quarter": {"curvature_share": 0.25},
    "gauss-newton, quarter": {"curvature": "gauss-newton", "curvature_share": 0.25},
    "bfloat16": {"precision": "bfloat16"},
    "finite-difference": {"curvature": "finite-difference"},
    "low memory": {"memory": "low"},
}
#: The one that is exact up to rounding, and by far the slowest on a small network: a few draws show it.
ROUNDING = "low memory"
#: The row without any curvature, scaled to fit.
NONE = "no curvature"
#: What is solved, how: names of the systems.
SMALL, LARGE, DAMPED = "Neumann, alpha = 0.001", "Neumann, alpha = 1 / lambda_max", "CG, damped"
SYSTEMS = (SMALL, LARGE, DAMPED)
NUM_HVPS = 5


@dataclass(frozen=True)
class Plan:
    """How much is measured at a point.

    Attributes:
        draws: hypergradients for each system and option, on batches and with noise of their own; the same ones for all.
        rounding_draws: of the option that differs by rounding only: the first so many.
        batches, lanczos: batches whose Hessian is looked at, and products for each.
    """

    draws: int = 32
    rounding_draws: int = 4
    batches: int = 4
    lanczos: int = 30

    def plain(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)


SMOKE = Plan(draws=3, rounding_draws=3, batches=1, lanczos=5)


@dataclass(frozen=True)
class Spectrum:
    """The largest and the lowest curvature of several batches."""

    highest: float
    lowest: float

    @property
    def alpha(self) -> float:
        """The step of ``LARGE``."""
        return 1 / self.highest

    @property
    def damping(self) -> float:
        """Of ``DAMPED``: twice what lifts the lowest direction to zero, so that CG meets no negative curvature."""
        return max(DAMPING, -2 * self.lowest)


class Draws:
    """Hypergradients at one point.

    Args:
        run: whose data and settings they have; its network is left as it is.
        point: of the run.
    """

    def __init__(self, run: StudyRun, point: Point) -> None:
        self.run = run
        network = copy.deepcopy(run.network).train()
        network.load_state_dict(point.weights)
        family = policies.learned_policy(run.method, run.splits.channels)
        set_raw(family, point.raw)
        self.objective = ModelObjective(network, family, weight_decay=run.config.weight_decay)

    def batches(self, noise: Noise) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The training batch (with crops) and the validation batch of a draw."""
        run = self.run
        (positions,) = run.splits.train.order(run.config.batch_size, noise.train).batch(0)
        (val_positions,) = run.splits.val.order(run.config.batch_size, noise.val).batch(0)
        return run.batch(run.splits.train, positions, keys.derive(noise.train, "crop")), run.val_batch(val_positions)

    def draw(self, estimator: Implicit, noise: Noise) -> Tensor:  # (n,)
        """One hypergradient; equal noise is equal batches, picks and sub-batches."""
        batch, val = self.batches(noise)
        inner, outer = self.objective.losses(noise.policy)
        with keys.preserved_rng(torch.device("cpu"), noise.policy):
            found = estimator.estimate(
                inner, outer, self.objective.params, self.objective.hparams, inner_batch=batch, outer_batch=val
            )
        return flat(found.grads).double()

    def draws(self, estimator: Implicit, key: int, count: int) -> Tensor:  # (count, n)
        """Independent ones; those of a key are paired between estimators."""
        return torch.stack([self.draw(estimator, Noise.at(key, i)) for i in range(count)])

    def spectrum(self, key: int, batches: int, steps: int) -> Spectrum:
        """By Lanczos from the validation gradient."""
        ends = []
        for i in range(batches):
            noise = Noise.at(keys.derive(key, "spectrum"), i)
            batch, val = self.batches(noise)
            inner, outer = self.objective.losses(noise.policy)
            params, hparams = self.objective.params, self.objective.hparams
            A = Linearization(lambda w, h, f=inner, held=batch: f(w, h, *held), params, hparams)
            _, b, _ = outer_gradient(outer, params, hparams, tuple(val))
            values, _, _ = lanczos(A, b, steps)
            ends.append((float(values[-1]), float(values[0])))
        return Spectrum(max(high for high, _ in ends), min(low for _, low in ends))


def estimator(system: str, spectrum: Spectrum, options: dict[str, Any]) -> Implicit:
    """What answers a system; the step and the damping are those of the exact Hessian, whatever the options."""
    if system == DAMPED:
        solver = solvers.get("cg", max_steps=NUM_HVPS, tol=0.0)
        return Implicit(solver=solver, damping=spectrum.damping, on_failure="ignore", **options)
    alpha = 1e-3 if system == SMALL else spectrum.alpha
    return Implicit(solver=solvers.get("neumann", alpha=alpha, num_hvps=NUM_HVPS), on_failure="ignore", **options)


def measure_point(run: StudyRun, point: Point, plan: Plan, key: int) -> dict[str, Any]:
    """Every option against the exact products, in every system."""
    draws = Draws(run, point)
    spectrum = draws.spectrum(key, plan.batches, plan.lanczos)
    plain = draws.draws(Implicit(solver="first_order"), key, plan.draws)
    found: dict[str, Any] = {}
    for system in SYSTEMS:
        exact = draws.draws(estimator(system, spectrum, {}), key, plan.draws)
        rows = {}
        for name, options in OPTIONS.items():
            count = min(plan.draws, plan.rounding_draws) if name == ROUNDING else plan.draws
            rows[name] = compared(draws.draws(estimator(system, spectrum, options), key, count), exact[:count])
        rows[NONE] = compared(plain * float((plain * exact).sum() / plain.square().sum()), exact)
        found[system] = {"exact": between_batches(exact), "rows": rows}
    return {
        "step": point.step,
        "lambda_max": spectrum.highest,
        "lambda_min": spectrum.lowest,
        "damping": spectrum.damping,
        "systems": found,
    }


def between_batches(exact: Tensor) -> dict[str, Any]:  # (m, n)
    """What the exact hypergradient itself does from one pair of batches to the next.

    Returns:
        ``noise`` (root of the trace of a draw's covariance), ``norm`` (median length of a draw), ``squared_signal``
        (of the expectation's length, unbiased), ``cosine`` of two draws, ``cosine_of_means`` of the two halves, and
        ``relative_difference``, the median of ``|g_i - g_j| / |g_j|`` over neighbours.
    """
    told, half = signal(exact), len(exact) // 2
    other = exact.roll(1, 0)
    return {
        "noise": told["variance"] ** 0.5,
        "norm": float(exact.norm(dim=1).median()),
        "squared_signal": told["squared_signal"],
        "cosine": told["cosine"],
        "cosine_of_means": _cosine(exact[:half].mean(0), exact[half:].mean(0)),
        "relative_difference": float(((exact - other).norm(dim=1) / exact.norm(dim=1)).median()),
    }


def compared(found: Tensor, exact: Tensor) -> dict[str, Any]:  # (m, n) each
    """An option's draws beside the exact ones of the same batches and noise, ``D = found - exact``.

    Returns:
        ``cosine`` (median over the draws), ``relative_error`` (median of ``|D_i| / |exact_i|``), ``cosine_of_means``,
        ``variance`` (of a draw, in units of the exact one's), and the bias ``E D`` in units of the noise of a draw:
        ``squared_bias`` (unbiased, so negative by chance where there is little of it), its jackknife
        ``squared_bias_error``, and ``bias_p``, how likely random signs of D make its mean as long.
    """
    difference = found - exact
    told = signal(difference)
    variance = float(exact.var(0).sum())
    return {
        "cosine": statistics.median(_cosine(a, b) for a, b in zip(found, exact, strict=True)),
        "relative_error": float((difference.norm(dim=1) / exact.norm(dim=1)).median()),
        "cosine_of_means": _cosine(found.mean(0), exact.mean(0)),
        "variance": float(found.var(0).sum()) / variance,
        "squared_bias": told["squared_signal"] / variance,
        "squared_bias_error": squared_mean_error(difference) / variance,
        "bias_p": told["p"],
    }


def squared_mean_error(draws: Tensor) -> float:  # (m, n)
    """Jackknife standard error of the unbiased ``|E d|^2``, which is the mean product of two different draws."""
    m = len(draws)
    total, squares = draws.sum(0), draws.square().sum(1)
    left = ((total - draws).square().sum(1) - (squares.sum() - squares)) / ((m - 1) * (m - 2))
    return float(((m - 1) / m * (left - left.mean()).square().sum()).sqrt())


def _cosine(a: Tensor, b: Tensor) -> float:
    # torch.cosine_similarity takes the norms for at least 1e-8, which a hypergradient may well be below.
    return float((a / a.norm()) @ (b / b.norm()))
