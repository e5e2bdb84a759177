"""Error of the hypergradient against time on logistic regression: auto and each fixed solver, in float64."""

import math
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import hypergrad
from hypergrad import solvers
from hypergrad.solvers import Solver

SAMPLES, FEATURES = 2000, 200
ACCURACIES = [10.0**-k for k in range(1, 9)]
TOLERANCES = [10.0 ** (-k / 2) for k in range(1, 20)]
STEPS = 1000


class Logistic:
    """A logistic regression with a decay for each weight, at its optimum.

    Features are correlated, with scales from 1 to ``10^-2.5``. The common decay is found by bisection so that the
    inner Hessian has about the condition number asked for.
    """

    def __init__(self, condition: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        mixing = torch.linalg.qr(draw(FEATURES, FEATURES)).Q
        scales = torch.logspace(0, -2.5, FEATURES, dtype=torch.float64)
        truth, spread = draw(FEATURES), torch.rand(FEATURES, generator=generator, dtype=torch.float64) - 0.5
        sets = []
        for _ in range(2):
            x = (draw(SAMPLES, FEATURES) * scales) @ mixing * math.sqrt(FEATURES / 10)
            sets.append((x, (x @ truth + draw(SAMPLES) > 0).double()))
        (self.x, self.y), (self.x_val, self.y_val) = sets
        low, high = -20.0, 3.0
        for _ in range(20):
            middle = (low + high) / 2
            self.decay = middle + spread
            values = torch.linalg.eigvalsh(self._newton())
            low, high = (middle, high) if values[-1] / values[0] > condition else (low, middle)
        hessian = self._newton()
        b = self.x_val.T @ (torch.sigmoid(self.x_val @ self.w) - self.y_val) / SAMPLES
        self.exact = -self.decay.exp() * self.w * torch.linalg.solve(hessian, b)
        self.top = float(values[-1])

    def _newton(self) -> Tensor:
        self.w = torch.zeros(FEATURES, dtype=torch.float64)
        for _ in range(30):
            p = torch.sigmoid(self.x @ self.w)
            gradient = self.x.T @ (p - self.y) / SAMPLES + self.decay.exp() * self.w
            hessian = (self.x.T * (p * (1 - p) / SAMPLES)) @ self.x + torch.diag(self.decay.exp())
            step = torch.linalg.solve(hessian, gradient)
            self.w = self.w - step
            if step.norm() < 1e-13 * self.w.norm():
                break
        return hessian

    def run(self, solver: Solver) -> tuple[float, float, int]:
        """CPU seconds of a hypergradient, its relative error, and the products."""

        def inner(params: dict[str, Tensor], hparams: dict[str, Tensor]) -> Tensor:
            decay = 0.5 * (hparams["h"].exp() * params["w"] ** 2).sum()
            return F.binary_cross_entropy_with_logits(self.x @ params["w"], self.y) + decay

        def outer(params: dict[str, Tensor], hparams: dict[str, Tensor]) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.x_val @ params["w"], self.y_val)

        start = time.process_time()
        result = hypergrad.hypergradient(
            inner, outer, {"w": self.w}, {"h": self.decay}, solver=solver, on_failure="ignore"
        )
        seconds = time.process_time() - start
        assert result.solution is not None
        error = float((result.grads["h"] - self.exact).norm() / self.exact.norm())
        return seconds, error, result.solution.matvecs


def settings(top: float, tolerances: list[float]) -> Iterator[tuple[str, Solver]]:
    """Every solver at every setting that could be the quickest for some accuracy."""
    for tol in tolerances:
        yield "auto", solvers.get("auto", tol=tol, max_hvps=STEPS)
        yield "cg", solvers.get("cg", tol=tol, max_steps=STEPS)
        yield "minres", solvers.get("minres", tol=tol, max_steps=STEPS)
    for num_hvps in (5, 20, 100, 400):
        yield "neumann", solvers.get("neumann", num_hvps=num_hvps, alpha=1.8 / top)


def against_time(seeds: int, rounds: int) -> Iterator[dict[str, Any]]:
    """For each accuracy the quickest setting of each solver that reaches it; medians over interleaved rounds."""
    for condition in (1e3, 1e4):
        for seed in range(seeds):
            problem = Logistic(condition, seed)
            held = list(settings(problem.top, TOLERANCES if rounds > 1 else TOLERANCES[::4]))
            runs = [[problem.run(solver) for _, solver in held] for _ in range(rounds + 1)][1:]  # the first warms up
            found = [
                (name, median(r[k][0] for r in runs), runs[0][k][1], runs[0][k][2]) for k, (name, _) in enumerate(held)
            ]
            for accuracy in ACCURACIES:
                best: dict[str, Any] = {}
                for name, seconds, error, products in found:
                    if error <= accuracy and seconds < best.get(name, (math.inf,))[0]:
                        best[name] = (seconds, products)
                yield {"condition": condition, "seed": seed, "accuracy": accuracy, "best": best}
