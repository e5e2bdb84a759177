"""The solver that chooses: CG, MINRES or the Neumann series, by what it sees and what earlier solves taught it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.conjugate_gradient import ConjugateGradient
from hypergrad.solvers.krylov import KrylovRun, Seen, ritz_range, run_krylov
from hypergrad.solvers.lanczos import run_lanczos
from hypergrad.solvers.neumann import Neumann
from hypergrad.solvers.numerics import check_system, divide, norm, start
from hypergrad.solvers.options import check_integer, check_real

#: What ``state["choice"]`` counts.
CHOICES = ("cg", "minres", "plain cg", "neumann")

_SOME_NOISE, _MUCH_NOISE = 1e-2, 0.4  # relative; in tests MINRES and CG are spoilt above them
_PROBE_LEAST = 10
_NEARLY_SINGULAR = 10.0
_MODELLED, _LEARNED = 0.5, 0.75  # shares of a length; above twice the right one a step does harm
_PROBE_ABOVE = 1e-2  # a relative residual below it leaves no more to learn than a probe costs


@dataclass(frozen=True, kw_only=True)
class Auto:
    """CG where the matrix is positive definite, MINRES where it is not, Neumann where products are noisy.

    One Lanczos run of at most ``max_hvps`` products holds the iterates of CG and MINRES and the Ritz values. What it
    sees decides afterwards, so a choice costs no product. Its vectors are kept, and orthogonal to rounding, where there
    is room for them (``max_basis``): the run then needs the products that exact arithmetic needs, often a half of those
    of classical CG for an accurate answer.

    - **cg** while the tridiagonal matrix is positive definite. CG's answer is then closer to ``A^-1 b`` in the 2-norm
      than MINRES's at every step.
    - **minres** when a Ritz value below zero proves that ``A`` is indefinite, and from then on until the next probe.
      Also, unless a probe has found ``A`` positive definite, where CG's answer is likely to be arbitrary, because a
      pivot is nearly 0 on its way below it: CG's residual is above b and above ten times MINRES's, or four times
      MINRES's while the lowest Ritz value has just fallen by 70 % or more and MINRES leaves less than half of b.
    - **plain cg** or **neumann** when products are noisy: not those of one symmetric matrix.
      (:func:`~hypergrad.solvers.krylov.run_krylov` tells for free.) Noise spoils a Lanczos run, and classical CG less:
      from 1 % of noise on it is used from the next solve to the next probe, and from 40 % on the Neumann series with
      ``alpha = 1 / lambda_max``, less for the noise, which no noise leads far. The solve that
      finds so much stops early.

    ``first_order`` is CG with no product; ``nystrom`` is better than these in a few products where the spectrum is
    one value and a few large ones and rho is that value (``benchmarks/auto.py``), which a solve cannot know, so it is
    never chosen.

    **The free step.** Where the ceiling ends it, CG knows its next direction p without a product, and
    ``x + L p`` is, for one length L, the best answer there is in the span of all vectors seen. A step along p makes the
    2-norm error smaller whenever ``0 < L < 2 e / |r|^2``, with e the squared A-norm of the error and r the residual;
    the middle of this interval is best, and it is at least ``1 / lambda_max``. For the Chebyshev distribution of
    eigenvalues (what a long Lanczos run sees of any interval) it tends to ``1 / sqrt(lambda_min lambda_max)``. L is the
    longest of 1 over the largest Ritz value, half of that formula, with the lowest Ritz value one product earlier, and
    three quarters of what the last probe measured as best. MINRES steps as far as the first along its residual, where
    ``-lambda_min`` is below ``lambda_max / 2``.

    **Probes.** The second solve, and then every ``probe_every``-th, goes on for ``max(max_hvps, 10)`` products more if
    the one before left a relative residual above 1 % (and above ``tol``): these measure the best L at ``max_hvps``,
    from below, find weak negative curvature, and make this solve's answer better. A single solve never exceeds
    ``max_hvps``; over many, probes add ``1 / probe_every`` to the cost (for ``max_hvps`` of 10 or more).

    **What is guaranteed.** ``tol`` bounds the relative residual, by the recurrence; the relative error is at most the
    condition number times that. CONVERGED says so, and then there is no free step. Otherwise TRUNCATED, with
    ``residual`` that of the answer before the free step. With ``tol=0`` the budget is fixed and the host reads once.
    That the free step helps is a theorem for a positive definite matrix and a length from ``lambda_max`` or from a
    probe on the same system, and an observation else (``benchmarks/auto.py``). NONFINITE, and
    DIVERGED for a Neumann series, as with the solvers themselves.

    **The record.** ``choice`` and ``detail`` say what was chosen; ``state`` has it as numbers: ``choice`` (an index
    into :data:`CHOICES`), ``hvps``, ``step`` (L, 0 for none), ``alpha``, ``lambda_min`` and ``lambda_max`` (the extreme
    Ritz values: the true ones lie outside), ``noise``, ``residual``, ``indefinite``, ``solves``, and
    of the last probe ``learned`` (the best L) and ``learned_at`` (the products before it).

    Args:
        tol: relative residual to stop at, in ``[0, 1)``; 0 for a fixed budget.
        max_hvps: most products of a solve that is no probe.
        probe_every: solves from one probe to the next; 0 for no probes.
        check_every: products between two readings by the host.
        max_basis: numbers (products times parameters) that a solve may keep of its Lanczos vectors, 80 MB in float32;
            a solve that would need more keeps none, and loses digits near convergence as CG does. 0 for never.

    Raises:
        InvalidInputError: an option out of its range.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([1.0, -4.0])).double())
        >>> solution = Auto().solve(A, torch.ones(2).double())
        >>> solution.x, solution.detail
        (tensor([ 1.0000, -0.2500], dtype=torch.float64), 'Chose minres: 2 products, curvature in [-4, 1].')

    Reference:
        Hestenes and Stiefel (1952), theorems 6:1 and 6:3 (``e`` is the sum of the further ``gamma |r|^2``, and the
        products of directions), from which the free step follows; Fong and Saunders, "CG versus MINRES", 2012,
        section 2 (the errors of the two).
    """

    tol: float = 1e-2
    max_hvps: int = 20
    probe_every: int = 25
    check_every: int = 1
    max_basis: int = 20_000_000

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0, below=1.0)
        check_integer("max_hvps", self.max_hvps, minimum=1)
        check_integer("probe_every", self.probe_every, minimum=0)
        check_integer("check_every", self.check_every, minimum=1)
        check_integer("max_basis", self.max_basis, minimum=0)

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Solve, choose, and record in ``state``.

        Raises:
            InvalidInputError: ``b`` or ``x0`` does not fit ``A``.
        """
        check_system(A, b, x0)
        held = dict(state or {})
        solves = int(held.get("solves", 0))
        due = bool(self.probe_every) and solves > 0 and (solves - 1) % self.probe_every == 0
        if held.get("noise", 0.0) > _SOME_NOISE and not due:
            return self._noisy(A, b, x0, held, solves)
        # A single product more than a warm start's is needed to improve on it.
        x, r, spent = start(A, b, x0 if self.max_hvps > 1 else None)
        unit = norm(b)  # so that squares of a tiny gradient do not underflow
        x, r = divide(x, unit), divide(r, unit)
        indefinite = bool(held.get("indefinite", 0)) and not due
        probe = due and float(held.get("residual", 0.0)) > max(self.tol, _PROBE_ABOVE)
        steps = self.max_hvps - spent
        longest = steps + max(self.max_hvps, _PROBE_LEAST) if probe else steps
        run = (run_lanczos if (longest + 1) * len(b) <= self.max_basis else run_krylov)(
            A,
            r,
            steps=longest,
            enough=max(self.tol, torch.finfo(b.dtype).eps),
            wait=self.check_every if self.tol else 0,
            largest_asymmetry=_MUCH_NOISE / math.sqrt(len(b)),
        )
        seen = run.seen
        matvecs = run.products + spent
        if seen.broken:
            x = (x + (run.cg if seen.definite else run.minres)) * unit
            left = torch.full_like(unit, seen.minres)
            return Solution(x=x, status=Status.NONFINITE, matvecs=matvecs, residual=left, state=held)
        if not seen.pivots:  # b = 0, or a warm start that is exact: nothing was seen
            status = Status.CONVERGED if self.tol else Status.TRUNCATED
            return Solution(
                x=x * unit, status=status, matvecs=matvecs, residual=torch.full_like(unit, seen.first), state=held
            )
        return self._chosen(x, unit, run, seen, held, indefinite, steps, probe, matvecs)

    def _chosen(
        self,
        x: Tensor,
        unit: Tensor,
        run: KrylovRun,
        seen: Seen,
        held: dict[str, Any],
        indefinite: bool,
        steps: int,
        probe: bool,
        matvecs: int,
    ) -> Solution:
        low, high = ritz_range(seen.alphas, seen.betas)
        before = ritz_range(seen.alphas[:-1], seen.betas[:-1])[0]  # the lowest value one product earlier
        trusted = (held.get("learned_at") == steps and held["learned"] > 0) or probe
        cg = seen.definite and not indefinite and (trusted or not _wild(seen, low, before))
        left = seen.cg if cg else seen.minres
        done = left <= max(self.tol, float(torch.finfo(x.dtype).eps))
        kept = dict(held)
        if probe:
            kept |= {"learned": seen.best_step(steps), "learned_at": steps}
        # Noise that points anywhere has 1 / sqrt(P) of its size along one vector.
        noise = seen.asymmetry * math.sqrt(len(x))
        step = 0.0
        if not done and noise <= _SOME_NOISE and high > 0 and (cg or -low < high / 2):
            step = 1 / high
            if cg and before > 0:
                step = max(step, _MODELLED / math.sqrt(high * before))
            if cg and not probe and kept.get("learned_at") == steps:
                step = max(step, _LEARNED * kept["learned"])
        answer, onward = (run.cg, run.direction) if cg else (run.minres, run.remainder)
        answer = (x + answer + step * onward if step else x + answer) * unit
        choice = "cg" if cg else "minres"
        kept |= {
            "solves": int(held.get("solves", 0)) + 1,
            "choice": CHOICES.index(choice),
            "hvps": matvecs,
            "step": step,
            "alpha": 0.0,
            "lambda_min": low,
            "lambda_max": high,
            "noise": noise,
            "indefinite": int(indefinite or not seen.definite),
            "residual": left,
        }
        what = f"Chose {choice}: {matvecs} products, curvature in [{low:.3g}, {high:.3g}]"
        if probe:
            what += ", a probe"
        if step:
            what += f", a free last step of length {step:.3g}"
        if noise > _SOME_NOISE:
            what += f"; products have {noise:.0%} of noise, so {_when(noise)} next"
        residual = torch.full_like(unit, left)
        status = Status.CONVERGED if done and self.tol else Status.TRUNCATED
        return Solution(
            x=answer, status=status, matvecs=matvecs, residual=residual, state=kept, detail=what + ".", choice=choice
        )

    def _noisy(self, A: LinearOperator, b: Tensor, x0: Tensor | None, held: dict[str, Any], solves: int) -> Solution:
        choice = _when(held["noise"])
        alpha, status = 0.0, None
        if choice == "neumann" and held["lambda_max"] > 0:
            alpha = 1 / (held["lambda_max"] * (1 + held["noise"]))  # noise moves a Ritz value about as much
            solution = Neumann(num_hvps=self.max_hvps, alpha=alpha).solve(A, b, x0=x0)
        else:
            steps = max(1, self.max_hvps - (x0 is not None))
            plain = ConjugateGradient(max_steps=steps, tol=self.tol, check_every=self.check_every)
            solution = plain.solve(A, b, x0=x0 if self.max_hvps > 1 else None)
            if solution.status in (Status.NEGATIVE_CURVATURE, Status.MAX_STEPS):  # noise and the ceiling do this
                status = Status.TRUNCATED
        kept = held | {"solves": solves + 1, "choice": CHOICES.index(choice), "hvps": solution.matvecs}
        kept |= {"alpha": alpha, "step": 0.0}
        if solution.status is Status.DIVERGED:
            kept["lambda_max"] = 2 * held["lambda_max"]
        what = f"Chose {choice}: {solution.matvecs} products" + (f", alpha={alpha:.3g}." if alpha else ".")
        detail = f"{what} {solution.detail}".strip()
        return replace(solution, status=status or solution.status, state=kept, detail=detail, choice=choice)


def _wild(seen: Seen, low: float, before: float) -> bool:
    """Whether CG's last pivot is likely to be nearly 0 on its way below it, and CG's answer arbitrary.

    Far along, a large quotient of the residuals is a plateau of CG's convergence. Then the residual is below that of
    the start, or the lowest Ritz value has been settling; a value that falls at once where MINRES finds the system easy
    has not.
    """
    quotient = seen.cg / seen.minres if seen.minres else 1.0
    falls = len(seen.alphas) > 2 and low < 0.3 * before and seen.minres < 0.5 * seen.first
    return (seen.cg > 1.0 and quotient > _NEARLY_SINGULAR) or (falls and quotient > _NEARLY_SINGULAR / 2.5)


def _when(noise: float) -> str:
    return "neumann" if noise > _MUCH_NOISE else "plain cg"
