"""The solver that chooses: what it chooses on which matrix, the free step, probes, the record, noise."""

import math

import pytest
import torch

from hypergrad import solvers
from hypergrad.solvers import Status
from hypergrad.solvers.auto import CHOICES, Auto
from hypergrad.testing import DenseOperator

SPECTRUM = [10 ** (3 * k / 29) for k in range(30)]  # condition number 1000
LOW_RANK = [0.01] * 50 + [0.1 * 2**k for k in range(8)]
INDEFINITE = [-3.0, -1.0, 0.5, 2.0, 4.0, 7.0]


def error(x, matrix, b):
    exact = torch.linalg.solve(matrix, b)
    return float((x - exact).norm() / exact.norm())


def draws(system, spectrum, count):
    """One matrix and ``count`` right-hand sides."""
    matrix, _ = system(spectrum)
    generator = torch.Generator().manual_seed(7)
    return matrix, torch.randn(count, len(spectrum), generator=generator, dtype=torch.float64)


def test_cg_on_a_positive_definite_matrix(system):
    matrix, b = system(SPECTRUM)
    solution = Auto(tol=1e-8, max_hvps=100).solve(DenseOperator(matrix), b)
    cg = solvers.get("cg", tol=1e-8, max_steps=100).solve(DenseOperator(matrix), b)
    assert (solution.status, CHOICES[solution.state["choice"]]) == (Status.CONVERGED, "cg")
    short = Auto(tol=1e-8, max_hvps=100, max_basis=0).solve(DenseOperator(matrix), b)
    assert abs(short.matvecs - cg.matvecs) <= 1
    assert solution.matvecs == len(SPECTRUM) < cg.matvecs  # what exact arithmetic needs
    assert float((b - matrix @ solution.x).norm() / b.norm()) <= 1e-8
    assert solution.state["lambda_min"] == pytest.approx(1.0, rel=1e-3)
    assert solution.state["lambda_max"] == pytest.approx(1000.0, rel=1e-6)
    assert "Chose cg" in solution.detail


def test_minres_on_an_indefinite_matrix(system):
    matrix, b = system(INDEFINITE)
    solution = Auto(tol=1e-10, max_hvps=6).solve(DenseOperator(matrix), b)
    assert (solution.status, CHOICES[solution.state["choice"]]) == (Status.CONVERGED, "minres")
    assert solution.state["indefinite"] == 1
    assert solution.state["lambda_min"] == pytest.approx(-3.0, rel=1e-8)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-8)


def expected_step(matrix, b, steps):
    """From the Ritz values, by an orthonormal basis of the Krylov space."""

    def ritz(count):
        columns = [b]
        for _ in range(count - 1):
            columns.append(matrix @ columns[-1])
        q = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        return torch.linalg.eigvalsh(q.T @ matrix @ q)

    high = float(ritz(steps)[-1])
    return max(1 / high, 0.5 / math.sqrt(high * float(ritz(steps - 1)[0]))) if steps > 1 else 1 / high


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_free_step_is_one_along_the_next_direction_of_cg(steps, system):
    """Its length is that of a Chebyshev spectrum, halved; its direction is that of the CG iterate one product later."""
    matrix, b = system(SPECTRUM)
    solution = Auto(tol=0.0, max_hvps=steps).solve(DenseOperator(matrix), b)
    here, there = (
        solvers.get("cg", tol=0.0, max_steps=n).solve(DenseOperator(matrix), b).x for n in (steps, steps + 1)
    )
    moved, direction = solution.x - here, there - here
    torch.testing.assert_close(moved / moved.norm(), direction / direction.norm(), rtol=1e-8, atol=1e-10)
    r = b - matrix @ here
    assert float(moved @ r / r.dot(r)) == pytest.approx(solution.state["step"], rel=1e-8)  # p . r = r . r
    assert solution.state["step"] == pytest.approx(expected_step(matrix, b, steps), rel=1e-8)
    torch.testing.assert_close(solution.residual, r.norm() / b.norm(), rtol=1e-8, atol=0)
    assert error(solution.x, matrix, b) < error(here, matrix, b)


def test_the_free_step_of_minres_is_along_its_residual(system):
    matrix, b = system([-0.1, *[float(k) for k in range(1, 12)]])
    solution = Auto(tol=0.0, max_hvps=9).solve(DenseOperator(matrix), b)
    assert solution.state["indefinite"] == 1
    x = solvers.get("minres", tol=0.0, max_steps=9).solve(DenseOperator(matrix), b).x
    torch.testing.assert_close(solution.x, x + solution.state["step"] * (b - matrix @ x), rtol=1e-8, atol=1e-9)
    assert Auto(tol=0.0, max_hvps=3).solve(DenseOperator(-matrix), b).state["step"] == 0


