"""The contract of a hyperparameter family: what a hyperparameter is, and where it enters the losses."""

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.registry import closest
from hypergrad.tree import TensorDict


@dataclass(frozen=True)
class Context:
    """What a hook may know of the call it is part of.

    Attributes:
        key: the key of this call's noise (see :mod:`hypergrad.keys`); the same key draws the same noise.
        index: the samples' indices in the training set, integers ``(B,)``, or None when the batch has none.
        soft: True when gradients with respect to the hyperparameters will be taken (the outer step): relax what is
            discrete. False in inner steps: sample hard, as in use.
        training: True for the inner loss, False for the outer (validation) loss.
    """

    key: int
    index: Tensor | None
    soft: bool
    training: bool


class Predictor(Protocol):
    """The forward pass that :meth:`HyperparameterFamily.predict` wraps."""

    def __call__(self, inputs: Any) -> Any: ...


class HyperparameterFamily(nn.Module):
    """Base of every kind of hyperparameter. Its ``nn.Parameter`` s are the raw hyperparameters.

    Override only the hooks that are needed. Hooks must be differentiable functions of the family's parameters, must
    not mutate their arguments, and must never decide anything by ``requires_grad`` (it reads False inside
    ``torch.func.grad``); ``ctx.soft`` says what is wanted. A public method that is not a hook is refused when the
    class is defined, because it is most likely a misspelt hook that would never be called.

    Register a class with :func:`hypergrad.register_family` to make it available by name.
    """

    #: Set to True when a hook needs ``ctx.index``; a batch without indices is then refused.
    needs_index: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith("_") and not hasattr(HyperparameterFamily, name):
                raise InvalidInputError(
                    f"{cls.__name__}.{name} is not a hook of a hyperparameter family, so it would never be called."
                    f"{closest(name, list(HOOKS))} Hooks: {', '.join(HOOKS)}. Name a helper with a leading underscore."
                )

    def transform(
        self, inputs: Tensor, targets: Tensor, ctx: Context
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Change the training data (inner loss only).

        Returns:
            ``(inputs, targets)``, or ``(inputs, targets, log_prob)`` with the log-probability ``(B,)`` of the discrete
            choices that were drawn for each sample; the core then adds the score-function term with a leave-one-out
            baseline, which makes the gradient with respect to the choices' probabilities unbiased.
        """
        return inputs, targets

    def predict(self, model: Predictor, inputs: Tensor, ctx: Context) -> Any:
        """The forward pass, at both levels."""
        return model(inputs)

    def weigh(self, losses: Tensor, targets: Tensor, ctx: Context) -> Tensor:
        """Reweigh per-sample training losses ``(B,)`` or ``(B, T)``; the engine takes the mean of what is returned."""
        return losses

    def penalty(self, params: TensorDict) -> Tensor:
        """A scalar that is added to the training loss, from the model's parameters."""
        return torch.zeros((), device=next(iter(params.values())).device)

    def values(self) -> dict[str, Tensor]:
        """The constrained values, detached, for logs and plots."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}


#: The methods that a family may override.
HOOKS = ("transform", "predict", "weigh", "penalty", "values")
