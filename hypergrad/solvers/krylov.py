"""One Lanczos run that has the iterates of CG and of MINRES, and the extreme curvature, at the price of one of them."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator
from hypergrad.solvers.numerics import divide, norm, slack, to_host


@dataclass
class Seen:
    """A run as the host sees it.

    Attributes:
        alphas, betas, pivots, squares: for each product that counted: diagonal and off-diagonal entry of the
            tridiagonal matrix (``betas[k]`` couples k - 1 and k), pivot of its LDL factorisation (1 / CG's step
            length), squared residual of CG before the step.
        definite: positive definite as far as was seen.
        broken: a product was not finite.
        asymmetry: see :func:`run_krylov`.
        first, cg, minres: norms of the residuals of the start, of CG and of MINRES.
    """

    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    pivots: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    definite: bool = True
    broken: bool = False
    asymmetry: float = 0.0
    first: float = 0.0
    cg: float = 0.0
    minres: float = 0.0

    def best_step(self, after: int) -> float:
        """The free step that would have been best after so many products, from below; 0 where none was proved good.

        With e the squared A-norm of the error, the best is ``e / |r|^2``, and e the sum of ``gamma |r|^2`` over all
        further steps, of which those that were taken are known.
        """
        if not self.definite or len(self.pivots) <= after:
            return 0.0
        gained = sum(s / p for s, p in zip(self.squares[after:], self.pivots[after:], strict=True))
        return gained / self.squares[after]


@dataclass(frozen=True)
class KrylovRun:
    """A finished run, vectors ``(P,)`` on the device.

    Attributes:
        cg: the last iterate of conjugate gradients before a curvature that is not positive.
        minres: the last iterate of MINRES.
        direction: the conjugate direction that CG would take next, for which no product was spent.
        remainder: the residual vector of MINRES.
        seen: the numbers.
        products: with ``A``, spent.
    """

    cg: Tensor
    minres: Tensor
    direction: Tensor
    remainder: Tensor
    seen: Seen
    products: int


def run_krylov(
    A: LinearOperator,
    r: Tensor,  # (P,)
    *,
    steps: int,
    enough: float,
    wait: int,
    largest_asymmetry: float,
) -> KrylovRun:
    """Approximate ``A d = r`` from ``d = 0``.

    Lanczos gives ``A V = V T`` with ``T`` tridiagonal. CG solves with ``T`` by the LDL factorisation, which breaks down
    where ``T`` is not positive definite; MINRES by rotations, which do not. Both are three-term recurrences on the
    vectors at hand. For a symmetric ``A`` the product of the newest vector has with the one before it the inner
    product that the recurrence already knows; by how much it differs, relative to the largest curvature, is the
    ``asymmetry``: rounding for a symmetric matrix, else the noise or the asymmetry of the products, at no product.

    Args:
        A: the operator.
        r: the right-hand side, the residual of the start; every decision is a mask, so 0 is no special case.
        steps: most products.
        enough: the residual's norm to stop at.
        wait: steps between two readings by the host, 0 for none (then all products are spent).
        largest_asymmetry: a step above it, and those after it, change nothing.

    Reference:
        Paige and Saunders, SIAM Journal on Numerical Analysis 12 (1975), sections 4 and 6.
    """
    eps = torch.finfo(r.dtype).eps
    rounding = 10 * eps
    eta = first = norm(r)
    one, zero = torch.ones_like(eta), torch.zeros_like(eta)
    v, v_old = divide(r, eta), torch.zeros_like(r)
    w, w_old, minres, cg, p = (torch.zeros_like(r) for _ in range(5))
    p, remainder = p + r, r
    beta, largest, asymmetry, residual = zero, zero, zero, eta
    cos, cos_old, sin, sin_old, pivot_old = one, one, zero, zero, one
    alive = eta > enough
    definite = torch.ones_like(alive)
    broken, asymmetric = torch.zeros_like(alive), torch.zeros_like(alive)
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    for step in range(steps):
        if wait and step % wait == 0 and not to_host(alive.to(r.dtype))[0]:
            break
        q = A @ v
        known = v_old.dot(q)
        q = q - beta * v_old
        alpha = v.dot(q)
        q = q - alpha * v
        beta_next = norm(q)
        size = alpha.abs() + beta + beta_next
        finite = size.isfinite()
        largest = torch.where(finite, torch.maximum(largest, size), largest)
        # Next to a tiny beta the vectors are as far from orthogonal as rounding is large beside it.
        genuine = finite & (beta > slack(r.dtype) * largest)
        off = torch.where(genuine, divide((known - beta).abs(), largest), 0.0)
        asymmetry = torch.where(alive, torch.maximum(asymmetry, off), asymmetry)
        broken = broken | (alive & finite.logical_not())
        asymmetric = asymmetric | (alive & finite & (off > largest_asymmetry))
        alive = alive & finite & asymmetric.logical_not()

        # MINRES: the two earlier rotations on the column (beta, alpha, beta_next) of T, and a new one.
        above2 = sin_old * beta
        above1 = cos * cos_old * beta + sin * alpha
        corner = cos * alpha - sin * cos_old * beta
        diagonal = torch.hypot(corner, beta_next)
        good = alive & (diagonal > rounding * largest)
        cos_old, sin_old = cos, sin
        cos, sin = divide(corner, diagonal), divide(beta_next, diagonal)
        w, w_old = divide(v - above2 * w_old - above1 * w, diagonal), w
        minres = torch.where(good, minres + cos * eta * w, minres)
        eta = torch.where(good, -sin * eta, eta)
        v_next = divide(q, beta_next)
        remainder = torch.where(good, sin**2 * remainder + cos * eta * v_next, remainder)

        # CG: the pivot is the curvature p^T A p / r^T r of its direction.
        pivot = alpha - divide(beta**2, pivot_old)
        definite = definite & (alive.logical_not() | (pivot > rounding * largest))
        rows.append((alpha, beta, pivot, residual**2, alive))
        go = alive & definite
        cg = torch.where(go, cg + divide(p, pivot), cg)
        shrink = divide(beta_next, pivot)
        v, v_old, beta, pivot_old = v_next, v, beta_next, pivot
        # The residual of CG is the next Lanczos vector, with alternating sign.
        residual_next = residual * shrink
        p = torch.where(go, (1.0 if step % 2 else -1.0) * residual_next * v + shrink**2 * p, p)
        residual = torch.where(go, residual_next, residual)
        alive = good & (torch.where(definite, residual, eta.abs()) > enough)

    numbers = to_host(first, residual, eta, asymmetry, definite, broken, *(n for row in rows for n in row))
    counted = [numbers[k : k + 5] for k in range(6, len(numbers), 5) if numbers[k + 4]]
    alphas, betas, pivots, squares = ([row[c] for row in counted] for c in range(4))
    seen = Seen(
        *(alphas, betas, pivots, squares),
        definite=numbers[4] > 0,
        broken=numbers[5] > 0 or not all(math.isfinite(n) for n in numbers[:3]),
        asymmetry=numbers[3],
        first=numbers[0],
        cg=numbers[1],
        minres=abs(numbers[2]),
    )
    return KrylovRun(cg=cg, minres=minres, direction=p, remainder=remainder, seen=seen, products=len(rows))


def ritz_range(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """Extreme eigenvalues of the tridiagonal matrix: ``lambda_min <= low`` and ``high <= lambda_max``; 0, 0 if empty.

    Args:
        alphas: its diagonal.
        betas: entry k couples rows k - 1 and k; the first is not used.
    """
    if not alphas:
        return 0.0, 0.0
    matrix = np.diag(alphas) + np.diag(betas[1:], 1) + np.diag(betas[1:], -1)
    values = np.linalg.eigvalsh(matrix)
    return float(values[0]), float(values[-1])
