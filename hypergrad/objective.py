"""f and g as one object: from two functions, or from a model and a family."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hypergrad import families
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Loss
from hypergrad.estimators.implicit import as_batch
from hypergrad.families.base import Context, HyperparameterFamily
from hypergrad.keys import derive
from hypergrad.linearization import check_scalar
from hypergrad.modules import call_module, check_model
from hypergrad.tree import Layout, TensorDict


class Objective(Protocol):
    """What a stepper needs: the live tensors of both levels, and the losses with their noise fixed by a key."""

    params: TensorDict
    hparams: TensorDict

    def training_loss(self, batch: Sequence[Any] | None, key: int) -> Tensor:
        """f at the live parameters, with a graph to them and none to the hyperparameters."""
        ...

    def losses(self, key: int) -> tuple[Loss, Loss]:
        """``(inner_loss, outer_loss)``, pure, all noise fixed by ``key``."""
        ...

    def check_ready(self) -> None:
        """Raise if an outer step taken now would be wrong."""
        ...


class FunctionObjective:
    """Two losses over dictionaries of tensors, which are cloned.

    Raises:
        InvalidInputError: a loss is not callable, or a dictionary is not one of floating-point tensors.
    """

    def __init__(
        self, inner_loss: Loss, outer_loss: Loss, params: Mapping[str, Tensor], hparams: Mapping[str, Tensor]
    ) -> None:
        for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
            if not callable(loss):
                raise InvalidInputError(f"{name} must be a function (params, hparams, *batch) -> scalar; got {loss!r}.")
        Layout.of(params, "params")
        Layout.of(hparams, "hparams")
        self._inner = inner_loss
        self._outer = outer_loss
        self.params = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
        self.hparams = {k: v.detach().clone().requires_grad_() for k, v in hparams.items()}

    def training_loss(self, batch: Sequence[Any] | None, key: int) -> Tensor:
        """f at the live parameters."""
        held = {k: v.detach() for k, v in self.hparams.items()}
        return check_scalar(self._inner(self.params, held, *as_batch(batch, "batch")), "inner_loss")

    def losses(self, key: int) -> tuple[Loss, Loss]:
        """The two functions; their noise comes from torch's global generator, which the stepper seeds."""
        return self._inner, self._outer

    def check_ready(self) -> None:
        """Nothing can be wrong beforehand."""