def test_a_probe_measures_the_best_step_from_below(system):
    matrix, rights = draws(system, LOW_RANK, 3)
    solver = Auto(tol=0.0, max_hvps=4)
    first = solver.solve(DenseOperator(matrix), rights[0])
    probe = solver.solve(DenseOperator(matrix), rights[1], state=first.state)
    assert (first.matvecs, probe.matvecs) == (4, 14)
    x = solvers.get("cg", tol=0.0, max_steps=4).solve(DenseOperator(matrix), rights[1]).x
    r = rights[1] - matrix @ x
    wrong = torch.linalg.solve(matrix, rights[1]) - x
    best = float(wrong @ matrix @ wrong / r.dot(r))
    assert 0.99 * best < probe.state["learned"] <= best * (1 + 1e-9)
    third = solver.solve(DenseOperator(matrix), rights[2], state=probe.state)
    assert third.matvecs == 4
    assert third.state["step"] == pytest.approx(0.75 * probe.state["learned"])
    fresh = solver.solve(DenseOperator(matrix), rights[2])
    assert error(third.x, matrix, rights[2]) < 0.8 * error(fresh.x, matrix, rights[2])


def test_probes_keep_their_schedule_and_stop_where_the_residual_is_small(system):
    matrix, rights = draws(system, LOW_RANK, 12)
    for budget, probed in ((4, [1, 5, 9]), (40, [])):
        state, spent = None, []
        solver = Auto(tol=0.0, max_hvps=budget, probe_every=4)
        for b in rights:
            solution = solver.solve(DenseOperator(matrix), b, state=state)
            state = solution.state
            spent.append(solution.matvecs)
        assert [k for k, n in enumerate(spent) if n > budget] == probed
        assert state["solves"] == 12


def test_a_probe_finds_weak_negative_curvature_and_minres_is_kept(system):
    matrix, rights = draws(system, [-0.3, *[float(k) for k in range(1, 30)]], 3)
    state, choices = None, []
    solver = Auto(tol=0.0, max_hvps=2)
    for b in rights:
        state = solver.solve(DenseOperator(matrix), b, state=state).state
        choices.append(CHOICES[state["choice"]])
    assert choices == ["cg", "minres", "minres"]


def test_a_pivot_that_falls_at_once_is_not_trusted():
    """All Ritz values are positive, but the lowest is a sixth of what it was, and MINRES leaves a tenth of b."""
    diagonal = torch.cat([torch.linspace(0.3, 1, 12), torch.tensor([-0.02])]).double()
    b = torch.cat([torch.ones(12), torch.tensor([0.3])]).double()
    matrix = torch.diag(diagonal)
    solution = Auto(tol=0.0, max_hvps=4).solve(DenseOperator(matrix), b)
    assert CHOICES[solution.state["choice"]] == "minres"
    assert solution.state["lambda_min"] > 0
    cg = solvers.get("cg", tol=0.0, max_steps=4).solve(DenseOperator(matrix), b)
    assert error(solution.x, matrix, b) < 0.9 * error(cg.x, matrix, b)
    # The same fall where the flat rest after five outliers begins, on a positive definite matrix, is CG's.
    flat = torch.diag(torch.cat([torch.linspace(0.01, 0.1, 40), torch.linspace(1, 10, 5)]).double())
    for steps in range(2, 12):
        state = Auto(tol=0.0, max_hvps=steps).solve(DenseOperator(flat), torch.ones(45).double()).state
        assert CHOICES[state["choice"]] == "cg"


@pytest.mark.parametrize("max_basis", [0, 239])
def test_without_room_for_the_basis_the_answer_differs_by_rounding_only(max_basis, system):
    for spectrum in (SPECTRUM, [-5.0 + k for k in range(30)]):
        matrix, b = system(spectrum)
        kept, short = (Auto(tol=0.0, max_hvps=7, max_basis=m).solve(DenseOperator(matrix), b) for m in (240, max_basis))
        assert kept.detail == short.detail
        torch.testing.assert_close(kept.x, short.x, rtol=1e-9, atol=1e-12)
        assert not torch.equal(kept.x, short.x)  # 8 vectors of 30 numbers were kept, and then not


def test_kept_vectors_converge_where_short_recurrences_stall(system):
    """Ten outliers and a flat rest are eleven products; without the basis, rounding asks for more."""
    matrix, b = system([1e-3] * 40 + [10.0**k for k in (0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8)])
    for kept in (True, False):
        solver = Auto(tol=0.0, max_hvps=11, max_basis=10**6 if kept else 0)
        left = error(solver.solve(DenseOperator(matrix), b).x, matrix, b)
        assert (left < 1e-9) is kept


