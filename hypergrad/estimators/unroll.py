"""The unrolled estimator: back-propagation through T inner steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.curvature.over_ranks import JointScores, shard_loss
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Loss
from hypergrad.estimators.graph_over_ranks import mean_of_gradients, shared
from hypergrad.estimators.implicit import as_batch, check_finite
from hypergrad.estimators.inner_optimizers import InnerOptimizer, Plan, plan
from hypergrad.keys import preserved_rng
from hypergrad.linearization import check_scalar, leaves, twice_differentiable
from hypergrad.reductions import MeanOverRanks
from hypergrad.result import Hypergradient
from hypergrad.tree import Layout, TensorDict


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """The unrolled estimator and its options; :func:`unrolled` is the same as a function.

    Args:
        optimizer: the inner optimizer, see :func:`unrolled`.
        steps: T, how many inner steps are differentiated through; each is taken on the same inner batch.

    Raises:
        InvalidInputError: ``steps`` is no positive integer.
    """

    over_ranks: ClassVar[bool] = True

    optimizer: InnerOptimizer | torch.optim.Optimizer
    steps: int = 1

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def estimate(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        inner_batch: Sequence[Any] | None = None,
        outer_batch: Sequence[Any] | None = None,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Hypergradient:
        """See :func:`unrolled`; there is no linear system, so ``x0`` and ``state`` are not used."""
        return unrolled(
            inner_loss,
            outer_loss,
            params,
            hparams,
            steps=self.steps,
            optimizer=self.optimizer,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
        )


def unrolled(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Mapping[str, Tensor],
    hparams: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: InnerOptimizer | torch.optim.Optimizer,
    inner_batch: Sequence[Any] | None = None,
    inner_batches: Sequence[Sequence[Any]] | None = None,
    outer_batch: Sequence[Any] | None = None,
) -> Hypergradient:
    """The gradient of ``g(w_T(h), h)`` with respect to ``h``, where ``w_T`` is T inner steps from ``params``.

    ``w_{t+1} = step(w_t, df/dw(w_t, h), h)`` with ``w_0 = params`` held constant. It is exact for this truncated
    problem, and the only way to a hyperparameter of the optimizer itself. Memory grows with T. At a stationary point of
    f, T steps of plain SGD give what the Neumann series gives with T terms and alpha the learning rate.
    The arguments, their ``.grad`` and the global random state are left as they were.

    Args:
        inner_loss: f, pure: ``inner_loss(params, hparams, *batch) -> scalar``.
        outer_loss: g, pure: ``outer_loss(params, hparams, *outer_batch) -> scalar``.
        params: where the inner steps start.
        hparams: the hyperparameters.
        steps: T, at least 1.
        optimizer: :class:`~hypergrad.estimators.inner_optimizers.SGD` or ``Adam`` (whose options may be functions of
            the hyperparameters), or a ``torch.optim`` SGD, Adam or AdamW over the parameters in the order of
            ``params``, whose options and state are taken as constants and which is left as it is.
        inner_batch: further arguments of f, the same in every step.
        inner_batches: or one batch for each of the T steps.
        outer_batch: further arguments of g.

    Returns:
        A :class:`~hypergrad.result.Hypergradient` with ``direct = dg/dh`` at fixed ``w_T``, ``implicit = direct -
        grads``, ``inner_loss`` and ``stationarity`` at ``params``, ``outer_loss`` at ``w_T``, and no ``solution``.

    Raises:
        InvalidInputError: a loss is no scalar or does not depend on ``params``, a hyperparameter reaches neither the
            steps nor the outer loss, the batches are not ``steps`` in number, or the optimizer cannot be used.
        NonFiniteError: a loss or its gradient is NaN or infinite.

    Example:
        The gradient with respect to a learning rate: ``g = w_1^2 / 2``, ``w_1 = (1 - lr) w_0``.

        >>> import torch
        >>> from hypergrad.estimators.inner_optimizers import SGD
        >>> from hypergrad.estimators.unroll import unrolled
        >>> half_square = lambda w, h: 0.5 * w["w"] ** 2
        >>> result = unrolled(half_square, half_square, {"w": torch.tensor(2.0)}, {"lr": torch.tensor(0.5)},
        ...                   steps=1, optimizer=SGD(lr=lambda h: h["lr"]))
        >>> result.grads["lr"]  # -(1 - lr) w_0^2
        tensor(-2.)

    References:
        Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization", ICML 2017, section 3;
        Shaban et al., "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019.
    """
    _check_steps(steps)
    layout, hyper = Layout.of(params, "params"), Layout.of(hparams, "hparams")
    batches = _batches(steps, inner_batch, inner_batches)
    outer = as_batch(outer_batch, "outer_batch")
    rules = plan(optimizer, layout)
    # Two sets of leaves for one value: one backward pass then gives the path through the steps and the direct part.
    through, at_end = leaves(hparams), leaves(hparams)
    joint = MeanOverRanks.of(outer)
    # With several ranks a third set: what reaches h by the optimizer's options is the same on all, and no sum.
    by_options = through if joint.single else leaves(hparams)
    with preserved_rng(layout.device), twice_differentiable(layout.device):
        shards = _shards(inner_loss, hparams, batches, same=inner_batches is None)
        w, losses, gradient = _inner_steps(leaves(params), through, shards, rules, by_options)
        g = check_scalar(outer_loss(shared(joint, w), dict(at_end), *outer), "outer_loss")
        found = _gradients_in_h(joint, g, at_end, through, by_options)
        g = joint.mean(g.detach())
    direct, path = found[: len(hyper.keys)], found[len(hyper.keys) :]
    checked = {f"inner_loss of step {t}": (f, batches[t]) for t, f in enumerate(losses)} | {
        "outer_loss": (g.detach(), outer)
    }
    check_finite(checked, gradient, *[p for p in found if p is not None])
    unreached = [k for k, d, p in zip(hyper.keys, direct, path, strict=True) if d is None and p is None]
    if unreached:
        raise InvalidInputError(
            f"Hyperparameters {unreached} reach neither the inner steps nor the outer loss, so their gradient is 0. "
            "Use them in a loss or in an option of the optimizer (lr=lambda h: h['lr']), and do not detach them there."
        )
    explicit, total = {}, {}
    for key, d, p in zip(hyper.keys, direct, path, strict=True):
        explicit[key] = torch.zeros_like(hparams[key], requires_grad=False) if d is None else d
        total[key] = explicit[key] if p is None else explicit[key] + p
    return Hypergradient(
        grads=total,
        direct=explicit,
        implicit={k: explicit[k] - total[k] for k in hyper.keys},
        inner_loss=losses[0],
        outer_loss=g.detach(),
        stationarity=gradient.norm(),
    )


@dataclass(frozen=True)
class _Shard:
    """The inner loss of one step, on this rank's part of its batch."""

    loss: Loss
    batch: tuple[Any, ...]
    ranks: MeanOverRanks
    scores: JointScores


