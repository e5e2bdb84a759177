"""``gradcheck``: a hypergradient against differences of the inner problem solved again."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergrad import estimators
from hypergrad.diagnostics.gradient_verdict import DirectionCheck, GradCheck, Verdict
from hypergrad.diagnostics.resolving import (
    FixedLosses,
    Inner,
    Resolve,
    ReweightedLosses,
    batch_like,
    close_solver,
    follow,
    in_double,
    minimise,
    newton_step,
)
from hypergrad.distributed import alone
from hypergrad.errors import GradCheckError, InvalidInputError
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.implicit import outer_gradient
from hypergrad.keys import derive, generator, preserved_rng
from hypergrad.objective import ModelObjective, Objective
from hypergrad.optimizers import OptimizerLike
from hypergrad.solvers.base import Solver
from hypergrad.solvers.conjugate_gradient import ConjugateGradient
from hypergrad.tree import TensorDict

#: The justified errors are estimates of first order; what they leave out is of their own size at most.
SAFETY = 2.0

#: A direction decides nothing where what is justified exceeds this share of the numbers that are compared.
RESOLUTION = 0.1

#: So many parameters are solved by a dense factorisation unless a solver is given.
DENSE_UP_TO = 1000


class Checkable(Protocol):
    """What is asked of a problem: :class:`~hypergrad.BilevelProblem` has it."""

    objective: Objective

    def first_batches(self) -> tuple[Sequence[Any] | None, Sequence[Any] | None]:
        """The first training and the first validation batch; None where there is no data."""


@alone()  # the same on every rank that asks, on the whole batches
def gradcheck(
    problem: Checkable,
    *,
    directions: int = 4,
    step: float | None = None,
    solver: str | Solver | None = None,
    estimator: str | Estimator = "implicit",
    inner_optimizer: OptimizerLike | None = None,
    inner_steps: int = 1000,
    tolerance: float = 0.0,
    batch: Sequence[Any] | None = None,
    val: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> GradCheck:
    """Check a problem's hypergradient against central differences of the inner problem solved again.

    Along random directions v of the raw hyperparameters, ``<grads, v>`` is compared with the derivative of
    ``phi(h) = g(w(h), h)``, where ``w(h)`` is solved anew at ``h +- step v`` and ``h +- step/2 v`` with the same
    batches and the same noise. Works on copies in float64 (losses given as functions are taken in the precision of
    their parameters); the problem is left as it is. Costs ``4 * directions + 1`` inner solves: a check for small models
    and batches, not for every run.

    The tolerance is what the difference itself cannot know, twice the sum of three estimates:

    - *truncation*: with ``D(s)`` the central difference at step s, the extrapolated ``(4 D(s/2) - D(s)) / 3`` is
      compared, and ``|D(s/2) - D(s)| / 3`` allowed, which is the error that extrapolation removes;
    - *inner*: an inexact solution moves phi by ``x . df/dw`` to first order, ``H x = dg/dw`` (the adjoint weighs the
      residual), and the hypergradient by what one Newton step ``H^-1 df/dw`` changes it;
    - *rounding*: ``24 eps |g| / step``.

    Discrete choices stay as they were drawn, with importance weights from their log-probability
    (:mod:`hypergrad.diagnostics.resolving`). So a gradient that passes through discrete choices without one is refuted
    whenever it is not the derivative at this draw: eq. (9) of the MADAO paper, and straight-through magnitudes
    (leave those out by ``names``).

    Args:
        problem: a :class:`~hypergrad.BilevelProblem`, at the point to be checked.
        directions: how many, at least 1; a single number has only one.
        step: of the differences; None for ``eps^(1/5)``, 7e-4 in float64, which balances the fourth-order error
            against rounding.
        solver: of the linear system; None for the exact one, so that the derivatives are checked and not the budget.
        estimator: a registered name or an object; an object brings its own solver.
        inner_optimizer: how the inner problem is solved: None for L-BFGS with a strong Wolfe line search and Newton
            steps until rounding, or a factory (``functools.partial(torch.optim.SGD, lr=0.1)``), which starts at the
            problem's parameters each time. Where it comes to rest and f has a gradient, it minimises something else
            than f, and nothing is allowed for it.
        inner_steps: of ``inner_optimizer``.
        tolerance: a relative error that is accepted besides, such as 0.05 for a truncated solver.
        batch: of f; None for the first of the problem's data.
        val: of g, likewise.
        names: the hyperparameters to move; None for all.
        seed: of the noise and of the directions.
        raise_on_failure: raise where the verdict is "failed".

    Returns:
        A :class:`GradCheck`.

    Raises:
        InvalidInputError: an argument cannot be used.
        GradCheckError: the check failed, and ``raise_on_failure``.

    Example:
        >>> import torch, hypergrad
        >>> problem = hypergrad.BilevelProblem(
        ...     inner_loss=lambda w, h: 0.5 * (w["w"] - 3) ** 2 + 0.5 * h["log_decay"].exp() * w["w"] ** 2,
        ...     outer_loss=lambda w, h: 0.5 * (w["w"] - 1) ** 2,
        ...     params={"w": torch.tensor(0.0, dtype=torch.float64)},
        ...     hparams={"log_decay": torch.tensor(0.0, dtype=torch.float64)},
        ... )
        >>> hypergrad.gradcheck(problem).verdict
        'passed'

    References:
        Pierce and Giles, "Adjoint Recovery of Superconvergent Functionals from PDE Approximations", SIAM Review 42,
        2000 (the adjoint-weighted residual); Nocedal and Wright, Numerical Optimization, section 8.1 (the step).
    """
    _check_options(directions, step, inner_steps, tolerance, inner_optimizer)
    source = problem.objective
    source.check_ready()
    objective = in_double(source)
    params, hparams = objective.params, objective.hparams
    key = derive(seed, "gradcheck")
    dtype = torch.float64 if isinstance(source, ModelObjective) else None
    data = [
        given if given is not None else own for given, own in zip((batch, val), problem.first_batches(), strict=True)
    ]
    train, valid = (d if dtype is None else batch_like(d, dtype) for d in data)
    losses = FixedLosses(objective, train, valid, key)
    moving: FixedLosses = losses
    if isinstance(objective, ModelObjective):
        twin = in_double(objective)
        assert isinstance(twin, ModelObjective)
        moving = ReweightedLosses(twin, train, valid, key)
    resolve: Resolve = functools.partial(minimise, moving)
    if inner_optimizer is not None:
        resolve = functools.partial(_followed, moving, inner_optimizer, inner_steps)
    tested = _estimator(estimator, solver, losses.layout.size)
    h = {k: v.detach().clone() for k, v in hparams.items()}
    start = {k: v.detach().clone() for k, v in params.items()}
    step = torch.finfo(losses.layout.dtype).eps ** 0.2 if step is None else step

    check = _Check(losses, moving, tested, resolve, start, h, float(step), inner_optimizer is None, tolerance)
    found = tuple(check.along(v) for v in _directions(h, names, directions, derive(key, "directions")))
    verdicts = {d.verdict for d in found}
    overall: Verdict = "failed" if "failed" in verdicts else "passed" if "passed" in verdicts else "inconclusive"
    result = GradCheck(found, overall, float(check.base.gradient.norm()), float(step), tuple(check.notes))
    if raise_on_failure and overall == "failed":
        raise GradCheckError(f"The hypergradient differs from differences of the re-solved inner problem.\n{result}")
    return result


def _followed(losses: FixedLosses, optimizer: OptimizerLike, steps: int, start: TensorDict, h: TensorDict) -> Inner:
    return follow(losses, start, h, optimizer, steps)


class _Check:
    """The base point, what is known there, and the comparison along one direction."""

    def __init__(
        self,
        losses: FixedLosses,
        moving: FixedLosses,
        tested: Estimator,
        resolve: Resolve,
        start: TensorDict,
        h: TensorDict,
        step: float,
        restart: bool,
        accepted: float,
    ) -> None:
        self.losses, self.moving, self.tested, self.resolve = losses, moving, tested, resolve
        self.h, self.step, self.accepted = h, step, accepted
        self.notes: list[str] = []
        self.base = resolve(start, h)
        # A minimum is sought near the last one; an optimizer takes its steps from where the user's takes them.
        self.start = self.base.params if restart else start
        self.grads = self._hypergradient(self.base.params)
        self._look_at_the_inner_solution()

    def along(self, v: TensorDict) -> DirectionCheck:
        """The comparison along ``v``, like the hyperparameters."""
        whole, half = self._pair(v, self.step), self._pair(v, self.step / 2)
        difference = (4 * half[0] - whole[0]) / 3
        truncation = abs(half[0] - whole[0]) / 3
        eps = torch.finfo(self.losses.layout.dtype).eps
        rounding = 24 * eps * abs(float(self.losses.outer(self.base.params, self.h))) / self.step
        slope = _dot(self.grads, v)
        if self.adjoint is None or self.corrected is None:
            stationarity = math.inf
        else:
            inner = abs(float(self.adjoint @ (4 * half[1] - whole[1]))) / 3
            stationarity = inner + abs(slope - _dot(self.corrected, v))
        justified = SAFETY * (truncation + stationarity + rounding)
        signal = max(abs(slope), abs(difference))
        tolerance = justified + self.accepted * signal
        verdict: Verdict = "passed"
        if not abs(slope - difference) <= tolerance:  # so that NaN fails
            verdict = "failed"
        elif not justified <= RESOLUTION * signal:
            verdict = "inconclusive"
        return DirectionCheck(slope, difference, truncation, stationarity, rounding, tolerance, verdict)

    def _pair(self, v: TensorDict, step: float) -> tuple[float, Tensor]:
        """The central difference of phi, and that of the inner gradient ``(P,)``, which should be 0."""
        values, gradients = [], []
        for sign in (1, -1):
            h = {k: x + sign * step * v[k] for k, x in self.h.items()}
            found = self.resolve(self.start, h)
            values.append(float(self.moving.outer(found.params, h)))
            gradients.append(found.gradient)
        return (values[0] - values[1]) / (2 * step), (gradients[0] - gradients[1]) / (2 * step)

    def _hypergradient(self, w: TensorDict) -> TensorDict:
        losses = self.losses
        with preserved_rng(losses.layout.device, losses.key):
            result = self.tested.estimate(
                losses.inner_loss, losses.outer_loss, w, self.h, inner_batch=losses.batch, outer_batch=losses.val
            )
        return {k: g.detach() for k, g in result.grads.items()}

    def _look_at_the_inner_solution(self) -> None:
        """The adjoint, one Newton step, and whether the optimizer has come to rest where f has a gradient."""
        losses, w, layout = self.losses, self.base.params, self.losses.layout
        self.adjoint: Tensor | None = None
        self.corrected: TensorDict | None = None
        newton = newton_step(losses, w, self.h)
        size = float(layout.flatten(list(w.values())).norm())
        # Where H is not positive definite there is no minimum near, so any distance is too short for a long way.
        distance = size if newton is None else float(newton.norm())
        slope = float(self.base.gradient.norm())
        sloping = slope > 1e-6 * float(losses.gradient(self.start, self.h).norm()) and distance > 1e-6 * size
        rests = sloping and self.base.remaining < 0.01 * distance
        if rests:
            self.notes.append(
                f"The inner optimizer comes to rest where the inner loss has a gradient of norm "
                f"{slope:.2g}: it minimises something else. Usual cause: weight decay in "
                "the optimizer, which belongs into the inner loss."
            )
            self.adjoint, self.corrected = torch.zeros_like(self.base.gradient), self.grads
            return
        if newton is None:
            self.notes.append(
                "The inner Hessian is not positive definite at the solution, so nothing says how far it is from a "
                "minimum: train longer, or add weight decay to the inner loss."
            )
            return
        A = losses.linearised(w, self.h)
        with preserved_rng(layout.device, losses.key):
            _, b, _ = outer_gradient(losses.outer_loss, w, self.h, losses.val)
        self.adjoint = close_solver(A.shape[0]).solve(A, b).x
        self.corrected = self._hypergradient(layout.to_dict(layout.flatten(list(w.values())) - newton))


def _estimator(estimator: str | Estimator, solver: str | Solver | None, size: int) -> Estimator:
    if not isinstance(estimator, str):
        if solver is not None:
            raise InvalidInputError(
                f"solver was given beside the estimator object {estimator!r}; give it to the object."
            )
        return estimators.get(estimator)
    options: dict[str, Any] = {"solver": solver, "on_failure": "ignore"}
    if solver is None:
        options["solver"] = "dense" if size <= DENSE_UP_TO else ConjugateGradient(max_steps=2000, tol=1e-10)
    known = estimators.options_of(estimator)
    return estimators.get(estimator, **{k: v for k, v in options.items() if k in known})


def _directions(h: TensorDict, names: Sequence[str] | None, count: int, key: int) -> list[TensorDict]:
    """Gaussian directions in the named hyperparameters, scaled to a root mean square of 1."""
    unknown = [n for n in names or () if n not in h]
    if unknown or (names is not None and (isinstance(names, str) or not names)):
        raise InvalidInputError(f"names must list hyperparameters, of {list(h)}; got {names!r}.")
    draw = generator(key)
    if sum(x.numel() for k, x in h.items() if names is None or k in names) == 1:
        count = 1  # the only direction
    result = []
    for _ in range(count):
        v = {k: torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x) for k, x in h.items()}
        v = {k: x if names is None or k in names else torch.zeros_like(x) for k, x in v.items()}
        size = sum(x.numel() for k, x in v.items() if names is None or k in names)
        scale = math.sqrt(size / sum(float(x.square().sum()) for x in v.values()))
        result.append({k: x * scale for k, x in v.items()})
    return result


def _dot(a: TensorDict, b: TensorDict) -> float:
    return sum(float((a[k] * b[k]).sum()) for k in b)


def _check_options(
    directions: int, step: float | None, inner_steps: int, tolerance: float, inner_optimizer: OptimizerLike | None
) -> None:
    for name, count in (("directions", directions), ("inner_steps", inner_steps)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InvalidInputError(f"{name} must be an integer of at least 1; got {count!r}.")
    if step is not None and (not isinstance(step, int | float) or not 0 < step < math.inf):
        raise InvalidInputError(f"step must be a positive number, or None for the dtype's own; got {step!r}.")
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise InvalidInputError(f"tolerance must be a finite relative error of at least 0; got {tolerance!r}.")
    if isinstance(inner_optimizer, torch.optim.Optimizer):
        raise InvalidInputError(
            "inner_optimizer must be a factory, such as functools.partial(torch.optim.SGD, lr=0.1), because the inner "
            f"problem is solved on copies; got an instance of {type(inner_optimizer).__name__}."
        )
