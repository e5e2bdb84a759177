"""The truncated Neumann series, with a step size given or found, and divergence noticed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.numerics import (
    check_system,
    check_vector,
    divide,
    norm,
    relative,
    ritz,
    slack,
    start,
    to_host,
)
from hypergrad.solvers.options import check_integer, check_real
from hypergrad.solvers.preconditioners import (
    Apply,
    Option,
    prepare,
    resolve,
)

_MAX_RESTARTS = 4  # of alpha="auto"; each lowers alpha at least by half


@dataclass(frozen=True, kw_only=True)
class Neumann:
    """``x = alpha sum_{j=0..J} (I - alpha A)^j b = A^-1 [I - (I - alpha A)^(J+1)] b``, at the price of J products.

    Converges to ``A^-1 b`` with J for ``0 < alpha < 2 / lambda_max`` and ``A`` positive definite; per eigenvalue the
    relative error is ``(1 - alpha lambda)^(J+1)``. With ``alpha lambda_max`` far below 1 the answer is close to
    ``alpha (J+1) b``, the first-order method; ``detail`` says so. The factor alpha in front of the sum is part of the
    answer (MADAO's eq. (6) omits it). From a warm start it is Richardson's iteration ``x <- x + alpha (b - A x)``,
    still with J products (the first gives ``b - A x0``, so there is one term less; a start worse than zero is dropped).

    The budget is fixed: TRUNCATED when all is well, and the host reads once, after the last product, to report

    - DIVERGED: an eigenvalue above ``2 / alpha`` was seen; ``detail`` names the bound;
    - NEGATIVE_CURVATURE: the residual grows because of an eigenvalue below 0;
    - NONFINITE: a product was not finite.

    With a preconditioner M it is the series of ``M^-1 A`` on ``M^-1 b``: everything above holds with the eigenvalues of
    ``M^-1 A``, for alpha too. An exact solve has no bias from it; a truncated one multiplies each eigendirection of
    ``M^-1 A`` by ``1 - (1 - alpha lambda)^(J+1)``.

    With ``num_hvps=0`` nothing can be checked. ``residual`` is that of the answer one product shorter, which is free.

    Args:
        num_hvps: J, products with ``A``; J + 1 terms.
        alpha: the step, in units of 1 / curvature, or ``"auto"``: ``safety / lambda_max`` from power iterations, and
            the series again with a lower alpha (at most 4 times) where it diverges all the same. The vector and the
            chosen ``alpha`` (so ``lambda_max`` was taken to be ``safety / alpha``) travel in ``state``.
        power_iterations: products for the first estimate with ``alpha="auto"``; later solves spend one.
        safety: ``alpha * lambda_max`` for ``alpha="auto"``, below 2. At 1 the answer is between 0 and ``A^-1 b`` in
            every eigendirection, and an estimate that is up to half too low still converges.
        preconditioner: a name, a mapping with a name and options, or an object; see
            :mod:`hypergrad.solvers.preconditioners`. What it keeps travels in ``state``, and its
            products count, beside ``num_hvps``.

    Raises:
        InvalidInputError: an option out of its range.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([1.0, 2.0])))
        >>> Neumann(num_hvps=20, alpha=0.5).solve(A, torch.ones(2)).x
        tensor([1.0000, 0.5000])

    Reference:
        Lorraine, Vicol and Duvenaud, AISTATS 2020, algorithm 3; Hataya et al., "Meta Approach to Data Augmentation
        Optimization", WACV 2022, eq. (6).
    """

    num_hvps: int = 5
    alpha: float | Literal["auto"] = 1e-3
    power_iterations: int = 3
    safety: float = 1.0
    preconditioner: Option = None

    def __post_init__(self) -> None:
        check_integer("num_hvps", self.num_hvps, minimum=0)
        if isinstance(self.alpha, str):
            if self.alpha != "auto":
                raise InvalidInputError(f"alpha must be a real number > 0 or 'auto'; got {self.alpha!r}.")
        else:
            check_real("alpha", self.alpha, above=0.0, below=math.inf)
        check_integer("power_iterations", self.power_iterations, minimum=1)
        check_real("safety", self.safety, above=0.0, below=2.0)
        object.__setattr__(self, "preconditioner", resolve(self.preconditioner))

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Sum the series.

        Raises:
            InvalidInputError: ``b``, ``x0``, the preconditioner or the vector in ``state`` does not fit ``A``.
        """
        check_system(A, b, x0)
        made = prepare(self.preconditioner, A, state)
        if not isinstance(self.alpha, str):
            alpha = torch.full((), float(self.alpha), dtype=b.dtype, device=b.device)
            series = _sum(A, b, x0, alpha, self.num_hvps, made.apply)
            return series.solution(series.judge(), series.matvecs + made.matvecs, made.state)

        lambda_max, vector, matvecs = self._power(A, b, state, made.apply)
        matvecs += made.matvecs
        for _ in range(_MAX_RESTARTS + 1):
            alpha = torch.where(lambda_max > 0, self.safety / torch.where(lambda_max > 0, lambda_max, 1.0), 1.0)
            series = _sum(A, b, x0, alpha, self.num_hvps, made.apply)
            matvecs += series.matvecs
            verdict = series.judge()
            if verdict.status is not Status.DIVERGED:
                break
            # Power iteration approaches lambda_max from below. A series that diverges has found the missing direction.
            lambda_max = torch.full_like(lambda_max, verdict.lambda_max)
            vector = divide(series.products[-1], norm(series.products[-1]))
        known = verdict.status is not Status.NONFINITE
        found = {"alpha": verdict.alpha, "vector": vector, **made.state} if known else dict(state or {})
        return series.solution(verdict, matvecs, found)

    def _power(
        self, A: LinearOperator, b: Tensor, state: Mapping[str, Any] | None, apply: Apply
    ) -> tuple[Tensor, Tensor, int]:
        """``lambda_max`` of ``M^-1 A`` (a lower estimate), the vector it came from, and the products spent.

        The first start is ``b``: what lies outside of the Krylov space of ``b``, the series never meets.
        """
        warm = (state or {}).get("vector")
        if warm is not None:
            check_vector(A, "state['vector']", warm)
        steps = self.power_iterations if warm is None else 1
        size = norm(b if warm is None else warm)
        # A vector left by b = 0, or by an overflow, is of no use.
        v = b if warm is None else torch.where((size > 0) & size.isfinite(), warm, b)
        # Norms are those of M^-1, in which M^-1 A is symmetric: ||v||^2 = v^T M^-1 v.
        z = apply(v)
        v, z = divide(v, _size(v, z)), divide(z, _size(v, z))
        pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(steps):
            q = A @ z
            pairs = [*pairs[-1:], (z, v, q, apply(q))]
            grown = _size(q, pairs[-1][3])
            v, z = divide(q, grown), divide(pairs[-1][3], grown)
        # The second vector is the first product, normalised: A M^-1 (A v) needs no further product.
        first, last = pairs[0], pairs[-1]
        second = last[2] * _size(first[2], first[3]) if len(pairs) == 2 else None
        _, high = ritz(first[0], first[2], second, dual_v=first[1], dual_Av=first[3])
        # The norm counts negative curvature by its size; alpha is then smaller than it need be, never larger.
        lambda_max = torch.maximum(_size(last[2], last[3]), high)
        return lambda_max, v, steps


