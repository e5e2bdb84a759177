"""The implicit-function estimator: ``dg/dh - [d2f/dh dw] x`` with ``H x = dg/dw``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from hypergrad import solvers
from hypergrad.curvature import Kind, Memory, Precision, check_options, linearize
from hypergrad.curvature.base import LossParts, micro_batch_size, samples_of
from hypergrad.curvature.over_ranks import JointScores, OverRanks, mean_derivatives, shard_loss
from hypergrad.curvature.passes import Pieces, cut, first_derivatives
from hypergrad.distributed import gather, rank
from hypergrad.errors import InvalidInputError, NonFiniteError, SolverError, SolverWarning
from hypergrad.estimators.base import Loss
from hypergrad.keys import preserved_rng
from hypergrad.linearization import check_scalar
from hypergrad.messages import warn
from hypergrad.reductions import MeanOverRanks
from hypergrad.result import Hypergradient
from hypergrad.solvers.base import Solution, Solver
from hypergrad.tree import Layout

OnFailure = Literal["raise", "warn", "ignore"]


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """The implicit estimator and its options; :func:`hypergradient` is the same as a function.

    Args:
        solver: a registered name or a solver object.
        damping: added to the diagonal of the inner Hessian, at least 0.
        residual: compute the true relative residual of the solve, at the price of one product.
        on_failure: what to do when the solve fails: "raise" a SolverError, "warn" with a SolverWarning and return
            what the solver had, or "ignore".
        curvature: the matrix of the linear system: "hessian" (exact), "gauss-newton" (models only, see
            :class:`~hypergrad.curvature.GaussNewton`), or "finite-difference" (first derivatives only, see
            :class:`~hypergrad.curvature.FiniteDifference`). The inner gradient is exact with each, the cross term
            with the first two.
        curvature_share: of the inner batch's samples that the products are formed on, in (0, 1], drawn anew for each
            hypergradient by its key; the inner gradient and the cross term stay on the whole batch (see
            :class:`~hypergrad.curvature.OnSubBatch`).
        memory: "fast" keeps the graphs of the whole batch; "low" goes through both batches in micro-batches and
            rebuilds their graphs for each product (see :class:`~hypergrad.curvature.Accumulated`). A loss given as a
            function must then be a mean over the samples plus terms without samples.
        micro_batch: samples at a time in "low"; None for a quarter of the batch.
        precision: of the forward passes of the inner loss; with "bfloat16" they run under autocast, and parameters,
            vectors and the solve stay as they are.

    Raises:
        InvalidInputError: an option has an impossible value.
    """

    over_ranks: ClassVar[bool] = True

    solver: str | Solver = "neumann"
    damping: float = 0.0
    residual: bool = False
    on_failure: OnFailure = "warn"
    curvature: Kind = "hessian"
    curvature_share: float = 1.0
    memory: Memory = "fast"
    micro_batch: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", solvers.get(self.solver))
        if not isinstance(self.damping, int | float) or not 0 <= self.damping < float("inf"):
            raise InvalidInputError(f"damping must be a finite number of at least 0; got {self.damping!r}.")
        if self.on_failure not in get_args(OnFailure):
            raise InvalidInputError(f"on_failure must be one of {get_args(OnFailure)}; got {self.on_failure!r}.")
        check_options(self.curvature, self.curvature_share, self.memory, self.micro_batch, self.precision)

    def estimate(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        inner_batch: Sequence[Any] | None = None,
        outer_batch: Sequence[Any] | None = None,
        x0: Tensor | None = None,  # (P,)
        state: Mapping[str, Any] | None = None,
    ) -> Hypergradient:
        """See :func:`hypergradient`."""
        solver = self.solver
        assert not isinstance(solver, str)  # __post_init__ looked it up
        layout, hyper = Layout.of(params, "params"), Layout.of(hparams, "hparams")
        inner, outer = as_batch(inner_batch, "inner_batch"), as_batch(outer_batch, "outer_batch")
        if x0 is not None and x0.shape != (layout.size,):
            raise InvalidInputError(f"x0 must be flat with shape ({layout.size},); got {tuple(x0.shape)}.")
        ranks, outer_ranks = MeanOverRanks.of(inner), MeanOverRanks.of(outer)
        with preserved_rng(layout.device):
            A = linearize(
                shard_loss(inner_loss, ranks),
                params,
                hparams,
                inner,
                damping=self.damping if ranks.single else 0.0,
                curvature=self.curvature,
                share=self.curvature_share,
                memory=self.memory,
                micro_batch=self.micro_batch,
                precision=self.precision,
            )
            if not ranks.single:
                scores = JointScores(inner_loss, hparams, inner, ranks)
                A = OverRanks(A, ranks, scores, params, hparams, damping=self.damping)
            size = micro_batch_size(outer, self.memory, self.micro_batch) if outer else None
            own = outer_gradient(outer_loss, params, hparams, outer, size)
            outer_value, b, direct = mean_derivatives(outer_ranks, *own, hparams)
            losses = {"outer_loss": (outer_value, outer)}
            if self.curvature_share == 1:
                check_finite({"inner_loss": (A.value, inner), **losses}, A.gradient, b)
            else:  # the whole batch's graph is made after the solve, when the sub-batch's is gone
                check_finite(losses, b)
            solution = solver.solve(A, b, x0=x0, state=state)
            if self.residual:
                norm = b.norm()
                left = (b - A @ solution.x).norm()
                solution = replace(solution, residual=torch.where(norm > 0, left / norm, left), matvecs=A.matvecs)
            cross = A.cross_vjp(solution.x)
            inner_value, stationarity = A.value, A.gradient.norm()
            if self.curvature_share < 1:
                check_finite({"inner_loss": (inner_value, inner)}, stationarity)
        check_reached(hparams, direct, cross)
        implicit = {k: _zeros_if_none(cross[k], hparams[k]) for k in hyper.keys}
        explicit = {k: _zeros_if_none(direct[k], hparams[k]) for k in hyper.keys}
        self._act_on(solution)
        return Hypergradient(
            grads={k: explicit[k] - implicit[k] for k in hyper.keys},
            direct=explicit,
            implicit=implicit,
            inner_loss=inner_value,
            outer_loss=outer_value,
            stationarity=stationarity,
            solution=solution,
        )

    def _act_on(self, solution: Solution) -> None:
        if not solution.status.failed or self.on_failure == "ignore":
            return
        left = "" if solution.residual is None else f", relative residual {float(solution.residual):.3g}"
        message = " ".join(
            part
            for part in (
                f"The inverse-Hessian solve by {self.solver!r} ended with status {solution.status.name} "
                f"after {solution.matvecs} products{left}.",
                solution.detail,
                solution.status.advice,
            )
            if part
        )
        if self.on_failure == "raise":
            raise SolverError(message)
        warn(message, SolverWarning)


def hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Mapping[str, Tensor],
    hparams: Mapping[str, Tensor],
    *,
    inner_batch: Sequence[Any] | None = None,
    outer_batch: Sequence[Any] | None = None,
    solver: str | Solver = "neumann",
    damping: float = 0.0,
    x0: Tensor | None = None,
    state: Mapping[str, Any] | None = None,
    residual: bool = False,
    on_failure: OnFailure = "warn",
) -> Hypergradient:
    """The gradient of ``g(w*(h), h)`` with respect to ``h``, by the implicit function theorem.

    ``dg/dh - [d2f/dh dw] x`` with ``(H + damping I) x = dg/dw`` and ``H = d2f/dw2``, exact where ``params`` minimise
    the inner loss f and the solver solves; ``stationarity`` and the solution's ``status`` and ``residual`` say how
    far from that it is. The arguments, their ``.grad`` and the global random state are left as they were.

    Args:
        inner_loss: f, pure: ``inner_loss(params, hparams, *inner_batch) -> scalar``.
        outer_loss: g, pure: ``outer_loss(params, hparams, *outer_batch) -> scalar``.
        params: the inner variables ``w``, P elements in all, on one device.
        hparams: the hyperparameters ``h``.
        inner_batch: further arguments of f, or None.
        outer_batch: further arguments of g, or None.
        solver: a registered name (its defaults), or a solver object.
        damping: added to the diagonal of the inner Hessian.
        x0: a warm start, flat ``(P,)``, such as ``solution.x`` of the last call.
        state: what the solver wants back, ``solution.state`` of the last call.
        residual: compute the true relative residual, at the price of one product.
        on_failure: "raise", "warn" or "ignore" when the solve fails.

    Returns:
        A :class:`~hypergrad.Hypergradient`; ``grads`` is like ``hparams``.

    Raises:
        InvalidInputError: a loss is no scalar or does not depend on ``params``; a hyperparameter reaches neither loss.
        NonFiniteError: a loss or its gradient is NaN or infinite.
        SolverError: the solve failed and ``on_failure="raise"``.

    Example:
        Ridge regression in one dimension: ``w*(h) = c / (1 + h)``.

        >>> import torch, hypergrad
        >>> c, h = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
        >>> result = hypergrad.hypergradient(
        ...     inner_loss=lambda w, h: 0.5 * (w["w"] - c) ** 2 + 0.5 * h["decay"] * w["w"] ** 2,
        ...     outer_loss=lambda w, h: 0.5 * (w["w"] - 1.0) ** 2,
        ...     params={"w": c / (1 + h)},
        ...     hparams={"decay": h},
        ...     solver="cg",
        ... )
        >>> round(float(result.grads["decay"]), 6)  # (w* - 1) dw*/dh = 1 * -c / (1 + h)**2
        -1.333333

    References:
        Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", AISTATS 2020,
        eq. (2); Hataya et al., "Meta Approach to Data Augmentation Optimization", WACV 2022, eq. (5).
    """
    estimator = Implicit(solver=solver, damping=damping, residual=residual, on_failure=on_failure)
    return estimator.estimate(
        inner_loss, outer_loss, params, hparams, inner_batch=inner_batch, outer_batch=outer_batch, x0=x0, state=state
    )


def as_batch(batch: Sequence[Any] | None, name: str) -> tuple[Any, ...]:
    """A batch as positional arguments; a lone tensor is refused, because it would be unpacked along its first axis."""
    if batch is None:
        return ()
    if isinstance(batch, list | tuple):
        return tuple(batch)
    raise InvalidInputError(
        f"{name} must be a tuple or a list of arguments; got {type(batch).__name__}. Pass (x,) for one."
    )


def outer_gradient(
    outer_loss: Loss,
    params: Mapping[str, Tensor],
    hparams: Mapping[str, Tensor],
    batch: tuple[Any, ...],
    micro_batch: int | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """g, ``dg/dw`` flat ``(P,)``, and ``dg/dh`` at fixed w (None where g does not reach the hyperparameter).

    With ``micro_batch``, so many samples at a time, for a g that is a mean over the samples.
    """
    if micro_batch is None:
        pieces = Pieces([lambda w, h: LossParts(None, check_scalar(outer_loss(w, h, *batch), "outer_loss"))])
    else:
        pieces = cut(outer_loss, batch, samples_of(batch, "memory='low'"), micro_batch)
    found = first_derivatives(pieces, params, hparams, None, by_hparams=True)
    if not found.reached:
        raise InvalidInputError(
            "outer_loss does not depend on params: compute it from the params argument, without detach or no_grad."
        )
    return found.value, found.gradient, found.by_hparams


def check_finite(losses: Mapping[str, tuple[Tensor, tuple[Any, ...]]], *norms: Tensor) -> None:
    """Raise when a loss or a gradient is not finite, and say whether the batch already was (one host read).

    Raises:
        NonFiniteError: names the loss, its value, and the entries of its batch that are not finite.
    """
    total = torch.stack([v.detach().double() for v, _ in losses.values()] + [n.detach().norm().double() for n in norms])
    if bool(torch.isfinite(total).all()):
        return
    bad = {name: _bad_entries(batch) for name, (_, batch) in losses.items()}
    # What is checked is equal on all ranks, so that all of them are here.
    having = [r for r, row in enumerate(gather([int(any(bad.values()))])) if row[0] and r != rank()]
    for name, (value, _) in losses.items():
        if bad[name]:
            found = ", ".join(f"argument {i} has {n} NaN or infinite entries" for i, n in bad[name].items())
            raise NonFiniteError(
                f"{name} is {float(value)}: of its batch, {found}. Remove or repair these samples; no step was taken."
            )
        if not bool(torch.isfinite(value)) and not having:
            raise NonFiniteError(
                f"{name} is {float(value)} on a finite batch. Look for log or sqrt of 0, overflow, or parameters that "
                "have diverged (lower the inner learning rate); no step was taken."
            )
    if having:
        raise NonFiniteError(
            f"A loss or its gradient is not finite: the batch of rank {', '.join(map(str, having))} has entries that "
            "are not finite, and the error there says which; no step was taken."
        )
    raise NonFiniteError(
        "A loss is finite but its gradient is not. Look for sqrt or norm at 0, or a division that only the gradient "
        "makes; no step was taken."
    )


def _bad_entries(batch: tuple[Any, ...]) -> dict[int, int]:
    """By the place in the batch, how many entries are not finite; none where all are."""
    parts = {i: p for i, p in enumerate(batch) if isinstance(p, Tensor) and p.is_floating_point()}
    counts = {i: int((~torch.isfinite(p)).sum()) for i, p in parts.items()}
    return {i: n for i, n in counts.items() if n}


def check_reached(
    hparams: Mapping[str, Tensor], direct: Mapping[str, Tensor | None], cross: Mapping[str, Tensor | None]
) -> None:
    """Refuse a hyperparameter that neither loss depends on: its hypergradient would be 0 for ever.

    Raises:
        InvalidInputError: names the hyperparameters, and the way for those of the optimizer.
    """
    unreached = [k for k in hparams if direct[k] is None and cross[k] is None]
    if unreached:
        raise InvalidInputError(
            f"Hyperparameters {unreached} reach neither the inner gradient nor the outer loss, so their implicit "
            "gradient is 0. If a loss should use them, do not detach them there. If they belong to the optimizer (a "
            "learning rate, a momentum), differentiate through its steps: "
            "hypergrad.unrolled(..., steps=..., optimizer=...)."
        )


def _zeros_if_none(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, requires_grad=False) if gradient is None else gradient
