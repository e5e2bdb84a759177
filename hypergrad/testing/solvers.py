"""The conformance suite of a solver: what every solver must do, whatever its method."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.solvers.base import Solution, Solver, Status


class DenseOperator:
    """A matrix as a :class:`~hypergrad.solvers.base.LinearOperator` that counts its products.

    Args:
        matrix: ``(P, P)``.

    Attributes:
        matvecs: products so far; :meth:`dense` counts P of them.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InvalidInputError(f"A DenseOperator takes a square matrix; got the shape {tuple(matrix.shape)}.")
        self.matrix = matrix
        self.matvecs = 0

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``."""
        return (self.matrix.shape[0], self.matrix.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Of the matrix."""
        return self.matrix.device

    def __matmul__(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """One product."""
        self.matvecs += 1
        return self.matrix @ v

    def dense(self) -> Tensor:  # (P, P)
        """The matrix, at the price of P products."""
        self.matvecs += self.matrix.shape[0]
        return self.matrix.clone()


def check_solver(solver: Solver) -> None:
    """Assert that a solver keeps the contract of :class:`~hypergrad.solvers.base.Solver`.

    It is a frozen, keyword-only dataclass that checks its options; it keeps shape, dtype and device; it is
    deterministic, changes none of its arguments, counts its products, answers ``b = 0`` with 0, takes a warm start and
    the state that it returned, and returns a status instead of raising on NaN and on an indefinite matrix. How
    accurate it is, is a matter of the method and not checked, except that CONVERGED must mean a small residual.

    Args:
        solver: an object, with the options to test it with.

    Raises:
        AssertionError: the sentence says what is wrong.

    Example:
        >>> import hypergrad
        >>> check_solver(hypergrad.solvers.get("cg", max_steps=5))
    """
    _check_class(solver)
    for dtype in (torch.float32, torch.float64):
        for size in (1, 6):
            matrix, b = _system(size, dtype)
            _check_solve(solver, matrix, b)
    _check_trouble(solver)


def _system(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A positive definite matrix with eigenvalues in [1, 2], and a right-hand side."""
    generator = torch.Generator().manual_seed(size)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    matrix = q @ torch.diag(torch.linspace(1, 2, size, dtype=torch.float64)) @ q.T
    return matrix.to(dtype), torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def _check_class(solver: Solver) -> None:
    name = type(solver).__name__
    assert isinstance(solver, Solver), f"{name} has no solve method"
    assert dataclasses.is_dataclass(solver), f"{name} must be a dataclass, so that its fields are its options"
    parameters = getattr(type(solver), "__dataclass_params__")  # noqa: B009  (mypy does not know the attribute)
    assert parameters.frozen, f"{name} must be frozen: @dataclass(frozen=True, kw_only=True)"
    for f in dataclasses.fields(solver):
        assert f.kw_only, f"option {f.name!r} of {name} must be keyword-only"
        for wrong in (object(), math.nan, "no such value"):
            try:
                dataclasses.replace(solver, **{f.name: wrong})
            except InvalidInputError as error:
                assert f.name in str(error), f"the message for {name}({f.name}={wrong!r}) must name the option: {error}"
                continue
            except Exception as error:
                raise AssertionError(
                    f"{name}({f.name}={wrong!r}) must raise InvalidInputError; got {error!r}"
                ) from error
            raise AssertionError(f"{name}({f.name}={wrong!r}) must raise InvalidInputError, but was accepted")


def _solve(solver: Solver, matrix: Tensor, b: Tensor, **keywords: Any) -> Solution:
    """Solve, and check what holds for every solution."""
    name = type(solver).__name__
    operator, before = DenseOperator(matrix), b.clone()
    solution = solver.solve(operator, b, **keywords)
    assert isinstance(solution, Solution), f"{name}.solve must return a Solution; got {solution!r}"
    assert isinstance(solution.status, Status), f"{name}: status must be a Status; got {solution.status!r}"
    assert torch.equal(b, before) or bool(before.isnan().any()), f"{name}.solve changed b"
    x = solution.x
    for what, got, expected in (
        ("shape", x.shape, b.shape),
        ("dtype", x.dtype, b.dtype),
        ("device", x.device, b.device),
    ):
        assert got == expected, f"{name}: x must have the {what} of b, {expected}; got {got}"
    assert x.data_ptr() != b.data_ptr(), f"{name}: x must not share memory with b"
    assert solution.matvecs == operator.matvecs, (
        f"{name} reports {solution.matvecs} products, but {operator.matvecs} were made"
    )
    residual = solution.residual
    assert residual is None or (isinstance(residual, Tensor) and residual.shape == ()), (
        f"{name}: residual must be a 0-d tensor or None; got {residual!r}"
    )
    for key, value in solution.state.items():
        assert isinstance(value, Tensor | int | float), (
            f"{name}: state[{key!r}] must be a tensor or a plain number, to be saved; got {type(value).__name__}"
        )
    return solution


def _check_solve(solver: Solver, matrix: Tensor, b: Tensor) -> None:
    name = type(solver).__name__
    first = _solve(solver, matrix, b)
    assert bool(first.x.isfinite().all()), f"{name}: x is not finite on a well-conditioned matrix"
    assert not first.status.failed or first.status in (Status.MAX_STEPS, Status.DIVERGED), (
        f"{name}: status {first.status} on a well-conditioned positive definite matrix"
    )
    if first.status is Status.CONVERGED:
        residual = float(torch.linalg.vector_norm(b - matrix @ first.x) / torch.linalg.vector_norm(b))
        assert residual < 0.1, f"{name} reports CONVERGED with a relative residual of {residual:.3g}"
    again = _solve(solver, matrix, b)
    assert torch.equal(first.x, again.x), f"{name} is not deterministic: two equal calls differ"
    for keywords in ({"x0": first.x}, {"state": first.state}, {"x0": first.x, "state": first.state}):
        kept = {k: v.clone() if isinstance(v, Tensor) else dict(v) for k, v in keywords.items()}
        _solve(solver, matrix, b, **keywords)
        assert _same(kept, keywords), f"{name}.solve changed its argument {' or '.join(keywords)}"
    for keywords in ({}, {"x0": torch.ones_like(b)}, {"state": first.state}):
        zero = _solve(solver, matrix, torch.zeros_like(b), **keywords)
        assert not zero.status.failed, f"{name}: status {zero.status} for b = 0"
        assert bool((zero.x == 0).all()), f"{name}: b = 0 must give x = 0; got {zero.x} with {sorted(keywords)}"
        assert zero.residual is None or float(zero.residual) == 0, f"{name}: residual {zero.residual} for b = 0"
    then = _solve(solver, matrix, b, state=zero.state)
    assert bool(then.x.isfinite().all()), f"{name}: the state left by b = 0 spoils the next solve"


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    for key, value in a.items():
        other = b[key]
        if isinstance(value, Mapping):
            if not _same(value, other):
                return False
        elif isinstance(value, Tensor):
            if not torch.equal(value, other):
                return False
        elif value != other:
            return False
    return True


def _check_trouble(solver: Solver) -> None:
    name = type(solver).__name__
    matrix, b = _system(6, torch.float64)
    cases = {
        "an indefinite matrix": matrix - 1.5 * torch.eye(6, dtype=torch.float64),
        "a matrix of zeros": torch.zeros_like(matrix),
        "a matrix with NaN": torch.full_like(matrix, math.nan),
        "a matrix with infinity": torch.full_like(matrix, math.inf),
    }
    for what, case in cases.items():
        try:
            solution = _solve(solver, case, b)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{name} must return a status on {what}, and not raise: {error!r}") from error
        if not bool(solution.x.isfinite().all()):
            assert solution.status.failed, f"{name}: x is not finite on {what}, but the status is {solution.status}"
        if solution.matvecs and "NaN" in what:
            assert solution.status is Status.NONFINITE, f"{name}: status {solution.status} on {what}"
    misfits = ((b[:-1], None), (b[:, None], None), (b.float(), None), (b, b[:-1]))
    for wrong, x0 in misfits:
        try:
            solver.solve(DenseOperator(matrix), wrong, x0=x0)
        except InvalidInputError:
            continue
        except Exception as error:
            raise AssertionError(
                f"{name}: a vector that does not fit must raise InvalidInputError: {error!r}"
            ) from error
        raise AssertionError(f"{name} accepted a vector that does not fit: {tuple(wrong.shape)}, {wrong.dtype}")
