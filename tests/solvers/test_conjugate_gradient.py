"""Conjugate gradients decide by branches on the CPU and by masks elsewhere: one method, told apart by nothing."""

import math

import pytest
import torch

from hypergrad import solvers
from hypergrad.solvers import conjugate_gradient
from hypergrad.solvers.preconditioners import Diagonal
from hypergrad.testing import DenseOperator


def _matrix(kind: str, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(-1, 1, 9, dtype=torch.float64)
    if kind == "indefinite":
        values[3] = -0.3
    if kind == "negative":
        values = -values
    if kind == "singular":
        values[0] = 0.0
    if kind == "identity":
        values = torch.ones(9, dtype=torch.float64)
    matrix = (q * values) @ q.T
    if kind == "nan":
        matrix[2, 2] = math.nan
    if kind == "infinite":
        matrix[2, 2] = math.inf
    return matrix.to(dtype)


def _solve(kind, dtype, b, x0, preconditioned, steps, monkeypatch, loop, **options):
    if loop == "masks":
        monkeypatch.setattr(conjugate_gradient, "_with_branches", conjugate_gradient._with_masks)
    preconditioner = Diagonal(values=torch.arange(1, 10, dtype=dtype)) if preconditioned else None
    solver = solvers.get("cg", max_steps=steps, preconditioner=preconditioner, **options)
    return solver.solve(DenseOperator(_matrix(kind, dtype)), b, x0=x0)


@pytest.mark.parametrize("kind", ["definite", "indefinite", "negative", "singular", "identity", "nan", "infinite"])
@pytest.mark.parametrize("start", ["cold", "warm", "exact", "zero"])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("options", [{"tol": 0.0}, {"tol": 1e-5}, {"tol": 1e-2, "check_every": 3}])
def test_branches_and_masks_are_one_method(kind, start, preconditioned, options, monkeypatch):
    generator = torch.Generator().manual_seed(4)
    b = torch.randn(9, generator=generator, dtype=torch.float64)
    x0 = {"warm": torch.full_like(b, 0.01), "exact": b if kind == "identity" else None}.get(start)
    if start == "zero":
        b = torch.zeros_like(b)
    if kind == "singular":
        b = _matrix(kind, b.dtype) @ b
    # Beyond the exhausted Krylov space, which a fixed budget may go, rounding decides.
    for steps in (1, 4, 7 if options["tol"] == 0 else 20):
        found = [
            _solve(kind, b.dtype, b, x0, preconditioned, steps, monkeypatch, loop, **options)
            for loop in ("branches", "masks")
        ]
        monkeypatch.undo()
        branches, masks = found
        assert branches.status is masks.status and branches.matvecs == masks.matvecs
        assert torch.allclose(branches.x, masks.x, rtol=1e-6, atol=1e-9, equal_nan=True)
        assert torch.allclose(branches.residual, masks.residual, rtol=1e-6, atol=2e-6, equal_nan=True)
        assert branches.detail == masks.detail


def test_in_single_precision_they_agree_to_rounding(monkeypatch):
    b = torch.ones(9)
    branches, masks = (
        _solve("definite", b.dtype, b, None, False, 6, monkeypatch, loop, tol=0.0) for loop in ("branches", "masks")
    )
    assert branches.x.dtype == branches.residual.dtype == torch.float32
    assert torch.allclose(branches.x, masks.x, rtol=1e-4)


def test_what_a_solve_is_given_stays_as_it_was():
    matrix, b = _matrix("definite", torch.float64), torch.ones(9, dtype=torch.float64)
    x0 = torch.full_like(b, 0.01)
    solvers.get("cg", max_steps=5).solve(DenseOperator(matrix), b, x0=x0)
    assert torch.equal(b, torch.ones_like(b)) and torch.equal(x0, torch.full_like(b, 0.01))
