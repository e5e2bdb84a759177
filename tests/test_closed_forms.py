"""Every solver that applies gives the exact hypergradient of problems with closed forms, in float64."""

import math

import pytest
import torch
from torch.func import grad, jacrev

from hypergrad import hypergradient, solvers
from hypergrad.solvers import Status
from hypergrad.testing.problems import PROBLEMS, central_differences, first_order_sign_error, quadratic

EXACT = {
    "cg": {"max_steps": 100, "tol": 1e-13},
    "minres": {"max_steps": 100, "tol": 1e-13},
    "dense": {},
    "nystrom": {"rank": 30, "rho": 1e-12},
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def pieces(problem):
    """H ``(P, P)``, ``v = dg/dw`` ``(P,)`` and ``M = d2f/dw dh`` ``(P, Q)``, each by torch.func."""
    ((key, optimum),) = problem.params.items()

    def inner(w, h):
        return problem.inner_loss({key: w.view(optimum.shape)}, h)

    def outer(w):
        return problem.outer_loss({key: w.view(optimum.shape)}, problem.hparams)

    w = optimum.reshape(-1)
    matrix = jacrev(grad(inner))(w, problem.hparams)  # not torch.func.hessian: that is forward mode
    mixed = jacrev(grad(inner), argnums=1)(w, problem.hparams)
    return matrix, grad(outer)(w), torch.cat([part.reshape(len(w), -1) for part in mixed.values()], dim=1)


def enough_terms(problem):
    """The options with which the series is predicted to be exact to 1e-10: ``(1 - 1 / condition)^(J+1)``."""
    spectrum = torch.linalg.eigvalsh(pieces(problem)[0])
    low, high = float(spectrum[0]), float(spectrum[-1])
    return {"alpha": 1 / high, "num_hvps": math.ceil(math.log(1e-10) / math.log1p(-low / high))}


@every_problem
def test_a_problem_stands_at_its_optimum_and_its_gradient_is_that_of_the_solved_problem(name):
    problem = PROBLEMS[name]()
    assert float(flat(grad(problem.inner_loss)(problem.params, problem.hparams)).abs().max()) < 1e-13
    differences = central_differences(problem.objective, problem.hparams)
    torch.testing.assert_close(flat(differences), flat(problem.exact), rtol=1e-9, atol=1e-11)


@every_problem
@pytest.mark.parametrize("solver", [*EXACT, "neumann"])
def test_the_hypergradient_is_exact(name, solver):
    problem = PROBLEMS[name]()
    options = EXACT[solver] if solver in EXACT else enough_terms(problem)
    result = hypergradient(
        problem.inner_loss,
        problem.outer_loss,
        problem.params,
        problem.hparams,
        solver=solvers.get(solver, **options),
        on_failure="raise",
    )
    error = (flat(result.grads) - flat(problem.exact)).norm() / flat(problem.exact).norm()
    assert float(error) < 1e-8
    assert float(result.stationarity) < 1e-13


@every_problem
@pytest.mark.parametrize(("num_hvps", "fraction"), [(0, 0.5), (5, 0.1), (5, 1.0), (20, 1.9)])
def test_neumann_errs_by_its_formula(name, num_hvps, fraction):
    """``+ M' H^-1 (I - alpha H)^(J+1) v``, to 1e-10 of the exact hypergradient."""
    problem = PROBLEMS[name]()
    matrix, v, mixed = pieces(problem)
    alpha = fraction / float(torch.linalg.eigvalsh(matrix)[-1])
    remainder = torch.linalg.matrix_power(torch.eye(len(v), dtype=v.dtype) - alpha * matrix, num_hvps + 1) @ v
    predicted = mixed.T @ torch.linalg.solve(matrix, remainder)
    result = hypergradient(
        problem.inner_loss,
        problem.outer_loss,
        problem.params,
        problem.hparams,
        solver=solvers.get("neumann", num_hvps=num_hvps, alpha=alpha),
        on_failure="raise",
    )
    scale = float(flat(problem.exact).norm())
    found = flat(result.grads) - flat(problem.exact)
    # logistic_regression's exact gradient comes from differences, of error 1e-12 or so.
    torch.testing.assert_close(found, predicted, rtol=0, atol=1e-10 * scale)
    assert float(predicted.norm()) > 1e-9 * scale, "an error too small to see would prove nothing"


def test_first_order_has_the_wrong_sign_where_the_solvers_have_the_right_one():
    problem = first_order_sign_error()
    losses = problem.inner_loss, problem.outer_loss, problem.params, problem.hparams
    assert float(hypergradient(*losses, solver="first_order").grads["h"]) == pytest.approx(0.98, rel=1e-12)
    assert float(hypergradient(*losses, solver="cg").grads["h"]) == pytest.approx(-1, rel=1e-8)
    # Five products of the series do not reach an eigenvalue of a hundredth either; a thousand do.
    series = [solvers.get("neumann", num_hvps=j, alpha=1.0) for j in (5, 1000)]
    signs = [float(hypergradient(*losses, solver=s).grads["h"]) for s in series]
    assert signs[0] > 0 > signs[1]


def test_cg_is_exact_in_as_many_steps_as_distinct_eigenvalues():
    problem = quadratic([1.0] * 5 + [10.0] * 5 + [100.0] * 5)
    result = hypergradient(
        problem.inner_loss,
        problem.outer_loss,
        problem.params,
        problem.hparams,
        solver=solvers.get("cg", max_steps=3, tol=1e-10),
        on_failure="raise",
    )
    assert (result.solution.status, result.solution.matvecs) == (Status.CONVERGED, 3)
    torch.testing.assert_close(result.grads["h"], problem.exact["h"], rtol=1e-10, atol=1e-12)
