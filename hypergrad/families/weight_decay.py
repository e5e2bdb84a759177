"""Weight decay as a hyperparameter: one, one a layer, one a parameter, or one an element."""

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.families.base import HyperparameterFamily
from hypergrad.registry import closest
from hypergrad.tree import TensorDict

Per = Literal["global", "layer", "parameter", "element"]


class WeightDecay(HyperparameterFamily):
    """``1/2 sum_i decay_i ||w_i||^2`` added to the training loss.

    Its gradient ``decay_i w_i`` is that of ``torch.optim.SGD(weight_decay=decay)``; here it is part of the inner loss
    and therefore of its Hessian, which an optimizer's own decay is not (leave that at 0). The raw hyperparameter is
    the logarithm of the decay, ``log_decay`` ``(G,)``, one entry a group.

    Args:
        model: whose parameters decay: those that require grad now, by the names of ``model.named_parameters()``. The
            model itself is not kept.
        per: what shares one decay: ``"global"`` all parameters, ``"layer"`` the parameters that one module owns,
            ``"parameter"`` each named tensor, ``"element"`` each number.
        initial: the decay to start from, > 0.
        skip_1d: leave parameters of fewer than two dimensions (biases, scales of normalisation) without decay.

    Raises:
        InvalidInputError: an unknown ``per``, an ``initial`` that has no logarithm, or no parameter to decay.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> sorted(WeightDecay(model, per="layer").values())
        ['decay.0', 'decay.1']
    """

    log_decay: nn.Parameter

    def __init__(self, model: nn.Module, *, per: Per = "global", initial: float = 5e-4, skip_1d: bool = False) -> None:
        super().__init__()
        allowed = list(get_args(Per))
        if per not in allowed:
            raise InvalidInputError(
                f"per must be one of {', '.join(allowed)}; got {per!r}.{closest(str(per), allowed)}"
            )
        if not isinstance(initial, int | float) or not 0 < initial < math.inf:
            raise InvalidInputError(
                f"initial must be a positive number, because the logarithm of the decay is learned; got {initial!r}. "
                "For nearly none: initial=1e-8."
            )
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"model must be an nn.Module; got {type(model).__name__}.")
        decayed = {n: p for n, p in model.named_parameters() if p.requires_grad and not (skip_1d and p.ndim < 2)}
        if not decayed:
            why = "requires grad and has two dimensions or more (skip_1d=True)" if skip_1d else "requires grad"
            raise InvalidInputError(f"No parameter of {type(model).__name__} {why}, so there is nothing to decay.")
        self._per = per
        self._shapes = {name: p.shape for name, p in decayed.items()}
        #: For each decayed parameter, the name of its group; groups are numbered in order of appearance.
        group_of = {name: _group(name, per) for name in decayed}
        self._groups = list(dict.fromkeys(group_of.values()))
        self._members = [[n for n in decayed if group_of[n] == group] for group in self._groups]
        dtype = torch.float32
        for p in decayed.values():
            dtype = torch.promote_types(dtype, p.dtype)
        size = sum(s.numel() for s in self._shapes.values()) if per == "element" else len(self._groups)
        device = next(iter(decayed.values())).device
        self.log_decay = nn.Parameter(torch.full((size,), math.log(initial), dtype=dtype, device=device))

    def penalty(self, params: TensorDict) -> Tensor:
        """``1/2 sum_i exp(log_decay_i) ||w_i||^2``, a scalar.

        Raises:
            InvalidInputError: ``params`` lack a decayed parameter, or it has another shape.
        """
        for name, shape in self._shapes.items():
            if name not in params:
                raise InvalidInputError(
                    f"The weight decay was made for a model with a parameter {name!r}; the parameters given have no "
                    f"such name.{closest(name, list(params))} Make WeightDecay from the model that is trained."
                )
            if params[name].shape != shape:
                raise InvalidInputError(
                    f"The weight decay was made for {name!r} of shape {tuple(shape)}; got {tuple(params[name].shape)}. "
                    "Make WeightDecay from the model that is trained."
                )
        if self._per == "element":
            parts = zip(self._split(self.log_decay.exp()), self._shapes, strict=True)
            return 0.5 * torch.stack([(decay * params[n] * params[n]).sum() for decay, n in parts]).sum()
        # p * p and not a squared norm: the norm has no derivative at p = 0.
        squares = [torch.stack([(params[n] * params[n]).sum() for n in names]).sum() for names in self._members]
        return 0.5 * (self.log_decay.exp() * torch.stack(squares)).sum()

    def values(self) -> dict[str, Tensor]:
        """``decay`` (global), or ``decay.<layer or parameter>``; of the parameter's shape when per element."""
        decay = self.log_decay.detach().exp()
        if self._per == "global":
            return {"decay": decay[0]}
        parts = self._split(decay) if self._per == "element" else iter(decay)
        return {f"decay.{group}": part for group, part in zip(self._groups, parts, strict=True)}

    def _split(self, flat: Tensor) -> Iterator[Tensor]:
        """The entries per element, in the parameters' shapes."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        for part, shape in zip(torch.split(flat, sizes), self._shapes.values(), strict=True):
            yield part.view(shape)


def _group(name: str, per: Per) -> str:
    """The group of a parameter, from its dotted name."""
    if per == "global":
        return "global"
    if per == "layer":
        return name.rpartition(".")[0] or "(model)"  # owned by the root module itself
    return name
