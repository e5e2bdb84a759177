"""Batch and group normalisation, differentiated twice by a handful of passes over the activations.

A layer gives ``w n + b`` with ``n = (x - mean) r`` and ``r = (var + eps)^(-1/2)``, the statistics over sets of N
elements: a channel of the batch, or a group of channels of one sample. Its backward pass is

    towards x: r P (w g)      towards w: sum g n      towards b: sum g      with P t = t - mean(t) - n mean(t n),

P symmetric, its means over a set. The second pass has the cotangents ``u``, ``v_w`` and ``v_b`` of these three, that
is, it differentiates the scalar ``sum r C + sum v_w g n + sum v_b g``, where ``C = sum u P (w g)`` is one number a set.
From ``dr / dx = - r^2 n / N`` and ``d(sum t n) / dx = r P t``,

    towards g: w r P u + v_w n + v_b
    towards w: sum r g P u
    towards x: - r^2 [n C + (sum w g n) P u + (sum u n) P (w g)] / N + r P (v_w g),

all of them affine in ``u``, ``g`` and ``x`` with one coefficient for each sample and channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.second_order.towards import Towards


@dataclass(frozen=True)
class _Layer:
    groups: int | None  # None for the statistics of the batch
    eps: float
    towards: Towards

    def forward(self, x: Tensor, w: Tensor, b: Tensor, running: Any, momentum: float) -> Any:
        """The result, the mean and ``r``."""
        if self.groups is None:
            return torch.ops.aten.native_batch_norm(x, w, b, *running, True, momentum, self.eps)
        return torch.ops.aten.native_group_norm(x, w, b, len(x), x.shape[1], x[0, 0].numel(), self.groups, self.eps)

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor) -> Any:
        """Towards x, w and b."""
        wanted = [True, True, True]
        if self.groups is None:
            return torch.ops.aten.native_batch_norm_backward(g, x, w, None, None, mean, r, True, self.eps, wanted)
        sizes = (len(x), x.shape[1], x[0, 0].numel(), self.groups)
        return torch.ops.aten.native_group_norm_backward(g, x, mean, r, w, *sizes, wanted)

    def spread(self, statistic: Tensor, channels: int) -> Tensor:
        """A statistic for each sample and channel, ``(B, C)`` or ``(1, C)``."""
        if self.groups is None:
            return statistic.view(1, -1)
        return statistic.view(-1, self.groups).repeat_interleave(channels // self.groups, 1)

    def total(self, parts: Tensor) -> Tensor:  # (B, C) -> (B, C) or (1, C)
        """Sums over the sets, from sums over the pixels."""
        if self.groups is None:
            return parts.sum(0, keepdim=True)
        rows, channels = parts.shape
        return self.spread(parts.view(rows, self.groups, -1).sum(2), channels)


class _Norm(torch.autograd.Function):
    """The layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor,
        layer: _Layer,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
    ) -> Any:
        result, mean, r = layer.forward(x, w, b, running, momentum)
        ctx.layer = layer
        ctx.save_for_backward(x, w, mean, r)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return *_apply(_Backward, g, *ctx.saved_tensors, ctx.layer), None, None, None


class _Backward(torch.autograd.Function):
    """The backward pass, linear in ``g``."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, layer: _Layer) -> Any:
        ctx.layer = layer
        ctx.save_for_backward(g, x, w, mean, r)
        ctx.set_materialize_grads(False)
        return layer.backward(g.contiguous(), x, w, mean, r)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v_w: Tensor | None, v_b: Tensor | None) -> Any:
        by_g, by_x, by_w = _second(ctx.layer, ctx.saved_tensors, (u, v_w, v_b), ctx.needs_input_grad)
        return by_g, by_x, by_w, None, None, None


def _second(
    layer: _Layer,
    saved: tuple[Tensor, ...],
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Towards ``g``, ``x`` and ``w``; the names are those of the module's formulas."""
    g, x, w, mean, r = saved
    u, v_w, v_b = cotangents
    if u is None and v_w is None and v_b is None:
        return None, None, None
    to_g, to_x, to_w = wanted[:3]
    if layer.towards.outputs_only:
        to_x = to_w = False
    channels, count = x.shape[1], x.numel() // mean.numel()
    mean, r = layer.spread(mean, channels), layer.spread(r, channels)
    v_w = torch.zeros_like(w) if v_w is None else v_w
    v_b = torch.zeros_like(w) if v_b is None else v_b
    u_0, u_n = _sums(u, x, mean, r) if u is not None else (torch.zeros_like(mean),) * 2
    su, sun = layer.total(u_0) / count, layer.total(u_n) / count  # the means of u and u n
    by_g = by_x = by_w = None
    if to_g:
        by_g = _affine(x, mean, r, v_w - w * r * sun, v_b - w * r * su, (u, w * r))
    if not (to_x or to_w):
        return by_g, None, None
    g_0, g_n = _sums(g, x, mean, r)
    ug = _pixels(u * g) if u is not None else torch.zeros_like(mean)
    if to_w:
        by_w = (r * (ug - su * g_0 - sun * g_n)).sum(0)
    if to_x:
        sg, sgn = layer.total(w * g_0) / count, layer.total(w * g_n) / count
        C = layer.total(w * ug) / count - su * sg - sun * sgn
        vg, vgn = layer.total(v_w * g_0) / count, layer.total(v_w * g_n) / count
        by_n = -r * r * (C - 2 * sgn * sun) - r * vgn
        constant = r * r * (sgn * su + sun * sg) - r * vg
        by_x = _affine(x, mean, r, by_n, constant, (u, -r * r * sgn), (g, r * v_w - r * r * sun * w))
    return by_g, by_x, by_w


def _pixels(t: Tensor) -> Tensor:  # (B, C, ...) -> (B, C)
    return t.flatten(2).sum(2)


def _sums(t: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """``sum t`` and ``sum t n`` over the pixels."""
    total = _pixels(t)
    return total, r * (_pixels(t * x) - mean * total)


def _affine(
    x: Tensor, mean: Tensor, r: Tensor, by_n: Tensor, constant: Tensor, *terms: tuple[Tensor | None, Tensor]
) -> Tensor:
    """``by_n n + constant + sum_i c_i t_i``."""

    def wide(a: Tensor) -> Tensor:
        return a.view(*a.shape, *[1] * (x.ndim - 2))

    scale = by_n * r
    result = x * wide(scale)
    for t, c in terms:
        if t is not None:
            result.addcmul_(t, wide(c))
    return result.add_(wide(constant - scale * mean))


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)


def batch_norm(
    towards: Towards,
    func: Callable[..., Any],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Ours where the batch's statistics are used and there are weights and pixels; else torch's."""
    if not training or weight is None or bias is None or input.ndim < 3:
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    layer = _Layer(None, eps, towards)
    return _apply(_Norm, input, weight, bias, layer, (running_mean, running_var), momentum)


def group_norm(
    towards: Towards,
    func: Callable[..., Any],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Ours where there are weights and pixels; else torch's."""
    if weight is None or bias is None or input.ndim < 3:
        return func(input, num_groups, weight, bias, eps)
    return _apply(_Norm, input.contiguous(), weight, bias, _Layer(num_groups, eps, towards), (None, None), 0.0)