@dataclass(frozen=True)
class _Verdict:
    status: Status
    alpha: float
    lambda_max: float  # a lower bound from the products at hand; 0 where there is none
    detail: str


@dataclass(frozen=True)
class _Series:
    """A finished sum, everything still on the device."""

    x: Tensor
    alpha: Tensor
    norms: Sequence[Tensor]  # ||r_0||, ||r_1||, ..., in the norm r^T M^-1 r
    left: Tensor  # ||r|| of the last
    b_norm: Tensor
    vectors: Sequence[tuple[Tensor, Tensor]]  # the last two r, with M^-1 r, that were multiplied
    after: tuple[Tensor, Tensor]  # the r after them
    products: Sequence[Tensor]  # of M^-1 r with A
    matvecs: int

    def solution(self, verdict: _Verdict, matvecs: int, state: Mapping[str, Any]) -> Solution:
        return Solution(
            x=self.x,
            status=verdict.status,
            matvecs=matvecs,
            residual=relative(self.left, self.b_norm),
            state=state,
            detail=verdict.detail,
        )

    def judge(self) -> _Verdict:
        """Read once, decide.

        With ``M = I - alpha A`` symmetric and ``r_j = M^j r_0``, Cauchy-Schwarz gives
        ``||r_j||^2 = <M^(j-1) r_0, M^(j+1) r_0> <= ||r_(j-1)|| ||r_(j+1)||``: the ratios ``||r_(j+1)|| / ||r_j||``
        never fall, so one above 1 proves that the series diverges. It comes late, though: slow directions
        (``alpha lambda`` near 0) hide a fast-growing small one. The Ritz values on the last two vectors see it earlier,
        and one above ``2 / alpha`` is a proof as well. A negative Ritz value alone is no failure: while the residual
        still falls, a weakly negative direction enters a truncated sum with weight ``alpha (J+1)``, harmlessly.
        """
        zero = torch.zeros_like(self.b_norm)
        low, high = zero, zero
        if self.products:
            # With z = M^-1 r: r_(j+1) = r_j - alpha A z_j, hence A M^-1 (A z_j) = (A z_j - A z_(j+1)) / alpha, and
            # M^-1 A z_j = (z_j - z_(j+1)) / alpha: no further product.
            second = (self.products[0] - self.products[1]) / self.alpha if len(self.products) == 2 else None
            (r, z), (_, z_next) = self.vectors[0], [*self.vectors, self.after][1]
            dual = {"dual_v": r, "dual_Av": (z - z_next) / self.alpha} if r is not z else {}
            low, high = ritz(z, self.products[0], second, **dual)
        finite, alpha, lo, hi, *norms = to_host(self.x.isfinite().all(), self.alpha, low, high, *self.norms)
        tolerance = 1 + slack(self.x.dtype)
        steps = [(m, n) for m, n in pairwise(norms) if math.isfinite(n) and m > 0]
        growth = steps[-1][1] / steps[-1][0] if steps else 0.0
        if not finite and not growth > tolerance:
            return _Verdict(Status.NONFINITE, alpha, 0.0, "")
        if not finite:  # grew until it overflowed
            return _diverged(alpha, (1 + growth) / alpha)
        if norms[-1] <= torch.finfo(self.x.dtype).eps ** 2 * norms[0]:
            # Nothing is left, and what the last vectors say may be the rounding of subnormal numbers.
            return _Verdict(Status.TRUNCATED, alpha, 0.0, "")
        if alpha * hi > 2 * tolerance:
            return _diverged(alpha, hi)
        if growth > tolerance:
            # |1 - alpha lambda| > 1 somewhere; a negative Ritz value proves on which side.
            if -alpha * lo > tolerance - 1:
                detail = f"The curvature is {lo:.3g} along the residual, which grows by {growth:.3g} a product."
                return _Verdict(Status.NEGATIVE_CURVATURE, alpha, max(hi, 0.0), detail)
            return _diverged(alpha, (1 + growth) / alpha)
        detail = ""
        if 0 < alpha * hi < 0.1:
            detail = (
                f"alpha * lambda_max is about {alpha * hi:.2g}, far below 1: this is close to the first-order method; "
                "raise alpha, or use alpha='auto'."
            )
        return _Verdict(Status.TRUNCATED, alpha, max(hi, 0.0), detail)


