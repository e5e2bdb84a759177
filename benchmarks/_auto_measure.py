"""The measurements behind ``auto.py``: auto against fixed choices, preconditioners, warm starts."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from _auto_problems import SPECTRA, DiagonalOperator, error, mean, right_sides

from hypergrad import solvers
from hypergrad.solvers import Solver
from hypergrad.solvers.preconditioners import Diagonal, HutchinsonDiagonal, NystromSketch
from hypergrad.testing import DenseOperator

SOLVES = 26  # two probes would be at solves 1 and 26, so one


def fixed_choices(budget: int, top: float) -> dict[str, Solver]:
    """Every solver at so many products, the tunable ones on a grid around what is right for the largest curvature."""
    chosen: dict[str, Solver] = {"first_order": solvers.get("first_order")}
    for c in (0.1, 0.25, 0.5, 1.0, 1.5, 1.9):
        chosen[f"neumann, alpha = {c:g} / lambda_max"] = solvers.get("neumann", num_hvps=budget, alpha=c / top)
    for name in ("cg", "minres"):
        chosen[name] = solvers.get(name, max_steps=budget, tol=0.0)
    for rho in (1e-3, 1e-2, 0.1, 1.0):
        chosen[f"nystrom, rho = {rho:g}"] = solvers.get("nystrom", rank=budget, rho=rho)
    return chosen


def against_fixed(budgets: list[int], seeds: int) -> Iterator[dict[str, Any]]:
    """One row a problem, budget and seed: errors of auto and of the best fixed choice, alone and in a sequence."""
    for kind, spectra in SPECTRA.items():
        for name, values in spectra.items():
            for side in ("any", "in range"):
                for budget in budgets:
                    for seed in range(seeds):
                        row = {"kind": kind, "spectrum": name, "b": side, "budget": budget, "seed": seed}
                        yield row | _compare(values, side, budget, seed)


def _compare(values: torch.Tensor, side: str, budget: int, seed: int) -> dict[str, Any]:
    rights = right_sides(values, side, SOLVES, seed)
    solver, state, errors, spent = solvers.get("auto", tol=0.0, max_hvps=budget), None, [], 0
    for b in rights:
        solution = solver.solve(DiagonalOperator(values), b, state=state)
        state, spent = solution.state, spent + solution.matvecs
        errors.append(error(solution.x, b / values))

    def best(products: int, chosen: torch.Tensor) -> tuple[str, float]:
        found = {
            name: mean([error(s.solve(DiagonalOperator(values), b).x, b / values) for b in chosen])
            for name, s in fixed_choices(products, float(values.max())).items()
        }
        return min(found.items(), key=lambda item: item[1])

    alone = best(budget, rights[:1])
    # Probes count: the fixed choices get as many products as auto had on average, rounded up.
    together = best(math.ceil(spent / SOLVES), rights)
    return {
        "single": {"auto": errors[0], "best": alone[1], "name": alone[0]},
        "sequence": {"auto": mean(errors), "best": together[1], "name": together[0], "products": spent / SOLVES},
    }


def preconditioned(budgets: list[int], seeds: int) -> Iterator[dict[str, Any]]:
    """Errors on parameters of different scales, and on a few large eigenvalues over a damping, at equal products."""
    for condition in (1e3, 1e4, 1e6):
        for problem in ("scales", "low rank"):
            for seed in range(seeds):
                matrix, b, damping = _system(problem, condition, seed)
                exact = torch.linalg.solve(matrix, b)
                moments = matrix.diagonal().clone()
                ways: dict[str, Any] = {
                    "none": None,
                    "diagonal": Diagonal(values=moments),
                    "Adam": Diagonal.from_second_moments(moments),
                    "Hutchinson, 5": HutchinsonDiagonal(),
                    "Nystrom, 10": NystromSketch(),
                }
                for name in ("cg", "neumann"):
                    for way, preconditioner in ways.items():
                        for budget in budgets:
                            option = {"cg": "max_steps", "neumann": "num_hvps"}[name]
                            extra = {"tol": 0.0} if name == "cg" else {"alpha": "auto"}
                            solver = solvers.get(name, **{option: budget}, **extra, preconditioner=preconditioner)
                            operator = DenseOperator(matrix)
                            operator.damping = damping  # type: ignore[attr-defined]
                            solution = solver.solve(operator, b)
                            yield {
                                "problem": problem, "condition": condition, "seed": seed, "solver": name, "way": way,
                                "budget": budget, "error": error(solution.x, exact),
                                "residual": float(solution.residual), "extra": solution.matvecs - budget,
                            }  # fmt: skip


def _system(problem: str, condition: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    size = 100
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    b = torch.randn(size, generator=generator, dtype=torch.float64)
    if problem == "scales":
        root = torch.logspace(0, math.log10(condition) / 2, size, dtype=torch.float64)
        core = (q * torch.linspace(0.5, 2, size, dtype=torch.float64)) @ q.T
        return root[:, None] * core * root, b, 0.0
    values = condition * torch.exp(-torch.arange(size, dtype=torch.float64)) + 1.0
    return (q * values) @ q.T, b, 1.0


def warm_starts(budgets: list[int], seeds: int) -> Iterator[dict[str, Any]]:
    """Mean errors of warm and cold starts on a quadratic whose curvature and gradient drift, at equal products."""
    for change in (0.01, 0.03, 0.1, 0.3, 1.0):
        for condition in (1e2, 1e4):
            for budget in budgets:
                for name in ("neumann", "cg", "auto"):
                    for seed in range(seeds):
                        cold, warm = (_drift(name, budget, change, condition, seed, w) for w in (False, True))
                        yield {
                            "change": change, "condition": condition, "budget": budget, "solver": name, "seed": seed,
                            "cold": cold, "warm": warm,
                        }  # fmt: skip


def _drift(name: str, budget: int, change: float, condition: float, seed: int, warm: bool) -> float:
    """Each step replaces the share ``change`` of b and of the logarithms of the eigenvalues' jitter."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.randn(100, generator=generator, dtype=torch.float64)

    base = torch.logspace(-math.log10(condition), 0, 100, dtype=torch.float64)
    keep = math.sqrt(1 - change**2)
    jitter, direction = draw(), draw()
    x0, state, errors = None, None, []
    solver = {
        "neumann": lambda: solvers.get("neumann", num_hvps=budget, alpha=1.0),
        "cg": lambda: solvers.get("cg", max_steps=budget, tol=0.0),
        "auto": lambda: solvers.get("auto", max_hvps=budget, tol=0.0, probe_every=0),
    }[name]()
    for _ in range(30):
        jitter, direction = keep * jitter + change * draw(), keep * direction + change * draw()
        values = base * torch.exp(0.1 * jitter)
        b = direction * values.sqrt()
        # A warm start costs a product, which CG has to be told.
        least = solvers.get("cg", max_steps=budget - 1, tol=0.0) if name == "cg" and x0 is not None else solver
        solution = least.solve(DiagonalOperator(values), b, x0=x0, state=state)
        assert solution.matvecs == budget
        state = solution.state
        x0 = solution.x if warm else None
        errors.append(error(solution.x, b / values))
    return mean(errors[10:])
