"""The unrolled estimator: back-propagation through T inner steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Loss
from hypergrad.estimators.implicit import as_batch, check_finite
from hypergrad.estimators.inner_optimizers import InnerOptimizer, Plan, plan
from hypergrad.keys import preserved_rng
from hypergrad.linearization import check_scalar, leaves, twice_differentiable
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
    with preserved_rng(layout.device), twice_differentiable(layout.device):
        w, losses, gradient = _inner_steps(inner_loss, leaves(params), through, batches, rules)
        g = check_scalar(outer_loss(dict(w), dict(at_end), *outer), "outer_loss")
        found = _gradients(g, [*at_end.values(), *through.values()])
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


def _inner_steps(
    loss: Loss, w: TensorDict, h: TensorDict, batches: Sequence[tuple[Any, ...]], rules: Plan
) -> tuple[TensorDict, list[Tensor], Tensor]:
    """``w_T`` with its graph to ``h``; the losses at ``w_0 ... w_{T-1}``; the gradient at ``w_0``, flat ``(P,)``."""
    layout = Layout.of(w, "params")
    advance = rules.bind(h)
    states = dict(rules.states)
    losses: list[Tensor] = []
    start = torch.zeros(0)
    for t, batch in enumerate(batches):
        # Copies, so that a loss that adds keys of its own does not add them here.
        f = check_scalar(loss(dict(w), dict(h), *batch), "inner_loss")
        grads = _gradients(f, list(w.values()), create_graph=True)
        if all(g is None for g in grads):
            raise InvalidInputError(
                "inner_loss does not depend on params: compute it from the params argument, without detach or no_grad."
            )
        if t == 0:
            entries = zip(grads, w.values(), strict=True)
            start = layout.flatten([torch.zeros_like(p) if g is None else g for g, p in entries]).detach()
        after = dict(w)
        for key, grad in zip(layout.keys, grads, strict=True):
            if grad is not None:  # a parameter without gradient stays, momentum or not, as in torch.optim
                after[key], states[key] = advance(key, w[key], grad, states[key])
        w = after
        losses.append(f.detach())
    return w, losses, start


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
