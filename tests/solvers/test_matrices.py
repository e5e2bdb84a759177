"""One table: solvers x matrix structures, against torch.linalg.solve, in float64."""

import pytest
import torch

from hypergrad import solvers
from hypergrad.solvers import Status
from hypergrad.testing import DenseOperator

SPECTRA = {
    "1x1": [0.7],
    "identity": [1.0] * 6,
    "distinct": [1.0, 2.0, 3.0, 4.0, 5.0],
    "clustered": [1.0] * 10 + [3.0] * 10 + [10.0] * 10,
    "ill_conditioned": [10.0**-k for k in range(5)],
    "low_rank_and_damping": [0.1] * 20 + [5.1, 8.1],
    "indefinite": [-3.0, -1.0, 0.5, 2.0, 4.0],
}
POSITIVE = [name for name in SPECTRA if name != "indefinite"]

EXACT = {
    "cg": ({"max_steps": 60, "tol": 1e-13}, POSITIVE),
    "minres": ({"max_steps": 60, "tol": 1e-13}, list(SPECTRA)),
    "dense": ({}, list(SPECTRA)),
    "neumann": ({"num_hvps": 3000, "alpha": "auto"}, [n for n in POSITIVE if n != "ill_conditioned"]),
    "nystrom": ({"rank": 40, "rho": 0.05}, POSITIVE),  # of full rank; solves with A + rho I
    "first_order": ({}, ["identity"]),
}
CASES = [(solver, structure) for solver, (_, structures) in EXACT.items() for structure in structures]


@pytest.mark.parametrize(("solver", "structure"), CASES)
def test_a_solver_agrees_with_the_dense_solution(solver, structure, system):
    matrix, b = system(SPECTRA[structure])
    options = EXACT[solver][0]
    expected = torch.linalg.solve(matrix + options.get("rho", 0.0) * torch.eye(len(b), dtype=b.dtype), b)
    solution = solvers.get(solver, **options).solve(DenseOperator(matrix), b)
    assert not solution.status.failed, solution
    torch.testing.assert_close(solution.x, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("solver", ["cg", "minres"])
@pytest.mark.parametrize("structure", ["identity", "distinct", "clustered", "low_rank_and_damping"])
def test_as_many_steps_as_distinct_eigenvalues(solver, structure, system):
    matrix, b = system(SPECTRA[structure])
    steps = len(set(SPECTRA[structure]))
    solution = solvers.get(solver, max_steps=steps, tol=1e-10).solve(DenseOperator(matrix), b)
    assert (solution.status, solution.matvecs) == (Status.CONVERGED, steps)
    assert float((matrix @ solution.x - b).norm() / b.norm()) < 1e-10


def test_a_diagonal_matrix_is_solved_per_coordinate():
    diagonal = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    b = torch.tensor([1.0, -1.0, 4.0], dtype=torch.float64)
    for solver in ("cg", "minres", "dense"):
        x = solvers.get(solver).solve(DenseOperator(torch.diag(diagonal)), b).x
        torch.testing.assert_close(x, b / diagonal, rtol=1e-10, atol=0)


@pytest.mark.parametrize("solver", ["cg", "minres", "dense"])
def test_a_singular_matrix_with_b_in_its_range(solver, system):
    matrix, b = system([0.0, 0.0, 1.0, 2.0, 3.0])
    b = matrix @ b
    solution = solvers.get(solver, **({} if solver == "dense" else {"tol": 1e-12})).solve(DenseOperator(matrix), b)
    assert solution.status is Status.CONVERGED
    assert float((matrix @ solution.x - b).norm()) < 1e-11 * float(b.norm())


@pytest.mark.parametrize(
    ("solver", "status"),
    [("cg", Status.NEGATIVE_CURVATURE), ("minres", Status.MAX_STEPS), ("dense", Status.MAX_STEPS)],
)
def test_a_singular_matrix_with_b_outside_of_its_range(solver, status, system):
    matrix, b = system([0.0, 1.0, 2.0])
    solution = solvers.get(solver).solve(DenseOperator(matrix), b)
    assert solution.status is status
    assert solution.detail
    assert float(solution.x.norm()) < 10 * float(b.norm()), "the null space must not blow the answer up"


@pytest.mark.parametrize("solver", ["cg", "minres"])
@pytest.mark.parametrize("size", [1e-20, 1e15])
def test_the_size_of_b_does_not_matter(solver, size, system):
    matrix, b = system([1.0, 2.0, 5.0], dtype=torch.float32)
    solution = solvers.get(solver, max_steps=3).solve(DenseOperator(matrix), b * size)
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.x / size, torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-5)
