"""CG and MINRES: budgets, statuses, warm starts, the residual by recurrence."""

import pytest
import torch

from hypergrad import solvers
from hypergrad.solvers import Status
from hypergrad.solvers.conjugate_gradient import ConjugateGradient
from hypergrad.solvers.minres import Minres
from hypergrad.testing import DenseOperator

BOTH = pytest.mark.parametrize("name", ["cg", "minres"])
SPECTRUM = [10 ** (3 * k / 29) for k in range(30)]  # condition number 1000


@BOTH
def test_the_identity_gives_b_and_not_zero(name):
    b = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    solution = solvers.get(name).solve(DenseOperator(torch.eye(3, dtype=torch.float64)), b)
    torch.testing.assert_close(solution.x, b, rtol=1e-14, atol=0)
    assert (solution.status, solution.matvecs) == (Status.CONVERGED, 1)


@BOTH
@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_the_residual_by_recurrence_is_the_true_one(name, steps, system):
    matrix, b = system(SPECTRUM)
    solution = solvers.get(name, max_steps=steps, tol=0.0).solve(DenseOperator(matrix), b)
    true = (b - matrix @ solution.x).norm() / b.norm()
    torch.testing.assert_close(solution.residual, true, rtol=1e-8, atol=1e-12)


def test_cg_minimises_the_energy_over_the_krylov_space(system):
    matrix, b = system(SPECTRUM)
    for steps in (1, 2, 5):
        columns = [b]
        for _ in range(steps - 1):
            columns.append(matrix @ columns[-1])
        basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        expected = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
        x = ConjugateGradient(max_steps=steps, tol=0.0).solve(DenseOperator(matrix), b).x
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-10)


def test_minres_minimises_the_residual_over_the_krylov_space(system):
    matrix, b = system([-3.0, -1.0, -0.2, 0.5, 2.0, 4.0, 7.0])
    for steps in (1, 2, 5):
        columns = [b]
        for _ in range(steps - 1):
            columns.append(matrix @ columns[-1])
        basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        expected = basis @ torch.linalg.lstsq(matrix @ basis, b[:, None]).solution[:, 0]
        x = Minres(max_steps=steps, tol=0.0).solve(DenseOperator(matrix), b).x
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-10)


@BOTH
def test_too_few_steps_are_reported(name, system):
    matrix, b = system(SPECTRUM)
    solution = solvers.get(name, max_steps=3).solve(DenseOperator(matrix), b)
    assert (solution.status, solution.matvecs) == (Status.MAX_STEPS, 3)
    assert float(solution.residual) > 1e-5


@BOTH
def test_the_tolerance_is_met_and_not_overdone(name, system):
    matrix, b = system(SPECTRUM)
    loose = solvers.get(name, max_steps=100, tol=1e-2).solve(DenseOperator(matrix), b)
    tight = solvers.get(name, max_steps=100, tol=1e-8).solve(DenseOperator(matrix), b)
    assert loose.status is tight.status is Status.CONVERGED
    assert float((b - matrix @ loose.x).norm() / b.norm()) <= 1e-2
    assert float((b - matrix @ tight.x).norm() / b.norm()) <= 1.001e-8
    assert loose.matvecs < tight.matvecs < 60


@BOTH
def test_a_fixed_budget_spends_it_all_and_survives_convergence(name, system):
    matrix, b = system([1.0, 2.0, 5.0])
    operator = DenseOperator(matrix)
    solution = solvers.get(name, max_steps=50, tol=0.0).solve(operator, b)
    assert (solution.status, solution.matvecs, operator.matvecs) == (Status.TRUNCATED, 50, 50)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-12, atol=1e-12)


@BOTH
def test_rare_checks_cost_products_and_change_nothing_else(name, system):
    matrix, b = system([1.0, 2.0, 5.0])
    often = solvers.get(name).solve(DenseOperator(matrix), b)
    rarely = solvers.get(name, check_every=5).solve(DenseOperator(matrix), b)
    assert (often.matvecs, rarely.matvecs) == (3, 5)
    assert torch.equal(often.x, rarely.x)
    assert often.status is rarely.status is Status.CONVERGED


@BOTH
def test_a_warm_start_helps_or_is_dropped(name, system):
    matrix, b = system(SPECTRUM)
    solver = solvers.get(name, max_steps=100, tol=1e-6)
    cold = solver.solve(DenseOperator(matrix), b)
    warm = solver.solve(DenseOperator(matrix), (1 + 1e-5) * b, x0=cold.x)
    assert warm.status is Status.CONVERGED
    assert warm.matvecs < 0.8 * cold.matvecs
    again = solver.solve(DenseOperator(matrix), b, x0=cold.x)
    assert (again.matvecs, again.status) == (1, Status.CONVERGED)
    stale = solver.solve(DenseOperator(matrix), b, x0=-1e3 * cold.x)
    assert torch.equal(stale.x, cold.x)
    assert stale.matvecs == cold.matvecs + 1


def test_negative_curvature_in_cg_where_minres_converges(system):
    matrix, b = system([-3.0, -1.0, 0.5, 2.0, 4.0])
    solution = ConjugateGradient(max_steps=50).solve(DenseOperator(matrix), b)
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert "p^T A p / p^T p = -" in solution.detail
    assert bool(solution.x.isfinite().all())
    answer = Minres(max_steps=5, tol=1e-10).solve(DenseOperator(matrix), b)
    assert answer.status is Status.CONVERGED
    torch.testing.assert_close(answer.x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-8)


def test_cg_keeps_the_last_good_iterate_at_negative_curvature(system):
    matrix, b = system([-0.1, 3.0, 5.0, 9.0])
    stopped = ConjugateGradient(max_steps=50).solve(DenseOperator(matrix), b)
    assert stopped.status is Status.NEGATIVE_CURVATURE
    assert stopped.matvecs > 1
    before = ConjugateGradient(max_steps=stopped.matvecs - 1, tol=0.0).solve(DenseOperator(matrix), b)
    assert before.status is Status.TRUNCATED
    assert torch.equal(stopped.x, before.x)


def test_cg_answers_b_when_the_first_direction_is_negative(system):
    matrix, b = system([-1.0, -2.0])
    solution = ConjugateGradient().solve(DenseOperator(matrix), b)
    assert (solution.status, solution.matvecs) == (Status.NEGATIVE_CURVATURE, 1)
    torch.testing.assert_close(solution.x, b, rtol=1e-14, atol=0)
    torch.testing.assert_close(solution.residual, (b - matrix @ b).norm() / b.norm(), rtol=1e-12, atol=0)


@BOTH
def test_a_nan_that_comes_late_leaves_the_last_good_iterate(name, system):
    matrix, b = system(SPECTRUM)

    class Late(DenseOperator):
        def __matmul__(self, v):
            product = super().__matmul__(v)
            return product if self.matvecs < 4 else product * float("nan")

    solution = solvers.get(name, max_steps=10).solve(Late(matrix), b)
    assert (solution.status, solution.matvecs) == (Status.NONFINITE, 4)
    good = solvers.get(name, max_steps=3, tol=0.0).solve(DenseOperator(matrix), b)
    assert torch.equal(solution.x, good.x)
