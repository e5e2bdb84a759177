"""The same run with its basis kept: orthogonal to rounding, scalars on the host, vectors formed once at the end."""

import math

import numpy as np
import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator
from hypergrad.solvers.krylov import KrylovRun, Seen
from hypergrad.solvers.numerics import norm, slack, to_host


def run_lanczos(
    A: LinearOperator,
    r: Tensor,  # (P,)
    *,
    steps: int,
    enough: float,
    wait: int,
    largest_asymmetry: float,
) -> KrylovRun:
    """What :func:`~hypergrad.solvers.krylov.run_krylov` does, from ``steps + 1`` vectors that are kept.

    Short recurrences lose the orthogonality of the Lanczos vectors as soon as a Ritz value has converged, and CG then
    needs products that exact arithmetic would not. Here each new vector is orthogonalised against all others, twice,
    which costs ``8 P`` operations for each of them. In return a step is a handful of operations on vectors: the
    iterates of CG and MINRES are linear combinations of the basis whose coefficients the host finds afterwards.

    Args:
        A, r, steps, enough, wait, largest_asymmetry: see there.

    Reference:
        Parlett, The Symmetric Eigenvalue Problem, 1998, sections 6.9 ("twice is enough") and 13.3 (the loss of
        orthogonality); Paige and Saunders, SIAM Journal on Numerical Analysis 12 (1975), sections 4 and 6.
    """
    basis = torch.empty(steps + 1, len(r), dtype=r.dtype, device=r.device)
    first = norm(r)
    _normalise(r, first, basis.select(0, 0))
    host = _Recurrence(enough, torch.finfo(r.dtype).eps, slack(r.dtype), largest_asymmetry)
    unread: list[Tensor] = []
    products = 0
    for step in range(steps):
        if wait and step % wait == 0:
            host.take(to_host(first, *unread))
            unread = []
            if not host.alive:
                break
        known = basis.narrow(0, 0, step + 1)
        q = A @ known.select(0, step)
        products += 1
        inner = known @ q  # all but the last two are rounding
        q = q - known.T @ inner
        q = q - known.T @ (known @ q)
        size = norm(q)
        _normalise(q, size, basis.select(0, step + 1))
        unread += [inner.select(0, step - 1) if step else torch.zeros_like(size), inner.select(0, step), size]
    if unread or not host.started:
        host.take(to_host(first, *unread))
    count = len(host.seen.alphas) + 1
    columns = torch.from_numpy(host.coefficients(count)).to(r)  # (count, 4)
    cg, minres, direction, remainder = (basis.narrow(0, 0, count).T @ columns).unbind(1)
    return KrylovRun(cg=cg, minres=minres, direction=direction, remainder=remainder, seen=host.seen, products=products)


def _normalise(v: Tensor, size: Tensor, out: Tensor) -> None:
    torch.div(v, torch.where(size != 0, size, 1.0), out=out)  # 0 stays 0


class _Recurrence:
    """CG and MINRES on the tridiagonal matrix, a row at a time; what follows the end of the iteration is ignored."""

    def __init__(self, enough: float, eps: float, slack: float, largest_asymmetry: float) -> None:
        self.enough, self.rounding, self.slack, self.limit = enough, 10 * eps, slack, largest_asymmetry
        self.seen = Seen()
        self.started = self.alive = False
        self.largest = self.beta = self.sin = self.sin_old = 0.0
        self.cos = self.cos_old = self.pivot = 1.0
        self.turns: list[tuple[float, ...]] = []  # of MINRES: column of the triangle, right-hand side, cos, sin, eta
        self.shrinks: list[float] = []  # of CG

    def take(self, numbers: list[float]) -> None:
        """The norm of the start, and for each new product ``v_old . q``, ``v . q`` and the norm of what is left."""
        if not self.started:
            self.started = True
            self.seen.first = self.seen.cg = self.seen.minres = self.eta = numbers[0]
            self.seen.broken = not math.isfinite(numbers[0])
            self.alive = numbers[0] > self.enough and not self.seen.broken
        for k in range(1, len(numbers), 3):
            if self.alive:
                self._row(*numbers[k : k + 3])

    def _row(self, known: float, alpha: float, beta_next: float) -> None:
        seen, beta = self.seen, self.beta
        size = abs(alpha) + beta + beta_next
        if not math.isfinite(size):
            seen.broken, self.alive = True, False
            return
        self.largest = max(self.largest, size)
        # Next to a tiny beta the vectors are as far from orthogonal as rounding is large beside it.
        off = abs(known - beta) / self.largest if beta > self.slack * self.largest else 0.0
        seen.asymmetry = max(seen.asymmetry, off)
        if off > self.limit:
            self.alive = False
            return

        # MINRES: the two earlier rotations on the column (beta, alpha, beta_next) of T, and a new one.
        above2 = self.sin_old * beta
        above1 = self.cos * self.cos_old * beta + self.sin * alpha
        corner = self.cos * alpha - self.sin * self.cos_old * beta
        diagonal = math.hypot(corner, beta_next)
        good = diagonal > self.rounding * self.largest
        if good:
            self.cos_old, self.sin_old = self.cos, self.sin
            self.cos, self.sin = corner / diagonal, beta_next / diagonal
            side, self.eta = self.cos * self.eta, -self.sin * self.eta
            self.turns.append((above2, above1, diagonal, side, self.cos, self.sin, self.eta))
            seen.minres = abs(self.eta)

        # CG: the pivot is the curvature p^T A p / r^T r of its direction.
        pivot = alpha - beta**2 / self.pivot if self.pivot else alpha
        seen.definite = seen.definite and pivot > self.rounding * self.largest
        seen.alphas.append(alpha)
        seen.betas.append(beta)
        seen.pivots.append(pivot)
        seen.squares.append(seen.cg**2)
        if seen.definite:
            self.shrinks.append(beta_next / pivot)
            seen.cg *= self.shrinks[-1]
        self.beta, self.pivot = beta_next, pivot
        self.alive = good and (seen.cg if seen.definite else seen.minres) > self.enough

    def coefficients(self, count: int) -> np.ndarray:
        """``(count, 4)``: CG, MINRES, CG's next direction and the residual of MINRES, in terms of the basis."""
        cg, minres, direction, remainder = columns = np.zeros((4, count))
        direction[0] = remainder[0] = self.seen.first
        residual = self.seen.first
        for k, shrink in enumerate(self.shrinks):
            cg += direction / self.seen.pivots[k]
            residual *= -shrink
            direction *= shrink**2
            direction[k + 1] = residual  # the residual of CG is the next Lanczos vector, with alternating sign
        for k, (*_, cos, sin, eta) in enumerate(self.turns):
            remainder *= sin**2
            remainder[k + 1] = cos * eta
        later = (0.0, 0.0)  # above2 of the column after the next and above1 of the next, times their coefficients
        for k in reversed(range(len(self.turns))):
            above2, above1, diagonal, side = self.turns[k][:4]
            minres[k] = (side - later[1]) / diagonal
            later = (above2 * minres[k], above1 * minres[k] + later[0])
        return columns.T.copy()