def _shards(
    loss: Loss, hparams: Mapping[str, Tensor], batches: Sequence[tuple[Any, ...]], *, same: bool
) -> list[_Shard]:
    """One a step; ``same``: all steps have one batch."""
    found: list[_Shard] = []
    for batch in batches[:1] if same else batches:
        ranks = MeanOverRanks.of(batch)
        found.append(_Shard(shard_loss(loss, ranks), batch, ranks, JointScores(loss, hparams, batch, ranks)))
    return found * len(batches) if same else found


def _inner_steps(
    w: TensorDict, h: TensorDict, shards: Sequence[_Shard], rules: Plan, by_options: TensorDict
) -> tuple[TensorDict, list[Tensor], Tensor]:
    """``w_T`` with its graph to ``h``; the losses at ``w_0 ... w_{T-1}``; the gradient at ``w_0``, flat ``(P,)``."""
    layout = Layout.of(w, "params")
    advance = rules.bind(by_options)
    states = dict(rules.states)
    losses: list[Tensor] = []
    start = torch.zeros(0)
    for t, shard in enumerate(shards):
        # Copies, so that a loss that adds keys of its own does not add them here.
        here = shared(shard.ranks, w)
        f = check_scalar(shard.loss(dict(here), dict(h), *shard.batch), "inner_loss")
        own = _gradients(f, list(here.values()), create_graph=True)
        if all(g is None for g in own):
            raise InvalidInputError(
                "inner_loss does not depend on params: compute it from the params argument, without detach or no_grad."
            )
        grads = _with_scores(mean_of_gradients(shard.ranks, own, list(w.values())), shard, w, h, layout)
        if t == 0:
            entries = zip(grads, w.values(), strict=True)
            start = layout.flatten([torch.zeros_like(p) if g is None else g for g, p in entries]).detach()
        after = dict(w)
        for key, grad in zip(layout.keys, grads, strict=True):
            if grad is not None:  # a parameter without gradient stays, momentum or not, as in torch.optim
                after[key], states[key] = advance(key, w[key], grad, states[key])
        w = after
        losses.append(shard.ranks.mean(f.detach()))
    return w, losses, start


def _with_scores(
    grads: list[Tensor | None], shard: _Shard, w: TensorDict, h: TensorDict, layout: Layout
) -> list[Tensor | None]:
    """The gradients with the part of the score-function term that no rank knows alone: a 0 with a graph to ``h``."""
    weight = shard.scores.weight(h)
    penalty = None if weight is None else shard.scores.penalty(w)
    if weight is None or penalty is None:
        return grads
    parts = zip(grads, layout.unflatten(penalty[1]), strict=True)
    return [None if g is None else g + weight * (g.detach() - p) for g, p in parts]


def _gradients_in_h(
    ranks: MeanOverRanks, g: Tensor, at_end: TensorDict, through: TensorDict, by_options: TensorDict
) -> list[Tensor | None]:
    """``dg/dh`` directly, and along the steps; one after the other, each in the order of the keys."""
    if ranks.single:
        return _gradients(g, [*at_end.values(), *through.values()])
    like = [*at_end.values(), *through.values()]
    own = _gradients(g * ranks.share, [*like, *by_options.values()])
    summed = ranks.total_each(own[: len(like)], like)
    for i, common in enumerate(own[len(like) :], start=len(at_end)):
        if common is not None:
            held = summed[i]
            summed[i] = common if held is None else held + common
    return summed


def _gradients(value: Tensor, inputs: list[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """``dvalue/dinputs``, None for an input that is not reached."""
    if not value.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True))


def _batches(
    steps: int, inner_batch: Sequence[Any] | None, inner_batches: Sequence[Sequence[Any]] | None
) -> list[tuple[Any, ...]]:
    """One batch a step."""
    if inner_batches is None:
        return [as_batch(inner_batch, "inner_batch")] * steps
    if inner_batch is not None:
        raise InvalidInputError("Give inner_batch (the same in every step) or inner_batches (one a step), not both.")
    if not isinstance(inner_batches, list | tuple) or len(inner_batches) != steps:
        got = len(inner_batches) if isinstance(inner_batches, list | tuple) else type(inner_batches).__name__
        raise InvalidInputError(f"inner_batches must be a list of steps={steps} batches; got {got}.")
    return [as_batch(batch, f"inner_batches[{t}]") for t, batch in enumerate(inner_batches)]


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InvalidInputError(f"steps must be a positive integer, the number of inner steps; got {steps!r}.")
