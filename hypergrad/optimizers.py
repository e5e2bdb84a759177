"""Optimizer arguments: a factory, or an instance over the right tensors; and weight decay kept out of them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InexactWarning, InvalidInputError
from hypergrad.messages import warn
from hypergrad.tree import TensorDict

#: ``functools.partial(torch.optim.SGD, lr=0.1)``, or an instance.
OptimizerLike = torch.optim.Optimizer | Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def resolve(optimizer: OptimizerLike, tensors: TensorDict, name: str) -> torch.optim.Optimizer:
    """An optimizer over exactly ``tensors``.

    Raises:
        InvalidInputError: neither a factory nor an optimizer, or an optimizer over other tensors.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        if not callable(optimizer):
            raise InvalidInputError(
                f"{name} must be a factory such as functools.partial(torch.optim.SGD, lr=0.1), or a torch optimizer; "
                f"got {optimizer!r}."
            )
        made: Any = optimizer(list(tensors.values()))
        if not isinstance(made, torch.optim.Optimizer):
            raise InvalidInputError(f"{name} must make a torch.optim.Optimizer; the factory returned {made!r}.")
        optimizer = made
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InvalidInputError(
            f"{name} is LBFGS, which evaluates the loss itself several times a step; use SGD, Adam, RMSprop or another "
            "optimizer that steps without a closure."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [k for k, t in tensors.items() if id(t) not in held]
    extra = len(held) - (len(tensors) - len(missing))
    if missing or extra:
        raise InvalidInputError(
            f"{name} is not over the right tensors: it lacks {missing} and has {extra} others. Build it over "
            "problem.params or problem.hparams (the dicts' values), or give a factory."
        )
    return optimizer


def check_weight_decay(optimizer: torch.optim.Optimizer, remedy: str) -> None:
    """Weight decay belongs to the inner loss: in the optimizer it is missing from the Hessian.

    Args:
        optimizer: of the inner problem.
        remedy: where the decay should be given instead.

    Raises:
        InvalidInputError: coupled decay, which the loss can hold exactly.
    """
    for group in optimizer.param_groups:
        decay = group.get("weight_decay", 0.0)
        if not decay:
            continue
        if group.get("decoupled_weight_decay", False) or isinstance(optimizer, torch.optim.AdamW):
            warn(
                f"{type(optimizer).__name__} decays weights by {decay} outside the loss, so the fixed point is not "
                f"that of the loss and the implicit gradient is inexact. For an exact one "
                f"set weight_decay=0 and {remedy}.",
                InexactWarning,
            )
            return
        raise InvalidInputError(
            f"The inner optimizer {type(optimizer).__name__} has weight_decay={decay}, which the Hessian of the inner "
            f"loss does not contain (relative error 1.3 on ridge regression). Set weight_decay=0 there and {remedy}."
        )