class _LossModule(nn.Module):
    """Model and family as one module whose forward is the whole loss, so that one call swaps every tensor."""

    def __init__(
        self, model: nn.Module, family: HyperparameterFamily, loss: Callable[..., Tensor], weight_decay: float
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.loss = loss
        self.weight_decay = weight_decay

    def forward(self, params: TensorDict, inputs: Tensor, targets: Tensor, ctx: Context) -> Tensor:
        log_prob = None
        if ctx.training:
            inputs, targets, log_prob = _transformed(self.family.transform(inputs, targets, ctx))
        losses = self.loss(self.family.predict(self.model, inputs, ctx), targets)
        if not isinstance(losses, Tensor) or losses.ndim not in (1, 2) or losses.shape[0] != inputs.shape[0]:
            shown = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InvalidInputError(
                f"loss must return one value a sample, shape ({len(inputs)},) or ({len(inputs)}, T); got {shown}. "
                "Leave the mean to hypergrad: functools.partial(loss, reduction='none')."
            )
        if not ctx.training:
            return losses.mean()
        losses = self.family.weigh(losses, targets, ctx)
        if log_prob is not None:
            losses = losses * score_weights(log_prob, inputs.shape[0]).view(-1, *[1] * (losses.ndim - 1))
        total = losses.mean() + self.family.penalty(params)
        if self.weight_decay:
            total = total + 0.5 * self.weight_decay * torch.stack([p.square().sum() for p in params.values()]).sum()
        return total


def _transformed(result: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    if not isinstance(result, tuple | list) or len(result) not in (2, 3):
        raise InvalidInputError(
            f"transform must return (inputs, targets) or (inputs, targets, log_prob); got {type(result).__name__}"
            f"{f' of length {len(result)}' if isinstance(result, tuple | list) else ''}."
        )
    return result[0], result[1], result[2] if len(result) == 3 else None


def score_weights(log_prob: Tensor, samples: int) -> Tensor:  # (B,) -> (B,)
    """Weights that equal 1 and carry the score-function gradient with a leave-one-out baseline.

    With ``m_i = exp(log_prob_i - SG(log_prob_i))``, which is 1 with derivative ``d log_prob_i``, the surrogate

        sum_i [ l_i m_i + b_i (1 - m_i) ],   b_i = mean of l_j over j != i,

    has the value ``sum_i l_i``, and its derivative is the unbiased ``sum_i (l_i - b_i) d log_prob_i`` plus the
    pathwise one; the same holds for each component of its gradient with respect to ``w``, which is what the cross
    derivative needs. Collecting the factor of ``l_i`` gives, with ``d = m - 1``, ``1 + (B d_i - sum d) / (B - 1)``.
    The samples' losses must not depend on each other's draws: through train-mode BatchNorm they do, weakly, and that
    influence (of order 1/B) is not credited.

    References:
        Foerster et al., "DiCE: The Infinitely Differentiable Monte Carlo Estimator", ICML 2018 (the form ``m``);
        Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019 (the baseline).
    """
    if log_prob.shape != (samples,):
        raise InvalidInputError(f"log_prob of transform must have shape ({samples},); got {tuple(log_prob.shape)}.")
    d = (log_prob - log_prob.detach()).exp() - 1
    return 1 + d if samples == 1 else 1 + (samples * d - d.sum()) / (samples - 1)


class ModelObjective:
    """A model, a family of hyperparameters, and a per-sample loss. The model and the family are used in place.

    The training loss is ``mean(weigh(loss(predict(model, transform(x)), y))) + penalty + weight_decay / 2 ||w||^2``,
    in the modes that the submodules train in; the validation loss is ``mean(loss(predict(model, x), y))`` in eval mode.

    Args:
        model: its parameters that require grad are the inner variables.
        family: a family, or a sequence of families, which are composed in order.
        loss: ``loss(outputs, targets)`` with one value a sample; a function with a ``reduction`` argument is called
            with ``reduction="none"``.
        weight_decay: of the training loss, so that ``weight_decay * w`` joins the gradient and the Hessian.

    Raises:
        InvalidInputError, UnsupportedModelError: an argument cannot be used; the message says why.
    """

    def __init__(
        self,
        model: nn.Module,
        family: HyperparameterFamily | Sequence[HyperparameterFamily],
        *,
        loss: Callable[..., Tensor] = F.cross_entropy,
        weight_decay: float = 0.0,
    ) -> None:
        check_model(model)
        if not isinstance(weight_decay, int | float) or not 0 <= weight_decay < float("inf"):
            raise InvalidInputError(f"weight_decay must be a finite number of at least 0; got {weight_decay!r}.")
        if isinstance(family, list | tuple):
            family = families.Compose(*family)
        if not isinstance(family, HyperparameterFamily):
            raise InvalidInputError(
                f"family must be a HyperparameterFamily or a list of them; got {family!r}. "
                f"By name: hypergrad.families.get(name, ...), with one of {families.names()}."
            )
        self.model = model
        self.family = family
        self.params: TensorDict = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self.hparams: TensorDict = {k: p for k, p in family.named_parameters() if p.requires_grad}
        Layout.of(self.params, "params")
        Layout.of(self.hparams, "hparams")
        self._module = _LossModule(model, family, _per_sample(loss), float(weight_decay))

    def training_loss(self, batch: Sequence[Any] | None, key: int) -> Tensor:
        """f at the live parameters: buffers are updated as in any training step, choices are sampled hard."""
        inputs, targets, index = self._unpack(batch)
        ctx = Context(key=derive(key, "inner"), index=index, soft=False, training=True)
        held = {f"family.{k}": h.detach() for k, h in self.hparams.items()}
        with torch.enable_grad():
            loss: Tensor = functional_call(self._module, held, (self.params, inputs, targets, ctx))
        return loss

    def losses(self, key: int) -> tuple[Loss, Loss]:
        """The pure training and validation losses; their noise is fixed by ``key``."""

        def inner(params: TensorDict, hparams: TensorDict, *batch: Any) -> Tensor:
            inputs, targets, index = self._unpack(batch)
            ctx = Context(key=derive(key, "inner"), index=index, soft=True, training=True)
            return self._call(params, hparams, inputs, targets, ctx)

        def outer(params: TensorDict, hparams: TensorDict, *batch: Any) -> Tensor:
            inputs, targets, index = self._unpack(batch, training=False)
            ctx = Context(key=derive(key, "outer"), index=index, soft=True, training=False)
            with _eval_mode(self._module):
                return self._call(params, hparams, inputs, targets, ctx)

        return inner, outer

    def check_ready(self) -> None:
        """Refuse an outer step while the model's root is in eval mode."""
        if not self.model.training:
            raise InvalidInputError(
                "The model is in eval mode (model.training is False), so the training loss would be another one than "
                "the inner steps minimise. Call model.train() after evaluating; submodules may stay in eval mode."
            )

    def _call(self, params: TensorDict, hparams: TensorDict, inputs: Tensor, targets: Tensor, ctx: Context) -> Tensor:
        swapped = {f"model.{k}": p for k, p in params.items()} | {f"family.{k}": h for k, h in hparams.items()}
        loss: Tensor = call_module(self._module, swapped, params, inputs, targets, ctx)
        return loss

    def _unpack(self, batch: Sequence[Any] | None, *, training: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        parts = as_batch(batch, "batch")
        if len(parts) not in (2, 3) or not all(isinstance(p, Tensor) for p in parts):
            kinds = ", ".join(type(p).__name__ for p in parts) or "nothing"
            raise InvalidInputError(
                f"A batch must be tensors (inputs, targets) or (inputs, targets, index); got ({kinds})."
            )
        inputs, targets = parts[0], parts[1]
        index = parts[2] if len(parts) == 3 else None
        if index is None and training and self.family.needs_index:  # indices are of the training set
            raise InvalidInputError(
                f"{type(self.family).__name__} needs each sample's index in the training set, and the batch has none: "
                "give batches (inputs, targets, index), for example from hypergrad.KeyedBatches."
            )
        if index is not None and (index.shape != inputs.shape[:1] or index.is_floating_point()):
            raise InvalidInputError(
                f"index must hold one integer a sample, shape ({inputs.shape[0]},); got shape {tuple(index.shape)}, "
                f"dtype {index.dtype}."
            )
        return inputs, targets, index


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule's own flag, which ``module.train(...)`` would overwrite."""
    flags = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for m, training in flags:
            m.training = training


def _per_sample(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``loss`` with ``reduction="none"`` where it has that argument."""
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "none") != "none":
        raise InvalidInputError(
            f"loss {loss!r} has reduction={loss.reduction!r}; hypergrad takes the mean itself: 'none'."
        )
    if not callable(loss):
        raise InvalidInputError(f"loss must be a function (outputs, targets) -> per-sample losses; got {loss!r}.")
    try:
        takes = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        takes = False
    bound = isinstance(loss, functools.partial) and "reduction" in loss.keywords
    return functools.partial(loss, reduction="none") if takes and not bound else loss
