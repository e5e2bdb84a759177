"""Conjugate gradients, with negative curvature noticed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.numerics import check_system, divide, norm, start, to_host
from hypergrad.solvers.options import check_integer, check_real
from hypergrad.solvers.preconditioners import Apply, Option, prepare, resolve


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Hestenes and Stiefel's method: the iterate that minimises ``x^T A x / 2 - b^T x`` over the Krylov space.

    Converges for ``A`` positive definite (or singular with ``b`` in its range): exactly in as many steps as there are
    distinct eigenvalues, else by a factor ``(sqrt(k) - 1) / (sqrt(k) + 1)`` a step at condition number k. One product a
    step, and one for a warm start (which is dropped where it is worse than zero).

    - CONVERGED: ``||b - A x|| <= tol ||b||``; MAX_STEPS otherwise.
    - NEGATIVE_CURVATURE: a direction with ``p^T A p <= 0`` came up. The answer is the last iterate before it; where
      that is the zero start, it is ``b``, the first-order answer.
    - With ``tol=0`` the budget is fixed: all steps are taken, the status is TRUNCATED, and the host reads once, at
      the end. Steps below rounding (a residual under machine epsilon) change nothing.

    ``residual`` comes from the recurrence, and is that of the system as given, also with a preconditioner.

    With a preconditioner M the condition number that counts is that of ``M^-1 A``, and the energy is minimised over the
    Krylov space of ``M^-1 A`` and ``M^-1 b``. It changes which directions are solved first, so the answer of a
    truncated solve, but not the limit: an exact solve has no bias.

    Args:
        max_steps: most steps.
        tol: relative residual to stop at, in ``[0, 1)``; 0 for a fixed budget.
        check_every: steps between two readings by the host. More saves waiting on an accelerator and costs up to that
            many products too many.
        preconditioner: a name, a mapping with a name and options, or an object; see
            :mod:`hypergrad.solvers.preconditioners`. What it keeps travels in ``state``, and its
            products count, beside ``max_steps``.

    Raises:
        InvalidInputError: an option out of its range.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([1.0, 4.0])))
        >>> solution = ConjugateGradient().solve(A, torch.ones(2))
        >>> solution.x, solution.matvecs
        (tensor([1.0000, 0.2500]), 2)

    Reference:
        Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 5.2 and 7.1 (negative curvature).
    """

    max_steps: int = 20
    tol: float = 1e-5
    check_every: int = 1
    preconditioner: Option = None

    def __post_init__(self) -> None:
        check_integer("max_steps", self.max_steps, minimum=1)
        check_real("tol", self.tol, low=0.0, below=1.0)
        check_integer("check_every", self.check_every, minimum=1)
        object.__setattr__(self, "preconditioner", resolve(self.preconditioner))

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Iterate; ``state`` holds what the preconditioner keeps.

        Raises:
            InvalidInputError: ``b``, ``x0`` or the preconditioner does not fit ``A``.
        """
        check_system(A, b, x0)
        enough = max(self.tol, torch.finfo(b.dtype).eps) ** 2
        prepared = prepare(self.preconditioner, A, state)
        x, r, spent = start(A, b, x0)
        # In units of ||b||, so that squares of a tiny gradient do not underflow.
        unit = norm(b)
        x, r = divide(x, unit), divide(r, unit)
        # Reading a number on the host costs nothing there, and masks a multiple of a small product.
        iterate = _with_branches if b.device.type == "cpu" else _with_masks
        run = iterate(A, x, r, prepared.apply, self.max_steps, enough, self.check_every if self.tol else 0)
        squared, is_bent, is_broken, lowest = to_host(run.squared, run.bent, run.broken, run.curvature)
        detail = ""
        if is_broken or not math.isfinite(squared):
            status = Status.NONFINITE
        elif is_bent:
            status = Status.NEGATIVE_CURVATURE
            detail = f"A search direction has the curvature p^T A p / p^T p = {lowest:.3g}."
        elif self.tol == 0:
            status = Status.TRUNCATED
        else:
            status = Status.CONVERGED if squared <= enough else Status.MAX_STEPS
        return Solution(
            x=run.x * unit,
            status=status,
            matvecs=spent + prepared.matvecs + run.products,
            residual=run.squared.sqrt(),
            state=prepared.state,
            detail=detail,
        )


@dataclass(frozen=True)
class _Run:
    """A finished iteration: the iterate, and what is read of it."""

    x: Tensor  # (P,)
    squared: Tensor  # ||r||^2, () as the following
    bent: Tensor
    broken: Tensor
    curvature: Tensor  # of the direction that bent
    products: int


def _with_masks(A: LinearOperator, x: Tensor, r: Tensor, apply: Apply, steps: int, enough: float, wait: int) -> _Run:
    """Iterate from ``x`` with residual ``r``, reading every ``wait`` steps; 0 for never, and all steps are taken."""
    eps = torch.finfo(r.dtype).eps
    cold = (x == 0).all()
    rr, p, products = r.dot(r), apply(r), 0
    rz = r.dot(p)
    alive = rr > enough
    largest, curvature = torch.zeros_like(rr), torch.zeros_like(rr)
    bent, broken = torch.zeros_like(alive), torch.zeros_like(alive)
    for step in range(steps):
        if wait and step % wait == 0 and not to_host(alive.to(r.dtype))[0]:
            break
        q = A @ p
        products += 1
        # Every decision is a mask: after the end of the iteration a step changes nothing, and needs no host.
        bend = divide(p.dot(q), p.dot(p))
        finite = bend.isfinite()
        largest = torch.where(finite, torch.maximum(largest, bend), largest)
        good = alive & finite & (bend > eps * largest)  # at the level of rounding it is no curvature
        stop = alive & finite & good.logical_not()
        bent, broken = bent | stop, broken | (alive & finite.logical_not())
        curvature = torch.where(stop, bend, curvature)
        length = torch.where(good, divide(rz, p.dot(q)), 0.0)
        x, r = torch.where(good, x + length * p, x), torch.where(good, r - length * q, r)
        if step == 0:
            x, r = torch.where(stop & cold, p, x), torch.where(stop & cold, r - q, r)
        z, rr = apply(r), r.dot(r)
        rz_new = r.dot(z)
        p = torch.where(good, z + divide(rz_new, rz) * p, p)
        rz, alive = rz_new, good & (rr > enough)
    return _Run(x, rr, bent, broken, curvature, products)


def _with_branches(A: LinearOperator, x: Tensor, r: Tensor, apply: Apply, steps: int, enough: float, wait: int) -> _Run:
    """The same with its decisions taken on the host, at once."""
    eps = torch.finfo(r.dtype).eps
    rr, p, products = float(r.dot(r)), apply(r), 0
    rz = float(r.dot(p))
    alive, bent, broken = rr > enough, False, False
    largest = curvature = 0.0
    for step in range(steps):
        if wait and step % wait == 0 and not alive:
            break
        q = A @ p
        products += 1
        if not alive:  # a fixed budget is spent to the end, here as elsewhere
            continue
        pq, pp = float(p.dot(q)), float(p.dot(p))
        bend = pq / pp if pp else 0.0
        broken = not math.isfinite(bend)
        alive = not broken
        if broken:
            continue
        largest = max(largest, bend)
        if bend <= eps * largest:
            bent, curvature, alive = True, bend, False
            if step == 0 and not bool(x.any()):
                x, r = p, r - q
                rr = float(r.dot(r))
            continue
        length = rz / pq
        x, r = torch.add(x, p, alpha=length), torch.sub(r, q, alpha=length)
        z, rr = apply(r), float(r.dot(r))
        rz_new = rr if z is r else float(r.dot(z))
        p = torch.add(z, p, alpha=rz_new / rz if rz else 0.0)
        rz, alive = rz_new, rr > enough
    squared, is_bent, is_broken, lowest = (r.new_tensor(float(n)) for n in (rr, bent, broken, curvature))
    return _Run(x, squared, is_bent, is_broken, lowest, products)
