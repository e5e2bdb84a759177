"""Gauss-Newton products: the curvature of the loss in the network's outputs, seen through the network."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from hypergrad.curvature.base import LossParts
from hypergrad.errors import InvalidInputError
from hypergrad.linearization import Curvature, Precision, check_double_backward, check_scalar, twice_differentiable
from hypergrad.second_order import Towards, replaced
from hypergrad.tree import TensorDict


class GaussNewton(Curvature):
    """``G = J^T (d2 data / d outputs2) J + d2 penalty / dw2`` at one point, from kept graphs.

    The Hessian without the second derivatives of the network: positive semi-definite where the loss is convex in the
    outputs and the penalty is convex, and equal to the Hessian where the network is linear in ``w``, or where
    the loss has gradient 0 in every output (interpolation). The bias is the part left out,
    ``sum_k (d data / d output_k) d2 output_k / dw2``. The gradient and the cross derivative are exact.

    The inner gradient ``J^T u`` is formed once with ``u = d data / d outputs`` in its graph. It is linear in ``u``, so
    that a product needs three backward passes and no forward-mode differentiation: ``J v``, by that graph towards
    ``u`` alone; the loss's curvature, from ``u`` to the outputs; ``J^T``, over the graph of the forward pass. For
    convolutions these are four convolutions a layer, where a Hessian product has six
    (see :mod:`hypergrad.second_order`).

    Args:
        loss: ``loss(params, hparams)``, evaluated once.
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``.
        precision: of the forward pass.

    Raises:
        InvalidInputError: the outputs are no single tensor that depends on the parameters, or the loss cannot be
            differentiated twice.

    References:
        Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", Neural Computation 14,
        2002, section 3; the product ``J v`` by two backward passes is the known double-vjp identity.
    """

    def __init__(
        self,
        loss: Callable[[TensorDict, TensorDict], LossParts],
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        damping: float = 0.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(params, hparams, damping)
        w = list(self._params.values())
        self._towards = Towards()
        # Under autocast torch casts the arguments of its own convolutions only.
        ours = replaced(self._towards) if precision == "float32" else nullcontext()
        with twice_differentiable(self.layout.device, precision), ours:
            parts = loss(self._params, self._hparams)
            check_scalar(parts.data, "inner_loss")
            self._outputs = _checked(parts.outputs)
            (u,) = torch.autograd.grad(parts.data, self._outputs, create_graph=True, allow_unused=True)
            self._u = torch.zeros_like(self._outputs) if u is None else u
            data = _gradients(self._outputs, w, self._u)
            penalty = _gradients(parts.penalty, w)
        check_double_backward(parts.total, self._params)
        self._data = data
        self._penalty = [g if g is not None and g.requires_grad else None for g in penalty]
        self._total = [a if b is None else b if a is None else a + b for a, b in zip(data, penalty, strict=True)]
        self._value = parts.total.detach()
        self._gradient = self.flat([None if g is None else g.detach() for g in self._total])

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``G v``."""
        w, parts = list(self._params.values()), self.layout.unflatten(v)
        penalty = self.flat(_vjp(self._penalty, w, parts))
        if not self._u.requires_grad:  # the loss is linear in the outputs
            return penalty
        with self._towards.outputs():
            (along,) = _vjp(self._data, [self._u], parts)  # J v, like the outputs
        (curved,) = _vjp([self._u], [self._outputs], [along])
        if curved is None:
            return penalty
        return penalty + self.flat(_vjp([self._outputs], w, [curved]))

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """``[d2f/dh dw] x``, exact: of the inner gradient itself."""
        found = _vjp(self._total, list(self._hparams.values()), self.layout.unflatten(x))
        return dict(zip(self._hparams, found, strict=True))


def _checked(outputs: object) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise InvalidInputError(
            f"curvature='gauss-newton' needs a model whose output is one tensor; got {type(outputs).__name__}. "
            "Wrap the model so that it returns the tensor that the loss takes, or use curvature='hessian'."
        )
    if not outputs.requires_grad:
        raise InvalidInputError("The model's outputs do not depend on params, so there is no inner problem.")
    return outputs


def _gradients(value: Tensor | None, inputs: Sequence[Tensor], weight: Tensor | None = None) -> list[Tensor | None]:
    """The gradient with its graph; None for an input that is not reached."""
    if value is None or not value.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(value, inputs, weight, create_graph=True, allow_unused=True))


def _vjp(
    values: Sequence[Tensor | None], inputs: Sequence[Tensor], vectors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """One backward pass from those values that have a graph, which is kept."""
    pairs = [(g, v) for g, v in zip(values, vectors, strict=True) if g is not None and v is not None]
    pairs = [(g, v.to(g.dtype)) for g, v in pairs if g.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    graphs, weights = zip(*pairs, strict=True)
    return list(torch.autograd.grad(graphs, inputs, weights, retain_graph=True, allow_unused=True))
