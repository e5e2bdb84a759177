"""The preconditioner ``"adam"``: the inner optimizer's second moments, handed over with every solve."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.solvers.base import LinearOperator
from hypergrad.solvers.options import check_real
from hypergrad.solvers.preconditioners import Prepared

#: Of the solver's state, where the second moments are handed over.
STATE_KEY = "preconditioner_second_moments"


@dataclass(frozen=True, kw_only=True)
class SecondMoments:
    """``M = diag(sqrt(v) + eps + damping)`` with the inner optimizer's second moments v, the newest in each solve.

    They come with the state of the solve: :class:`~hypergrad.HyperStepper` hands them over where it knows the inner
    optimizer (``inner_optimizer=``; ``problem.solve`` does that by itself), and in a loop of one's own it is
    ``state={**state, STATE_KEY: second_moments(optimizer, params)}``. Before the first inner step there are none, and M
    is the identity. What they are good for:
    :meth:`~hypergrad.solvers.preconditioners.Diagonal.from_second_moments`.

    Args:
        eps: added to the root.
        damping: added as well; a larger one makes M less unlike the identity.

    Raises:
        InvalidInputError: an option out of its range.

    Example:
        >>> import torch, hypergrad
        >>> hypergrad.solvers.get("cg", preconditioner="adam").preconditioner
        SecondMoments(eps=1e-08, damping=0.0)
    """

    eps: float = 1e-8
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_real("eps", self.eps, above=0.0, below=math.inf)
        check_real("damping", self.damping, low=0.0, below=math.inf)

    def build(self, A: LinearOperator, state: Mapping[str, Any]) -> Prepared:
        """The preconditioner from the moments in ``state``, of which nothing is kept.

        Raises:
            InvalidInputError: there are no moments, or they do not fit ``A``.
        """
        moments = state.get("second_moments")
        if not isinstance(moments, Tensor):
            raise InvalidInputError(
                "The preconditioner 'adam' was not given the inner optimizer's second moments. Give the optimizer to "
                "the stepper, problem.stepper(..., inner_optimizer=optimizer), or to a solve of your own "
                f"state={{{STATE_KEY!r}: second_moments(optimizer, params)}}; or use another preconditioner."
            )
        if moments.shape != (A.shape[0],) or moments.dtype != A.dtype or moments.device != A.device:
            raise InvalidInputError(
                f"The second moments must have {A.shape[0]} entries in {A.dtype} on {A.device}; got "
                f"{tuple(moments.shape)} in {moments.dtype} on {moments.device}."
            )
        values = moments.sqrt() + (self.eps + self.damping)
        values = torch.where(moments.max() > 0, values, torch.ones_like(values))
        return Prepared(lambda v: v / values)


def second_moments(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> Tensor:
    """Running means of the squared gradients, flat ``(P,)`` in the order of ``params``, without their bias.

    Args:
        optimizer: Adam, one of its variants with ``exp_avg_sq``, or RMSprop.
        params: the tensors that it optimises; 0 for those that it has made no step with.

    Raises:
        InvalidInputError: the optimizer keeps no second moments, or has other parameters.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = []
    for name, tensor in params.items():
        if id(tensor) not in groups:
            raise InvalidInputError(
                f"The inner optimizer does not have the parameter {name!r}, so it has no second moments of it. Give "
                "the optimizer that trains the problem's own parameters."
            )
        held = optimizer.state.get(tensor, {})
        if "exp_avg_sq" in held:
            _, beta = groups[id(tensor)]["betas"]
            moments = held["exp_avg_sq"] / (1 - beta ** float(held["step"]))
        elif "square_avg" in held and "acc_delta" not in held:  # RMSprop's; Adadelta's are of another use
            moments = held["square_avg"]
        elif not held and isinstance(optimizer, _KEEPING):
            moments = torch.zeros_like(tensor)
        else:
            raise InvalidInputError(
                "The preconditioner 'adam' needs the second moments of the inner optimizer; "
                f"{type(optimizer).__name__} keeps none. Train with Adam, AdamW, NAdam, RAdam or RMSprop, or use "
                "preconditioner='hutchinson' or 'nystrom'."
            )
        found.append(moments.detach().reshape(-1).to(tensor.dtype))
    return torch.cat(found)


_KEEPING = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop)
