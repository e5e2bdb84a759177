"""Preconditioners by name; the inner optimizer's second moments, handed to a solver, a stepper and a run."""

import functools
import math

import pytest
import torch

import hypergrad
from hypergrad import solvers
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.controls import Flipped
from hypergrad.estimators.implicit import Implicit
from hypergrad.solvers.preconditioners import Diagonal, HutchinsonDiagonal, NystromSketch
from hypergrad.solvers.second_moments import STATE_KEY, SecondMoments, second_moments
from hypergrad.testing import DenseOperator

SCALES = torch.logspace(0, 3, 6, dtype=torch.float64)


def test_a_config_names_a_preconditioner_with_its_options():
    solver = solvers.from_config({"name": "cg", "preconditioner": {"name": "nystrom", "rank": 3}})
    assert solver.preconditioner == NystromSketch(rank=3)
    assert solvers.get("neumann", preconditioner="hutchinson").preconditioner == HutchinsonDiagonal()
    assert solvers.get("cg", preconditioner={"name": "adam", "damping": 0.5}).preconditioner.damping == 0.5
    values = torch.ones(3)
    assert solvers.get("cg", preconditioner={"name": "diagonal", "values": values}).preconditioner.values is values


def trained(optimizer_of, steps):
    """Two parameters under given gradients, and the gradients (steps, P)."""
    params = {"b": torch.zeros(2, 2, dtype=torch.float64), "a": torch.zeros(2, dtype=torch.float64)}
    optimizer = optimizer_of(list(params.values())[::-1])
    gradients = torch.randn(steps, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gradient in gradients:
        params["b"].grad, params["a"].grad = gradient[:4].reshape(2, 2), gradient[4:]
        optimizer.step()
    return optimizer, params, gradients


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam])
def test_the_moments_of_adam_are_weighted_means_in_the_order_of_the_parameters(kind):
    optimizer, params, gradients = trained(functools.partial(kind, betas=(0.5, 0.8)), 3)
    weights = torch.tensor([0.8**2, 0.8, 1.0], dtype=torch.float64)
    expected = (weights[:, None] * gradients**2).sum(0) / weights.sum()
    torch.testing.assert_close(second_moments(optimizer, params), expected)
    fresh, params, _ = trained(kind, 0)
    assert torch.equal(second_moments(fresh, params), torch.zeros(6, dtype=torch.float64))


def test_the_moments_of_rmsprop_are_its_running_squares():
    optimizer, params, gradients = trained(functools.partial(torch.optim.RMSprop, alpha=0.9), 1)
    torch.testing.assert_close(second_moments(optimizer, params), 0.1 * gradients[0] ** 2)


@pytest.mark.parametrize("kind", [functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.Adadelta])
def test_an_optimizer_without_second_moments_is_refused(kind):
    for steps in (0, 1):
        optimizer, params, _ = trained(kind, steps)
        with pytest.raises(InvalidInputError, match="keeps none. Train with Adam"):
            second_moments(optimizer, params)
    optimizer, params, _ = trained(torch.optim.Adam, 1)
    with pytest.raises(InvalidInputError, match="does not have the parameter 'b'"):
        second_moments(optimizer, {"b": params["b"].clone()})


@pytest.mark.parametrize("name", ["cg", "neumann"])
def test_a_solve_uses_the_moments_of_its_state_and_keeps_none(name):
    A, b = DenseOperator(torch.diag(SCALES)), torch.ones(6, dtype=torch.float64)
    budget = {"max_steps": 1, "tol": 0.0} if name == "cg" else {"num_hvps": 2, "alpha": 0.7}
    solver = solvers.get(name, preconditioner={"name": "adam", "damping": 0.1}, **budget)
    solution = solver.solve(A, b, state={STATE_KEY: SCALES**2})
    twin = solvers.get(name, preconditioner=Diagonal.from_second_moments(SCALES**2, damping=0.1), **budget)
    torch.testing.assert_close(solution.x, twin.solve(A, b).x, rtol=1e-12, atol=0)
    assert not [k for k in solution.state if "moments" in k]
    none_yet = solver.solve(A, b, state={STATE_KEY: torch.zeros(6, dtype=torch.float64)})
    assert torch.equal(none_yet.x, solvers.get(name, **budget).solve(A, b).x)