def _diverged(alpha: float, lambda_max: float) -> _Verdict:
    detail = (
        f"alpha={alpha:.3g} is above the bound 2 / lambda_max, which is at most {2 / lambda_max:.3g} here "
        f"(lambda_max is at least {lambda_max:.3g})."
    )
    return _Verdict(Status.DIVERGED, alpha, lambda_max, detail)


def _size(v: Tensor, dual: Tensor) -> Tensor:
    """The norm of ``v`` in ``M^-1``, with ``dual = M^-1 v``; the Euclidean one, without underflow, where M = I."""
    return norm(v) if dual is v else v.dot(dual).clamp_min(0).sqrt()


def _sum(A: LinearOperator, b: Tensor, x0: Tensor | None, alpha: Tensor, num_hvps: int, apply: Apply) -> _Series:
    """The series, or Richardson's iteration from ``x0``, without a word to the host."""
    # Without a product a warm start cannot be improved, only repeated for ever.
    x, r, spent = start(A, b, x0 if num_hvps else None)
    z = apply(r)
    # A scalar on the CPU is free to read, and saves a kernel in each of the sums below.
    factor = float(alpha) if alpha.device.type == "cpu" else alpha
    x = _sum_of(x, z, factor)
    norms = [_size(r, z)]
    vectors: list[tuple[Tensor, Tensor]] = []
    products: list[Tensor] = []
    for _ in range(num_hvps - spent):
        vectors, products = [*vectors[-1:], (r, z)], products[-1:]  # before the product, where memory peaks
        q = A @ z
        products.append(q)
        r = _sum_of(r, q, -factor)
        z = apply(r)
        x = _sum_of(x, z, factor)
        norms.append(_size(r, z))
    return _Series(x, alpha, norms, norm(r), norm(b), vectors, (r, z), products, num_hvps)


def _sum_of(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:  # (P,)
    """``x + factor y``."""
    return x + factor * y if isinstance(factor, Tensor) else torch.add(x, y, alpha=factor)
