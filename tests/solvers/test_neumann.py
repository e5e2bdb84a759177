"""The Neumann series: its closed formula, and what it says when it should not be trusted."""

import math

import pytest
import torch

from hypergrad.solvers import Status
from hypergrad.solvers.neumann import Neumann
from hypergrad.testing import DenseOperator

POSITIVE = [0.2, 1.0, 2.5, 4.0]


def formula(matrix, b, alpha, terms):
    """``A^-1 [I - (I - alpha A)^terms] b``."""
    eye = torch.eye(len(b), dtype=b.dtype)
    return torch.linalg.solve(matrix, b - torch.linalg.matrix_power(eye - alpha * matrix, terms) @ b)


@pytest.mark.parametrize("num_hvps", [0, 1, 2, 5, 20])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.45])
def test_the_sum_has_j_plus_one_terms_and_alpha_in_front(num_hvps, alpha, system):
    matrix, b = system(POSITIVE)
    operator = DenseOperator(matrix)
    solution = Neumann(num_hvps=num_hvps, alpha=alpha).solve(operator, b)
    torch.testing.assert_close(solution.x, formula(matrix, b, alpha, num_hvps + 1), rtol=1e-10, atol=1e-12)
    assert solution.status is Status.TRUNCATED
    assert solution.matvecs == operator.matvecs == num_hvps


def test_the_defaults_are_those_of_the_paper():
    assert (Neumann().num_hvps, Neumann().alpha) == (5, 1e-3)


@pytest.mark.parametrize(("eigenvalue", "ratio"), [(0.0, 6.0), (10.0, 5.85), (100.0, 4.69), (500.0, 1.97)])
def test_the_weight_of_an_eigenvalue_at_the_paper_s_setting(eigenvalue, ratio):
    matrix = torch.tensor([[eigenvalue]], dtype=torch.float64)
    x = Neumann().solve(DenseOperator(matrix), torch.ones(1, dtype=torch.float64)).x
    assert float(x) / 1e-3 == pytest.approx(ratio, abs=6e-3)


def test_a_warm_start_is_richardson_s_iteration_with_the_same_products(system):
    matrix, b = system(POSITIVE)
    x0 = 0.5 * torch.linalg.solve(matrix, b)
    x = x0.clone()
    for _ in range(5):
        x = x + 0.2 * (b - matrix @ x)
    operator = DenseOperator(matrix)
    solution = Neumann(num_hvps=5, alpha=0.2).solve(operator, b, x0=x0)
    torch.testing.assert_close(solution.x, x, rtol=1e-12, atol=1e-12)
    assert solution.matvecs == operator.matvecs == 5


