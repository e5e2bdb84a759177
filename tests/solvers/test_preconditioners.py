"""Preconditioned CG and Neumann against dense twins, the preconditioners themselves, and what is kept of them."""

import math

import pytest
import torch

from hypergrad import solvers
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.solvers import Status
from hypergrad.solvers.preconditioners import Diagonal, HutchinsonDiagonal, NystromSketch
from hypergrad.testing import DenseOperator

SPECTRUM = [10 ** (3 * k / 29) for k in range(30)]
SCALES = torch.logspace(0, 4, 30, dtype=torch.float64)


class Damped(DenseOperator):
    """A matrix that says which damping it contains."""

    def __init__(self, matrix, damping):
        super().__init__(matrix)
        self.damping = damping


def badly_scaled(system, spectrum=SPECTRUM):
    """``D Q D`` with a moderate Q: what a diagonal repairs."""
    matrix, b = system(spectrum)
    root = SCALES[: len(b)].sqrt()
    return root[:, None] * matrix * root, b


def transformed(matrix, b, inverse):
    """The root ``S`` of the inverse preconditioner, ``S A S`` and ``S b``."""
    values, vectors = torch.linalg.eigh(inverse)
    root = (vectors * values.sqrt()) @ vectors.T
    return root, root @ matrix @ root, root @ b


def dense_inverse(preconditioner, matrix):
    apply = getattr(preconditioner, "apply", None) or preconditioner.build(DenseOperator(matrix), {}).apply
    return torch.stack([apply(e) for e in torch.eye(len(matrix), dtype=matrix.dtype)], dim=1)


MADE = [Diagonal(values=SCALES), HutchinsonDiagonal(samples=3), NystromSketch(rank=4)]


