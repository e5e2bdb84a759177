"""How each library is asked for a hypergradient: one function a library, which imports it, as its documentation says.

Every function takes a :class:`~_peers_problems.Problem` and gives, for each solver that the library has, a function of
the solver's options that gives the call to be timed. Where a library has several ways, this is the one with the least
around it: betty's engine, BOAT's optimisers and hypertorch's writing of ``.grad`` are left out.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from _peers_problems import Problem
from torch import Tensor

Call = Callable[[], list[Tensor]]
Solvers = dict[str, Callable[..., Call]]

#: Name of the distribution, whether torch.func is used inside, and what ``--make-environments`` installs.
PEERS: dict[str, dict[str, Any]] = {
    "betty": {"distribution": "betty-ml", "functional": False, "install": ["betty-ml==0.2.1"]},
    "torchopt": {
        "distribution": "torchopt",
        "functional": True,
        "install": ["torchopt==0.7.3", "optree", "graphviz", "typing-extensions"],
    },
    "moskomule": {"distribution": "hypergrad", "functional": True, "install": ["hypergrad==0.0.1"]},
    "boat": {"distribution": "boat-torch", "functional": False, "install": ["boat-torch==1.1.1", "higher==0.2.1"]},
    "hypertorch": {"distribution": None, "functional": False, "install": []},
}


def ours(problem: Problem) -> Solvers:
    import hypergrad
    from hypergrad import solvers

    if problem.kind != "logistic":
        problem.call = hypergrad.functional(problem.model)
    params = {k: p.detach() for k, p in zip(problem.names, problem.params, strict=True)}
    hparams = {"h": problem.hparams[0].detach()}

    def inner(p: dict[str, Tensor], h: dict[str, Tensor]) -> Tensor:
        return problem.inner(list(p.values()), [h["h"]])

    def outer(p: dict[str, Tensor], h: dict[str, Tensor]) -> Tensor:
        return problem.outer(list(p.values()), [h["h"]])

    def call(name: str, **options: Any) -> Call:
        solver = solvers.get(name, **options)

        def run() -> list[Tensor]:
            found = hypergrad.hypergradient(inner, outer, params, hparams, solver=solver, on_failure="ignore")
            return [found.grads["h"]]

        return run

    return {
        "neumann": lambda budget, alpha: call("neumann", num_hvps=budget, alpha=alpha),
        "neumann, alpha found": lambda budget: call("neumann", num_hvps=budget, alpha="auto"),
        "cg": lambda budget: call("cg", max_steps=budget, tol=0.0),
        "minres": lambda budget: call("minres", max_steps=budget, tol=0.0),
        "nystrom": lambda budget, rho: call("nystrom", rank=budget, rho=rho),
        "auto": lambda budget: call("auto", max_hvps=budget, tol=0.0),
        "first-order": lambda: call("first_order"),
        "dense": lambda: call("dense"),
    }


def by_hand(problem: Problem) -> Solvers:
    """The calculus on one kept graph, and nothing else."""
    params, hparams = problem.params, problem.hparams

    def start() -> tuple[Sequence[Tensor], list[Tensor]]:
        grads = torch.autograd.grad(problem.inner(params, hparams), params, create_graph=True)
        return grads, list(torch.autograd.grad(problem.outer(params, hparams), params))

    def cross(grads: Sequence[Tensor], x: list[Tensor]) -> list[Tensor]:
        return [-g for g in torch.autograd.grad(grads, hparams, x)]

    def neumann(budget: int, alpha: float) -> Call:
        def run() -> list[Tensor]:
            grads, term = start()
            total = term
            for _ in range(budget):
                products = torch.autograd.grad(grads, params, term, retain_graph=True)
                term = [t - alpha * p for t, p in zip(term, products, strict=True)]
                total = [s + t for s, t in zip(total, term, strict=True)]
            return cross(grads, [alpha * s for s in total])

        return run

    def cg(budget: int) -> Call:
        def run() -> list[Tensor]:
            grads, r = start()
            x, p = [torch.zeros_like(v) for v in r], r
            rr = dot(r, r)
            for _ in range(budget):
                q = torch.autograd.grad(grads, params, p, retain_graph=True)
                length = rr / dot(p, q)
                x = [a + length * c for a, c in zip(x, p, strict=True)]
                r = [a - length * c for a, c in zip(r, q, strict=True)]
                rr, before = dot(r, r), rr
                p = [a + rr / before * c for a, c in zip(r, p, strict=True)]
            return cross(grads, x)

        return run

    return {"neumann": neumann, "cg": cg}


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]).sum()


def betty(problem: Problem) -> Solvers:
    from betty.hypergradient import get_grads

    def level(config: Any = None, params: list[Tensor] | None = None) -> Any:
        held = params or []
        return SimpleNamespace(
            config=config,
            paths=[],
            cur_batch=None,
            _strategy="default",
            training_step_exec=lambda batch: problem.inner(problem.params, problem.hparams),
            parameters=lambda: held,
            trainable_parameters=lambda: held,
            meta_trainable_parameters=lambda: held,
        )

    def call(**options: Any) -> Call:
        lower = level(SimpleNamespace(**options), problem.params)
        upper = level(params=problem.hparams)

        def run() -> list[Tensor]:
            loss = problem.outer(problem.params, problem.hparams)
            return list(get_grads(loss, [upper, lower, upper], False, False))

        return run

    return {
        "neumann": lambda budget, alpha: call(type="neumann", neumann_iterations=budget, neumann_alpha=alpha),
        "cg": lambda budget: call(type="cg", cg_iterations=budget, cg_alpha=1.0),
        "darts": lambda: call(type="darts", darts_alpha=0.01, darts_multitask=False),
    }


def torchopt(problem: Problem) -> Solvers:
    from torchopt.diff.implicit import custom_root
    from torchopt.linear_solve import solve_cg, solve_inv, solve_normal_cg

    point = tuple(p.detach() for p in problem.params)

    def call(solve: Any) -> Call:
        gradient = torch.func.grad(problem.inner)

        @custom_root(gradient, argnums=1, solve=solve)
        def solution(params: tuple[Tensor, ...], hparams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return point

        def run() -> list[Tensor]:
            hparams = tuple(problem.hparams)
            loss = problem.outer(solution(point, hparams), hparams)
            return list(torch.autograd.grad(loss, hparams))

        return run

    exact = {"rtol": 0.0, "atol": 0.0}
    return {
        "neumann": lambda budget, alpha: call(solve_inv(ns=True, maxiter=budget, alpha=alpha)),
        "cg": lambda budget: call(solve_cg(maxiter=budget, **exact)),
        "cg, normal equations": lambda budget: call(solve_normal_cg(maxiter=budget, **exact)),
        "dense": lambda: call(solve_inv(ns=False)),
    }


def moskomule(problem: Problem) -> Solvers:
    from hypergrad import approx_hypergrad

    params = tuple(p.detach() for p in problem.params)
    hparams = tuple(h.detach() for h in problem.hparams)

    def call(name: str, *options: Any) -> Call:
        solver = getattr(approx_hypergrad, name)
        return lambda: list(solver(problem.inner, problem.outer, params, hparams, *options))

    return {
        "neumann": lambda budget, alpha: call("neumann", budget, alpha),
        "cg": lambda budget: call("conjugate_gradient", budget, 1.0),
        "nystrom": lambda budget, rho: call("nystrom", budget, rho),
    }


def _fixed_point(problem: Problem, alpha: float) -> Callable[..., list[Tensor]]:
    """A step of gradient descent with a graph, which hypertorch and BOAT differentiate."""

    def step(params: Sequence[Tensor], loss: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(loss, params, create_graph=True)
        return [p - alpha * g for p, g in zip(params, grads, strict=True)]

    return step


def hypertorch(problem: Problem) -> Solvers:
    from hypergrad import hypergradients

    def call(name: str, budget: int, alpha: float) -> Call:
        solver, step = getattr(hypergradients, name), _fixed_point(problem, alpha)

        def run() -> list[Tensor]:
            return list(
                solver(
                    problem.params,
                    problem.hparams,
                    budget,
                    lambda p, h: step(p, problem.inner(p, h)),
                    problem.outer,
                    tol=0.0,
                    set_grad=False,
                )
            )

        return run

    return {
        "neumann": lambda budget, alpha: call("neumann", budget, alpha),
        "fixed point": lambda budget, alpha: call("fixed_point", budget, alpha),
        "cg": lambda budget: call("CG", budget, _unit(problem)),
        "cg, normal equations": lambda budget: call("CG_normaleq", budget, _unit(problem)),
    }


def boat(problem: Problem) -> Solvers:
    from boat_torch.utils import op_utils

    def call(name: str, budget: int, alpha: float) -> Call:
        solver, step = getattr(op_utils, name), _fixed_point(problem, alpha)

        def run() -> list[Tensor]:
            params, hparams = problem.params, problem.hparams
            upper, lower = problem.outer(params, hparams), problem.inner(params, hparams)
            return list(solver(params, hparams, upper, lower, budget, step, 0.0))

        return run

    return {
        "neumann": lambda budget, alpha: call("neumann", budget, alpha),
        "cg": lambda budget: call("conjugate_gradient", budget, _unit(problem)),
    }


def _unit(problem: Problem) -> float:
    """The step of a map that CG inverts: a scale, which does not change the answer."""
    return 1.0 if problem.top != problem.top else 1.0 / problem.top


LIBRARIES: dict[str, Callable[[Problem], Solvers]] = {
    "ours": ours,
    "by hand": by_hand,
    "betty": betty,
    "torchopt": torchopt,
    "moskomule": moskomule,
    "boat": boat,
    "hypertorch": hypertorch,
}
