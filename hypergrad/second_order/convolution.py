"""Convolutions whose double backward uses the kernels of the first, and can be asked for in part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.second_order.towards import Towards


@dataclass(frozen=True)
class _Options:
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    bias: list[int] | None  # its shape

    @property
    def geometry(self) -> tuple[Any, ...]:
        """In the order of aten, which has transposition in between."""
        return self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups


class _Convolution(torch.autograd.Function):
    """``x * w + b``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, options: _Options, towards: Towards) -> Any:
        ctx.save_for_backward(x, w)
        ctx.options, ctx.towards = options, towards
        return torch.ops.aten.convolution(x, w, b, *options.geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        wanted = list(ctx.needs_input_grad[:3])
        return *_apply(_Backward, g, *ctx.saved_tensors, wanted, ctx.options, ctx.towards), None, None


class _Backward(torch.autograd.Function):
    """The backward pass of a convolution, linear in ``g``."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, wanted: list[bool], options: _Options, towards: Towards
    ) -> Any:
        ctx.save_for_backward(g, x, w)
        ctx.options, ctx.towards = options, towards
        ctx.set_materialize_grads(False)
        return torch.ops.aten.convolution_backward(g, x, w, options.bias, *options.geometry, wanted)

    @staticmethod
    def backward(ctx: Any, by_x: Tensor | None, by_w: Tensor | None, by_b: Tensor | None) -> Any:
        g, x, w = ctx.saved_tensors
        aten, options = torch.ops.aten, ctx.options
        to_g, to_x, to_w = ctx.needs_input_grad[:3]
        rest = not ctx.towards.outputs_only
        total = x_term = w_term = None
        if by_x is not None:
            if to_g:
                total = aten.convolution(by_x, w, None, *options.geometry)
            if to_w and rest:
                _, w_term, _ = aten.convolution_backward(g, by_x, w, None, *options.geometry, [False, True, False])
        if by_w is not None:
            if to_g:
                term = aten.convolution(x, by_w, None, *options.geometry)
                total = term if total is None else total.add_(term)
            if to_x and rest:
                x_term, _, _ = aten.convolution_backward(g, x, by_w, None, *options.geometry, [True, False, False])
        if by_b is not None and to_g:
            term = by_b.view(-1, *[1] * (g.ndim - 2)).expand_as(g)
            total = term if total is None else total.add_(term)
        return total, x_term, w_term, None, None, None


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)


def convolution(
    towards: Towards,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    """The convolution of ours where it can be; without a batch axis, or with a padding by name, torch's."""
    dims = weight.ndim - 2
    if isinstance(padding, str) or input.ndim != dims + 2:
        return func(input, weight, bias, stride, padding, dilation, groups)
    options = _Options(
        stride=_sides(stride, dims),
        padding=_sides(padding, dims),
        dilation=_sides(dilation, dims),
        groups=groups,
        bias=None if bias is None else list(bias.shape),
    )
    return _apply(_Convolution, input, weight, bias, options, towards)


def _sides(value: int | Sequence[int], dims: int) -> list[int]:
    sides = [value] if isinstance(value, int) else list(value)
    return sides * dims if len(sides) == 1 else sides
