"""MINRES: the smallest residual over the Krylov space, for indefinite matrices too."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.numerics import check_system, divide, norm, start, to_host
from hypergrad.solvers.options import check_integer, check_real


@dataclass(frozen=True, kw_only=True)
class Minres:
    """Paige and Saunders' method: minimise ``||b - A x||`` over the Krylov space, by Lanczos and Givens rotations.

    Converges for every symmetric ``A``, indefinite included, that has ``b`` in its range, in as many steps as there are
    distinct eigenvalues. One product a step, and one for a warm start (dropped where it is worse than zero). The
    residual never grows, and comes from the recurrence. At a saddle of the inner loss the answer is that of the linear
    system; the implicit function theorem holds there, though ``w`` is no minimum.

    CONVERGED at ``||b - A x|| <= tol ||b||``, else MAX_STEPS; where ``A`` is singular and ``b`` outside of its range,
    the last iterate before the breakdown is returned and ``detail`` says so. With ``tol=0`` the budget is fixed:
    TRUNCATED, and the host reads once, at the end.

    Args:
        max_steps: most steps.
        tol: relative residual to stop at, in ``[0, 1)``; 0 for a fixed budget.
        check_every: steps between two readings by the host.

    Raises:
        InvalidInputError: an option out of its range.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> Minres().solve(DenseOperator(torch.diag(torch.tensor([1.0, -4.0]))), torch.ones(2)).x
        tensor([ 1.0000, -0.2500])

    Reference:
        Paige and Saunders, SIAM Journal on Numerical Analysis 12 (1975), section 6.
    """

    max_steps: int = 20
    tol: float = 1e-5
    check_every: int = 1

    def __post_init__(self) -> None:
        check_integer("max_steps", self.max_steps, minimum=1)
        check_real("tol", self.tol, low=0.0, below=1.0)
        check_integer("check_every", self.check_every, minimum=1)

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Iterate; the state is not used.

        Raises:
            InvalidInputError: ``b`` or ``x0`` does not fit ``A``.
        """
        check_system(A, b, x0)
        eps = torch.finfo(b.dtype).eps
        enough = max(self.tol, eps)
        rounding = 10 * eps  # relative to the largest entry of the tridiagonal matrix
        x, r, matvecs = start(A, b, x0)
        # In units of ||b||, so that squares of a tiny gradient do not underflow.
        unit = norm(b)
        x, r = divide(x, unit), divide(r, unit)

        eta = norm(r)  # the residual's norm, with the sign that the rotations give it
        v, v_old = divide(r, eta), torch.zeros_like(r)
        w, w_old = torch.zeros_like(r), torch.zeros_like(r)
        beta, one, zero = torch.zeros_like(eta), torch.ones_like(eta), torch.zeros_like(eta)
        cos, cos_old, sin, sin_old = one, one, zero, zero
        largest, alive = zero, eta > enough
        stuck, broken = torch.zeros_like(alive), torch.zeros_like(alive)
        for step in range(self.max_steps):
            if self.tol and step % self.check_every == 0 and not to_host(alive.to(b.dtype))[0]:
                break
            # Lanczos: column (beta, alpha, beta_next) of the tridiagonal matrix.
            q = A @ v - beta * v_old
            matvecs += 1
            alpha = v.dot(q)
            q = q - alpha * v
            beta_next = norm(q)
            # The two earlier rotations on that column, then a new one that removes beta_next.
            above2 = sin_old * beta
            above1 = cos * cos_old * beta + sin * alpha
            pivot = cos * alpha - sin * cos_old * beta
            size = alpha.abs() + beta + beta_next
            finite = size.isfinite()
            largest = torch.where(finite, torch.maximum(largest, size), largest)
            diagonal = torch.hypot(pivot, beta_next)
            # A diagonal at the level of rounding: the Krylov space is exhausted, and A singular on it. Masks freeze
            # everything from here on.
            good = alive & finite & (diagonal > rounding * largest)
            stuck, broken = stuck | (alive & finite & good.logical_not()), broken | (alive & finite.logical_not())
            cos_old, sin_old = cos, sin
            cos, sin = divide(pivot, diagonal), divide(beta_next, diagonal)
            w, w_old = divide(v - above2 * w_old - above1 * w, diagonal), w
            x = torch.where(good, x + cos * eta * w, x)
            eta = torch.where(good, -sin * eta, eta)
            v, v_old, beta = divide(q, beta_next), v, beta_next
            alive = good & (eta.abs() > enough)

        residual, is_stuck, is_broken = to_host(eta.abs(), stuck, broken)
        detail = ""
        if is_broken or not math.isfinite(residual):
            status = Status.NONFINITE
        elif residual <= enough and self.tol:
            status = Status.CONVERGED
        else:
            status = Status.MAX_STEPS if self.tol else Status.TRUNCATED
            if is_stuck:
                detail = (
                    f"The matrix is singular and b is not in its range; a relative residual of {residual:.3g} stays."
                )
        return Solution(x=x * unit, status=status, matvecs=matvecs, residual=eta.abs(), detail=detail)