@pytest.mark.parametrize("preconditioner", MADE, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_preconditioned_cg_is_cg_on_the_symmetric_transformed_system(preconditioner, steps, system):
    matrix, b = badly_scaled(system)
    root, moved, right = transformed(matrix, b, dense_inverse(preconditioner, matrix))
    expected = root @ solvers.get("cg", tol=0.0, max_steps=steps).solve(DenseOperator(moved), right).x
    solver = solvers.get("cg", tol=0.0, max_steps=steps, preconditioner=preconditioner)
    solution = solver.solve(DenseOperator(matrix), b)
    torch.testing.assert_close(solution.x, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    torch.testing.assert_close(solution.residual, (b - matrix @ solution.x).norm() / b.norm(), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("preconditioner", MADE, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("num_hvps", [0, 1, 2, 6])
def test_preconditioned_neumann_is_its_sum(preconditioner, num_hvps, system):
    matrix, b = badly_scaled(system)
    inverse = dense_inverse(preconditioner, matrix)
    top = float(torch.linalg.eigvals(inverse @ matrix).real.max())
    alpha = 1.0 / top
    term = alpha * inverse @ b
    expected = term
    for _ in range(num_hvps):
        term = term - alpha * inverse @ (matrix @ term)
        expected = expected + term
    solver = solvers.get("neumann", num_hvps=num_hvps, alpha=alpha, preconditioner=preconditioner)
    solution = solver.solve(DenseOperator(matrix), b)
    assert solution.status is Status.TRUNCATED
    torch.testing.assert_close(solution.x, expected, rtol=1e-8, atol=1e-12 * float(expected.abs().max()))


def test_the_bias_of_a_truncated_neumann_is_per_direction_of_the_preconditioned_matrix():
    curvature, scales = torch.tensor([1.0, 30.0, 900.0]).double(), torch.tensor([2.0, 20.0, 1000.0]).double()
    b, alpha = torch.ones(3).double(), 0.5
    solver = solvers.get("neumann", num_hvps=3, alpha=alpha, preconditioner=Diagonal(values=scales))
    share = 1 - (1 - alpha * curvature / scales) ** 4
    x = solver.solve(DenseOperator(torch.diag(curvature)), b).x
    torch.testing.assert_close(x, share * b / curvature, rtol=1e-12, atol=0)


@pytest.mark.parametrize("preconditioner", MADE, ids=lambda p: type(p).__name__)
def test_an_exact_solve_has_no_bias(preconditioner, system):
    matrix, b = badly_scaled(system)
    solution = solvers.get("cg", tol=1e-12, max_steps=400, preconditioner=preconditioner).solve(
        DenseOperator(matrix), b
    )
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("factor", "status"), [(0.95, Status.TRUNCATED), (1.05, Status.DIVERGED)])
def test_the_bound_on_alpha_is_that_of_the_preconditioned_matrix(factor, status, system):
    matrix, b = badly_scaled(system)
    inverse = dense_inverse(Diagonal(values=SCALES), matrix)
    top = float(torch.linalg.eigvals(inverse @ matrix).real.max())
    solver = solvers.get("neumann", num_hvps=300, alpha=factor * 2 / top, preconditioner=Diagonal(values=SCALES))
    solution = solver.solve(DenseOperator(matrix), b)
    assert solution.status is status
    if status is Status.DIVERGED:
        assert f"lambda_max is at least {top:.3g}" in solution.detail


def test_alpha_auto_finds_the_lambda_max_of_the_preconditioned_matrix(system):
    matrix, b = badly_scaled(system)
    inverse = dense_inverse(Diagonal(values=SCALES), matrix)
    top = float(torch.linalg.eigvals(inverse @ matrix).real.max())
    solver = solvers.get(
        "neumann", num_hvps=3, alpha="auto", power_iterations=60, preconditioner=Diagonal(values=SCALES)
    )
    solution = solver.solve(DenseOperator(matrix), b)
    assert 1 / solution.state["alpha"] == pytest.approx(top, rel=1e-3)
    assert 1 / solver.solve(DenseOperator(matrix), b, state=solution.state).state["alpha"] == pytest.approx(
        top, rel=1e-3
    )


def test_a_warm_start_with_a_preconditioner(system):
    matrix, b = badly_scaled(system)
    exact = torch.linalg.solve(matrix, b)
    for name, options in (("cg", {"tol": 0.0, "max_steps": 5}), ("neumann", {"num_hvps": 6, "alpha": 1e-3})):
        solver = solvers.get(name, preconditioner=Diagonal(values=SCALES), **options)
        near = exact * (1 + 1e-6)
        warm = solver.solve(DenseOperator(matrix), b, x0=near)
        assert warm.matvecs == 6
        assert float((warm.x - exact).norm()) < float((near - exact).norm())


def test_a_diagonal_solves_a_diagonal_matrix_in_one_step_whatever_its_scale():
    b = torch.linspace(1, 2, 30, dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e6):
        solver = solvers.get("cg", preconditioner=Diagonal(values=scale * SCALES))
        solution = solver.solve(DenseOperator(torch.diag(SCALES)), b)
        assert (solution.matvecs, solution.status) == (1, Status.CONVERGED)
        torch.testing.assert_close(solution.x, b / SCALES, rtol=1e-12, atol=0)


def test_adams_second_moments():
    v = torch.tensor([0.0, 4.0, 9.0], dtype=torch.float64)
    values = Diagonal.from_second_moments(v, eps=1e-3, damping=0.5).values
    torch.testing.assert_close(values, torch.tensor([0.501, 2.501, 3.501], dtype=torch.float64), rtol=1e-14, atol=0)


def test_hutchinsons_estimate_is_exact_for_a_diagonal_and_right_on_average(system):
    built = HutchinsonDiagonal(samples=1, floor=1e-9).build(DenseOperator(torch.diag(SCALES)), {})
    torch.testing.assert_close(built.state["diagonal"], SCALES, rtol=1e-12, atol=0)
    matrix, _ = system([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    diagonal = HutchinsonDiagonal(samples=4000, seed=1).build(DenseOperator(matrix), {}).state["diagonal"]
    off = matrix - torch.diag(matrix.diagonal())
    deviation = ((off**2).sum(1) / 4000).sqrt()
    assert bool(((diagonal - matrix.diagonal()).abs() < 4 * deviation).all())
    flat = HutchinsonDiagonal(samples=1, floor=0.5).build(DenseOperator(torch.diag(SCALES)), {}).state["diagonal"]
    assert float(flat.min()) == pytest.approx(0.5 * float(SCALES.mean()))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_sketch_of_the_full_rank_flattens_what_it_holds(damping, system):
    matrix, _ = system([0.0] * 40 + [1.0, 10.0, 100.0])
    matrix = matrix + damping * torch.eye(43, dtype=torch.float64)
    built = NystromSketch(rank=5).build(Damped(matrix, damping), {})
    inverse = torch.stack([built.apply(e) for e in torch.eye(43, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(inverse, inverse.T, rtol=1e-9, atol=1e-12)
    values = torch.linalg.eigvals(inverse @ matrix).real.sort().values
    if damping:
        # Rank 5 holds all three, and nothing else: everything is as large as the damping.
        torch.testing.assert_close(values, torch.full_like(values, damping), rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(values[-3:], torch.ones(3).double(), rtol=1e-8, atol=0)


def test_nystrom_preconditioned_cg_is_fast_where_few_eigenvalues_are_large(system):
    matrix, b = system([0.01 + 1e4 * 0.5**k for k in range(60)])
    operator = Damped(matrix, 0.01)
    plain = solvers.get("cg", tol=1e-8, max_steps=500).solve(DenseOperator(matrix), b)
    solver = solvers.get("cg", tol=1e-8, max_steps=500, preconditioner=NystromSketch(rank=25, refresh_every=3))
    first = solver.solve(operator, b)
    second = solver.solve(operator, b, state=first.state)
    assert first.status is second.status is Status.CONVERGED
    assert first.matvecs == second.matvecs + 25
    assert second.matvecs < 0.3 * plain.matvecs
    torch.testing.assert_close(second.x, torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cg", "neumann"])
@pytest.mark.parametrize(
    ("preconditioner", "cost"),
    [(HutchinsonDiagonal(samples=3, refresh_every=2), 3), (NystromSketch(rank=4, refresh_every=2), 4)],
)
def test_an_estimate_is_kept_for_as_many_solves_as_asked_and_then_drawn_anew(name, preconditioner, cost, system):
    matrix, b = system(SPECTRUM)
    options = {"max_steps": 2, "tol": 0.0} if name == "cg" else {"num_hvps": 2}
    solver, state, spent, kept = solvers.get(name, preconditioner=preconditioner, **options), None, [], []
    for _ in range(5):
        solution = solver.solve(DenseOperator(matrix), b, state=state)
        state = solution.state
        spent.append(solution.matvecs - 2)
        kept.append(next(v for k, v in state.items() if k in ("preconditioner_diagonal", "preconditioner_basis")))
    assert spent == [cost, 0, cost, 0, cost]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[1], kept[2])


@pytest.mark.parametrize("preconditioner", [HutchinsonDiagonal(), NystromSketch(rank=1)])
def test_an_estimate_of_another_problem_is_refused(preconditioner):
    solver = solvers.get("cg", preconditioner=preconditioner)
    state = solver.solve(DenseOperator(torch.eye(2)), torch.ones(2)).state
    with pytest.raises(InvalidInputError, match=r"state\['preconditioner_(diagonal|basis)'\] must have 3 rows"):
        solver.solve(DenseOperator(torch.eye(3)), torch.ones(3), state=state)


def test_a_diagonal_of_another_problem_is_refused():
    with pytest.raises(InvalidInputError, match=r"values must be \(2,\) in torch.float32 .* got \(3,\)"):
        solvers.get("cg", preconditioner=Diagonal(values=torch.ones(3))).solve(
            DenseOperator(torch.eye(2)), torch.ones(2)
        )


WRONG = [
    (
        lambda: solvers.get("cg", preconditioner="adams"),
        "Unknown preconditioner 'adams'. Did you mean 'adam'? Registered",
    ),
    (lambda: solvers.get("cg", preconditioner={"rank": 3}), "preconditioner must be None, a name (adam, diagonal,"),
    (lambda: solvers.get("cg", preconditioner={"name": "nystrom", "rnk": 3}), "has no option 'rnk' (got rnk=3)"),
    (lambda: solvers.get("cg", preconditioner="diagonal"), "'diagonal' needs the option 'values'"),
    (lambda: solvers.get("neumann", preconditioner=Diagonal), "preconditioner must be None, a name (adam, diagonal,"),
    (lambda: Diagonal(values=torch.tensor([1.0, 0.0])), "values must be above 0 and finite; 1 of 2 entries are not"),
    (lambda: Diagonal(values=torch.tensor([1.0, math.nan])), "1 of 2 entries are not"),
    (lambda: Diagonal(values=torch.ones(2, 2)), "values must be a flat floating-point tensor"),
    (lambda: Diagonal(values=[1.0]), "values must be a flat floating-point tensor (P,); got [1.0]"),
    (lambda: Diagonal.from_second_moments(torch.tensor([-1.0])), "second_moments must be at least 0 and finite"),
    (lambda: Diagonal.from_second_moments(torch.ones(1), eps=0.0), "eps must be a real number with eps > 0"),
    (lambda: HutchinsonDiagonal(samples=0), "samples must be an integer >= 1; got 0"),
    (lambda: HutchinsonDiagonal(floor=1.0), "floor must be a real number with floor > 0, floor < 1; got 1.0"),
    (lambda: NystromSketch(rank=0), "rank must be an integer >= 1; got 0"),
    (lambda: NystromSketch(refresh_every=1.5), "refresh_every must be an integer >= 1; got 1.5"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises((InvalidInputError, UnknownNameError)) as raised:
        make()
    assert message in str(raised.value)
