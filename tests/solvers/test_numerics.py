"""The shared helpers: Ritz values as certificates, division without 0/0."""

import pytest
import torch

from hypergrad.solvers.numerics import divide, relative, ritz


def test_ritz_values_never_leave_the_spectrum(system):
    for seed in range(10):
        spectrum = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        matrix, v = system(spectrum, seed)
        low, high = ritz(v, matrix @ v, matrix @ (matrix @ v))
        (quotient, same) = ritz(v, matrix @ v, None)
        assert float(spectrum.min()) <= float(low) <= float(quotient) <= float(high) <= float(spectrum.max())
        assert quotient == same


def test_ritz_values_are_exact_for_two_eigenvalues(system):
    matrix, v = system([-1.0, -1.0, 4.0, 4.0])
    low, high = ritz(v, matrix @ v, matrix @ (matrix @ v))
    assert (float(low), float(high)) == pytest.approx((-1, 4), rel=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e-21, 1e18])
def test_ritz_values_keep_their_digits_near_underflow_and_overflow(size, system):
    matrix, v = system([1.0, 2.0, 3.0], dtype=torch.float64)
    matrix, v = matrix.float(), v.float()
    expected = ritz(v, matrix @ v, matrix @ (matrix @ v))
    w = v * size
    found = ritz(w, matrix @ w, matrix @ (matrix @ w))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_ritz_values_of_an_eigenvector_and_of_zero(system):
    matrix = torch.diag(torch.tensor([2.0, 5.0], dtype=torch.float64))
    v = torch.tensor([0.0, 3.0], dtype=torch.float64)
    assert [float(x) for x in ritz(v, matrix @ v, matrix @ (matrix @ v))] == [5, 5]
    assert [float(x) for x in ritz(0 * v, 0 * v, 0 * v)] == [0, 0]


def test_division_by_zero_is_zero():
    zero, one = torch.zeros(()), torch.ones(())
    assert (float(divide(one, zero)), float(divide(one, 4 * one))) == (0, 0.25)
    assert (float(relative(zero, zero)), float(relative(one, 2 * one))) == (0, 0.5)