class Noisy(DenseOperator):
    """Products with noise of a size relative to theirs."""

    def __init__(self, matrix, size):
        super().__init__(matrix)
        self.size, self.generator = size, torch.Generator().manual_seed(0)

    def __matmul__(self, v):
        q = super().__matmul__(v)
        noise = torch.randn(len(q), generator=self.generator, dtype=q.dtype)
        return q + self.size * q.norm() / math.sqrt(len(q)) * noise


@pytest.mark.parametrize(("size", "choice"), [(0.02, "plain cg"), (0.5, "neumann")])
def test_noisy_products_lead_to_other_methods_until_the_next_probe(size, choice, system):
    matrix, rights = draws(system, [0.01 * k for k in range(1, 41)], 8)
    operator = Noisy(matrix, size)
    solver, state, choices = Auto(tol=0.0, max_hvps=20, probe_every=4), None, []
    for b in rights[:6]:
        solution = solver.solve(operator, b, state=state)
        state = solution.state
        assert not solution.status.failed
        choices.append(CHOICES[state["choice"]])
        assert error(solution.x, matrix, b) < (0.3 if choices[-1] == "plain cg" else 1.05)
    # Solves 0, 1 and 5 try Lanczos and find noise.
    assert [k for k, name in enumerate(choices) if name == choice] == [2, 3, 4]
    assert f"of noise, so {choice} next" in solution.detail
    calm = solver.solve(DenseOperator(matrix), rights[6], state={**state, "solves": 9})
    assert CHOICES[calm.state["choice"]] == "cg"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_symmetric_matrix_is_not_taken_for_a_noisy_one(dtype, system):
    for spectrum in (SPECTRUM, LOW_RANK, INDEFINITE):
        matrix, b = system(spectrum, dtype=dtype)
        state = Auto(tol=0.0, max_hvps=50).solve(DenseOperator(matrix), b).state
        assert state["noise"] < 5e-3


def test_a_doubled_lambda_max_follows_a_series_that_diverges(system):
    matrix, b = system([1.0, 2.0, 8.0])
    state = {"solves": 3, "noise": 1.0, "lambda_max": 1.0}
    solution = Auto(tol=0.0, max_hvps=5).solve(DenseOperator(matrix), b, state=state)
    assert solution.status is Status.DIVERGED
    assert solution.state["lambda_max"] == 2.0


def test_a_warm_start_counts_and_helps(system):
    matrix, b = system(SPECTRUM)
    solver = Auto(tol=0.0, max_hvps=10)
    cold = solver.solve(DenseOperator(matrix), b)
    warm = solver.solve(DenseOperator(matrix), b, x0=cold.x)
    assert warm.matvecs == 10
    assert error(warm.x, matrix, b) < error(cold.x, matrix, b)


FIXED = ("cg", "minres")


@pytest.mark.parametrize("budget", [2, 5, 10, 20, 50])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("spectrum", ["ill_1e2", "ill_1e3", "ill_1e6", "indefinite", "low_rank"])
def test_never_worse_than_the_best_fixed_choice_by_more_than_a_tenth(spectrum, seed, budget, system):
    """A single solve at equal products; ``benchmarks/auto.py`` has more problems, and says where this is not met."""
    values = {
        "ill_1e2": torch.logspace(-2, 0, 60),
        "ill_1e3": torch.logspace(-3, 0, 60),
        "ill_1e6": torch.logspace(-6, 0, 60),
        "indefinite": torch.cat([-torch.logspace(-2, 0, 30), torch.logspace(-2, 0, 30)]),
        "low_rank": torch.cat([torch.full((50,), 0.1), torch.logspace(0, 1, 10)]),
    }[spectrum].tolist()
    matrix, b = system(values, seed)
    b = matrix @ b if spectrum == "low_rank" else b
    top = max(values)
    candidates = [solvers.get("first_order")]
    candidates += [solvers.get("neumann", num_hvps=budget, alpha=c / top) for c in (0.1, 0.5, 1.0, 1.5, 1.9)]
    candidates += [solvers.get(name, tol=0.0, max_steps=budget) for name in FIXED]
    best = min(error(s.solve(DenseOperator(matrix), b).x, matrix, b) for s in candidates)
    solution = Auto(tol=0.0, max_hvps=budget).solve(DenseOperator(matrix), b)
    assert solution.matvecs == budget
    assert error(solution.x, matrix, b) <= max(1.1 * best, 1e-10)