WRONG = [
    ({}, "was not given the inner optimizer's second moments"),
    ({STATE_KEY: torch.ones(5, dtype=torch.float64)}, "must have 6 entries in torch.float64 on cpu; got (5,)"),
    ({STATE_KEY: torch.ones(6)}, "got (6,) in torch.float32 on cpu"),
]


@pytest.mark.parametrize(("state", "message"), WRONG)
def test_moments_that_are_missing_or_do_not_fit_are_refused(state, message):
    with pytest.raises(InvalidInputError) as raised:
        solvers.get("cg", preconditioner="adam").solve(
            DenseOperator(torch.diag(SCALES)), torch.ones(6, dtype=torch.float64), state=state
        )
    assert message in str(raised.value)
    with pytest.raises(InvalidInputError, match="eps must be a real number"):
        SecondMoments(eps=0.0)


def problem():
    """The inner minimiser is h; curvatures of three orders of magnitude."""
    return hypergrad.BilevelProblem(
        lambda w, h: 0.5 * (SCALES * (w["w"] - h["h"]) ** 2).sum(),
        lambda w, h: 0.5 * ((w["w"] - 1) ** 2).sum(),
        params={"w": torch.zeros(6, dtype=torch.float64)},
        hparams={"h": torch.full((6,), 0.2, dtype=torch.float64)},
    )


ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
SGD = functools.partial(torch.optim.SGD, lr=1e-3)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_stepper_hands_over_the_moments_of_its_inner_optimizer(wrapped):
    solver = solvers.get("cg", max_steps=1, tol=0.0, preconditioner="adam")
    made = problem()
    inner = ADAM(list(made.params.values()))
    estimator = Flipped(inner=Implicit(solver=solver)) if wrapped else Implicit(solver=solver)
    stepper = made.stepper(SGD, every=1, estimator=estimator, inner_optimizer=inner)
    stepper.loss().backward()
    inner.step()
    moments = second_moments(inner, made.params)
    assert float(moments.min()) > 0
    solution = stepper.hypergradient().solution
    b = made.params["w"].detach() - 1
    twin = solvers.get("cg", max_steps=1, tol=0.0, preconditioner=Diagonal.from_second_moments(moments))
    torch.testing.assert_close(solution.x, twin.solve(DenseOperator(torch.diag(SCALES)), b).x, rtol=1e-9, atol=0)
    stepper.step()
    assert STATE_KEY not in stepper.state_dict()["solver_state"]


def test_a_run_hands_them_over_by_itself_and_refuses_before_the_warm_up_what_has_none():
    solver = solvers.get("cg", max_steps=2, tol=0.0, preconditioner="adam")
    options = {"outer_steps": 2, "inner_steps": 3, "outer_optimizer": SGD, "progress": False}
    result = problem().solve(solver, inner_optimizer=ADAM, **options)
    assert all(math.isfinite(record.grad_norm) for record in result.history)
    with pytest.raises(InvalidInputError, match="SGD keeps none"):
        problem().solve(solver, inner_optimizer=SGD, **options)
    with pytest.raises(InvalidInputError, match="give that as inner_optimizer="):
        problem().stepper(SGD, solver)


def test_the_history_says_what_auto_chose():
    options = {"outer_steps": 2, "inner_steps": 3, "inner_optimizer": ADAM, "outer_optimizer": SGD, "progress": False}
    rows = problem().solve(solvers.get("auto", max_hvps=8), **options).rows()
    assert [row["choice"] for row in rows] == ["cg", "cg"]
    assert rows[0]["detail"].startswith(f"Chose cg: {rows[0]['matvecs']} products, curvature in [")
    assert rows[0]["alpha"] is None
    tuned = problem().solve(solvers.get("neumann", alpha="auto"), **options).rows()
    assert tuned[1]["choice"] == "" and 0.9 / 1000 < tuned[1]["alpha"] < 1.4 / 1000
