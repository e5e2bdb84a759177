"""The Nystrom method: exact at low rank, what rho does, and the sketch that is kept."""

import pytest
import torch

from hypergrad.solvers import Status
from hypergrad.solvers.nystrom import Nystrom
from hypergrad.testing import DenseOperator

LOW_RANK = [0.0] * 20 + [1.0, 3.0, 9.0]


def shifted(matrix, b, rho):
    return torch.linalg.solve(matrix + rho * torch.eye(len(b), dtype=b.dtype), b)


@pytest.mark.parametrize("rank", [3, 5, 23, 50])
@pytest.mark.parametrize("rho", [1e-3, 1.0])
def test_exact_for_a_matrix_of_low_rank(rank, rho, system):
    matrix, b = system(LOW_RANK)
    operator = DenseOperator(matrix)
    solution = Nystrom(rank=rank, rho=rho).solve(operator, b)
    torch.testing.assert_close(solution.x, shifted(matrix, b, rho), rtol=1e-9, atol=1e-9 / rho)
    assert solution.status is Status.TRUNCATED
    assert solution.matvecs == operator.matvecs == min(rank, 23)
    assert solution.residual is None


def test_a_sketch_of_less_rank_leaves_one_over_rho(system):
    """Between the approximation of rank 0, b / rho, and the exact answer: ``A_k`` never exceeds ``A``."""
    matrix, b = system(LOW_RANK)
    x = Nystrom(rank=2, rho=0.1).solve(DenseOperator(matrix), b).x
    assert float(b @ shifted(matrix, b, 0.1)) < float(b @ x) < float(b @ b) / 0.1


def test_float32_is_stable_far_below_the_rank(system):
    matrix, b = system([10.0 ** (-k / 2) for k in range(20)], dtype=torch.float32)
    x = Nystrom(rank=20, rho=1e-3).solve(DenseOperator(matrix), b).x
    expected = shifted(matrix.double(), b.double(), 1e-3)
    assert float((x - expected).norm() / expected.norm()) < 1e-3


def test_a_sketch_is_kept_for_as_many_solves_as_asked(system):
    matrix, b = system(LOW_RANK)
    solver, state, spent = Nystrom(rank=3, refresh_every=3), None, []
    bases = []
    for _ in range(6):
        solution = solver.solve(DenseOperator(matrix), b, state=state)
        state = solution.state
        spent.append(solution.matvecs)
        bases.append(state["basis"])
        torch.testing.assert_close(solution.x, shifted(matrix, b, 0.01), rtol=1e-8, atol=1e-7)
    assert spent == [3, 0, 0, 3, 0, 0]
    assert torch.equal(bases[0], bases[2])
    assert not torch.equal(bases[2], bases[3]), "a new sketch draws anew"


def test_the_seed_decides_and_the_global_generator_is_left_alone(system):
    matrix, b = system([float(k) for k in range(1, 12)])
    before = torch.get_rng_state()
    first, same, other = (Nystrom(rank=3, seed=s).solve(DenseOperator(matrix), b).x for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_curvature_below_minus_rho_is_reported(system):
    matrix, b = system([-3.0, -2.0, 1.0])
    solution = Nystrom(rank=3).solve(DenseOperator(matrix), b)
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert "-3, below -rho = -0.01" in solution.detail
    damped = Nystrom(rank=3, rho=4.0).solve(DenseOperator(matrix), b)
    assert damped.status is Status.TRUNCATED


@pytest.mark.parametrize("rho", [1e-12, 1e-6])
def test_a_sketch_of_full_rank_allows_a_tiny_rho(rho, system):
    """What rounding leaves outside of the sketch is divided by rho."""
    matrix, b = system([1.0, 2.0, 3.0, 4.0, 5.0])
    x = Nystrom(rank=5, rho=rho).solve(DenseOperator(matrix), b).x
    torch.testing.assert_close(x, shifted(matrix, b, rho), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_rank_above_that_of_the_matrix_adds_no_rounding_in_float32(seed, system):
    matrix, b = system([0.0] * 40 + [1.0, 30.0, 900.0], seed, torch.float32)
    x = Nystrom(rank=30, rho=1e-2, seed=seed).solve(DenseOperator(matrix), b).x
    expected = shifted(matrix.double(), b.double(), 1e-2)
    assert float((x - expected).norm() / expected.norm()) < 2e-2