def test_a_warm_start_worse_than_zero_is_dropped(system):
    matrix, b = system(POSITIVE)
    solver = Neumann(num_hvps=5, alpha=0.2)
    shorter = Neumann(num_hvps=4, alpha=0.2).solve(DenseOperator(matrix), b).x
    for x0 in (100 * torch.ones_like(b), torch.full_like(b, math.nan)):
        torch.testing.assert_close(solver.solve(DenseOperator(matrix), b, x0=x0).x, shorter, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("warm", [False, True])
def test_the_residual_is_that_of_one_product_less(warm, system):
    matrix, b = system(POSITIVE)
    x0 = 0.9 * torch.linalg.solve(matrix, b) if warm else None
    solver, shorter = Neumann(num_hvps=5, alpha=0.2), Neumann(num_hvps=4, alpha=0.2)
    x = shorter.solve(DenseOperator(matrix), b, x0=x0).x
    expected = (b - matrix @ x).norm() / b.norm()
    torch.testing.assert_close(solver.solve(DenseOperator(matrix), b, x0=x0).residual, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("num_hvps", [5, 20, 400])
def test_divergence_names_the_bound(num_hvps, system):
    matrix, b = system([0.01] * 20 + [1.0, 10.0])
    solution = Neumann(num_hvps=num_hvps, alpha=0.3).solve(DenseOperator(matrix), b)
    assert solution.status is Status.DIVERGED
    bound = float(solution.detail.split("at most ")[1].split(" ")[0])
    assert "alpha=0.3" in solution.detail
    assert 0.199 < bound < 0.3, "never below the true 2 / lambda_max; three digits are shown"


def test_a_growing_direction_is_seen_while_the_residual_still_falls(system):
    """The direction of lambda_max holds 1 % of b, and slow ones hide it: the norms of the residual fall throughout."""
    spectrum = torch.tensor([0.5] * 10 + [10.0], dtype=torch.float64)
    b = torch.ones(11, dtype=torch.float64)
    b[-1] = 0.01
    matrix, alpha = torch.diag(spectrum), 0.3
    norms = [float((b * (1 - alpha * spectrum) ** j).norm()) for j in range(6)]
    assert norms == sorted(norms, reverse=True)
    solution = Neumann(num_hvps=5, alpha=alpha).solve(DenseOperator(matrix), b)
    assert solution.status is Status.DIVERGED
    assert "lambda_max is at least 10" in solution.detail


def test_overflow_of_a_diverging_series_is_called_divergence():
    matrix = torch.diag(torch.tensor([1.0, 1e6]))
    solution = Neumann(num_hvps=50, alpha=0.1).solve(DenseOperator(matrix), torch.ones(2))
    assert solution.status is Status.DIVERGED
    assert "2 / lambda_max" in solution.detail


def test_negative_curvature_is_told_from_a_large_alpha(system):
    matrix, b = system([-2.0, 0.5, 1.0])
    solution = Neumann(num_hvps=10, alpha=0.1).solve(DenseOperator(matrix), b)
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert "curvature is -" in solution.detail


def test_weak_negative_curvature_in_a_short_sum_is_no_failure(system):
    matrix, b = system([-0.01, 1.0, 2.0])
    assert Neumann(num_hvps=5, alpha=0.1).solve(DenseOperator(matrix), b).status is Status.TRUNCATED


def test_an_alpha_far_too_small_is_mentioned(system):
    matrix, b = system(POSITIVE)
    solution = Neumann().solve(DenseOperator(matrix), b)
    assert "alpha * lambda_max is about 0.00" in solution.detail
    assert Neumann(alpha=0.2).solve(DenseOperator(matrix), b).detail == ""


def test_no_alarm_below_the_bound(system):
    for seed in range(20):
        spectrum = torch.rand(8, generator=torch.Generator().manual_seed(seed)) * 10 ** (seed % 5)
        for dtype in (torch.float32, torch.float64):
            matrix, b = system(spectrum, seed, dtype)
            for fraction in (1e-4, 0.5, 1.0, 1.99):
                for num_hvps in (1, 5, 60):
                    solver = Neumann(num_hvps=num_hvps, alpha=fraction / float(spectrum.max()))
                    assert solver.solve(DenseOperator(matrix), b).status is Status.TRUNCATED


def test_no_alarm_from_a_residual_that_has_underflowed():
    """Products with subnormal numbers have no correct digit left; here they are five times too large."""

    class Subnormal(DenseOperator):
        def __matmul__(self, v):
            return super().__matmul__(v) * (5 if float(v.abs().max()) < 1e-35 else 1)

    solution = Neumann(num_hvps=38, alpha=0.9).solve(Subnormal(torch.eye(2)), torch.ones(2))
    assert solution.status is Status.TRUNCATED
    torch.testing.assert_close(solution.x, torch.ones(2))


def test_past_the_bound_a_failure_is_a_divergence_and_never_negative_curvature(system):
    """A positive definite matrix is never called indefinite; at 1.5 times the bound, 5 products suffice to see it."""
    for seed in range(20):
        spectrum = torch.rand(8, generator=torch.Generator().manual_seed(seed))
        matrix, b = system(spectrum, seed)
        for num_hvps in (1, 2, 5):
            solution = Neumann(num_hvps=num_hvps, alpha=3 / float(spectrum.max())).solve(DenseOperator(matrix), b)
            assert solution.status in (Status.DIVERGED, Status.TRUNCATED)
        assert solution.status is Status.DIVERGED, seed


# alpha="auto"


def spectra(seed):
    uniform = torch.rand(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    yield 10 ** (6 * uniform - 3)
    yield 5 * uniform
    yield torch.cat([0.1 * uniform, torch.tensor([20.0, 50.0], dtype=torch.float64)])
    yield torch.cat([torch.zeros(30, dtype=torch.float64), 9 * uniform[:3]])
    yield torch.full((4,), 1e-6, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_never_diverges_on_positive_semidefinite_matrices(dtype, system):
    for seed in range(12):
        for spectrum in spectra(seed):
            matrix, b = system(spectrum, seed, dtype)
            for num_hvps in (1, 5, 20):
                solution = Neumann(num_hvps=num_hvps, alpha="auto").solve(DenseOperator(matrix), b)
                assert solution.status is Status.TRUNCATED
                assert float((b - matrix @ solution.x).norm()) <= 1.0001 * float(b.norm())


def test_auto_counts_its_products_and_keeps_the_vector(system):
    matrix, b = system([0.5, 1.0, 3.0, 8.0])
    solver = Neumann(num_hvps=4, alpha="auto", power_iterations=6)
    operator = DenseOperator(matrix)
    first = solver.solve(operator, b)
    assert first.matvecs == operator.matvecs == 6 + 4
    second = solver.solve(operator, b, state=first.state)
    assert second.matvecs == 1 + 4
    assert first.state["alpha"] == pytest.approx(1 / 8, rel=1e-2)
    torch.testing.assert_close(second.x, formula(matrix, b, second.state["alpha"], 5), rtol=1e-10, atol=1e-12)


def test_auto_follows_a_spectrum_that_moved(system):
    matrix, b = system([0.5, 1.0, 3.0, 8.0])
    solver, state = Neumann(num_hvps=10, alpha="auto"), None
    for factor in (1.0, 10.0, 0.1):
        solution = solver.solve(DenseOperator(factor * matrix), b, state=state)
        assert solution.status is Status.TRUNCATED
        assert solution.state["alpha"] * factor * 8 == pytest.approx(1, rel=0.05)
        state = solution.state


def test_auto_starts_again_when_the_estimate_was_far_too_low():
    """The kept vector is blind to lambda_max: an estimate of 1 where 50 is true, so the first series diverges."""
    matrix = torch.diag(torch.tensor([1.0, 50.0], dtype=torch.float64))
    blind = {"vector": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    operator, b = DenseOperator(matrix), torch.ones(2, dtype=torch.float64)
    solution = Neumann(num_hvps=5, alpha="auto").solve(operator, b, state=blind)
    assert solution.status is Status.TRUNCATED
    assert solution.matvecs == operator.matvecs == 1 + 5 + 5
    assert solution.state["alpha"] == pytest.approx(1 / 50, rel=1e-6)
    after = Neumann(num_hvps=5, alpha="auto").solve(DenseOperator(matrix), b, state=solution.state)
    assert after.matvecs == 1 + 5, "the kept vector has learnt the direction"


def test_auto_on_negative_curvature_only_reports_it(system):
    matrix, b = system([-1.0, -2.0, -3.0])
    solution = Neumann(alpha="auto").solve(DenseOperator(matrix), b)
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert bool(solution.x.isfinite().all())


def test_safety_scales_alpha(system):
    matrix, b = system([8.0])
    assert Neumann(alpha="auto", safety=0.5).solve(DenseOperator(matrix), b).state["alpha"] == pytest.approx(0.5 / 8)


def test_auto_recovers_from_the_state_of_a_zero_right_hand_side(system):
    matrix, b = system([0.5, 1.0, 3.0, 8.0])
    solver = Neumann(alpha="auto")
    state = solver.solve(DenseOperator(matrix), torch.zeros_like(b)).state
    solution = solver.solve(DenseOperator(matrix), b, state=state)
    assert (solution.status, solution.matvecs) == (Status.TRUNCATED, 1 + 5)
    assert 1 <= solution.state["alpha"] * 8 < 2


def test_auto_heeds_negative_curvature_that_is_larger_than_the_positive(system):
    matrix, b = system([-10.0, 0.1, 1.0])
    solution = Neumann(alpha="auto", power_iterations=10).solve(DenseOperator(matrix), b)
    assert solution.state["alpha"] == pytest.approx(1 / 10, rel=1e-3)
