"""The oracle: form the matrix, factorise it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.numerics import check_system, norm, relative, slack, to_host


@dataclass(frozen=True, kw_only=True)
class Dense:
    """``x = A^-1 b`` by an LU factorisation of ``A.dense()``: the oracle for small problems.

    Costs P products and ``P^2`` memory. The matrix is taken as the products give it, not symmetrised, so that a loss
    whose Hessian is not symmetric (noise redrawn per product) shows instead of being averaged away. A singular matrix
    gives the least-squares answer of smallest norm: CONVERGED when that solves the system, else MAX_STEPS, whose
    advice (add damping) is the right one. The warm start and the state are not used.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> Dense().solve(DenseOperator(torch.diag(torch.tensor([1.0, 4.0]))), torch.ones(2)).x
        tensor([1.0000, 0.2500])
    """

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Solve ``A x = b``. The residual is the true one.

        Raises:
            InvalidInputError: ``b`` or ``x0`` does not fit ``A``.
        """
        check_system(A, b, x0)
        matrix = A.dense()  # (P, P)
        matvecs = A.shape[0]
        (finite,) = to_host((matrix.isfinite().all() & b.isfinite().all()).to(b.dtype))
        if not finite:
            x = torch.full_like(b, math.nan)
            return Solution(x=x, status=Status.NONFINITE, matvecs=matvecs, residual=norm(x), detail="")
        # LU without pivots' error check: a zero pivot is answered below, not raised.
        x, _ = torch.linalg.solve_ex(matrix, b)
        residual = relative(norm(b - matrix @ x), norm(b))
        (seen,) = to_host(residual)
        detail = ""
        if not seen <= slack(b.dtype):
            x = torch.linalg.pinv(matrix) @ b
            residual = relative(norm(b - matrix @ x), norm(b))
            (seen,) = to_host(residual)
            detail = (
                f"The matrix is singular to working precision; least squares leaves a relative residual of {seen:.3g}."
            )
        status = Status.CONVERGED if seen <= slack(b.dtype) else Status.MAX_STEPS
        return Solution(x=x, status=status, matvecs=matvecs, residual=residual, detail=detail)
