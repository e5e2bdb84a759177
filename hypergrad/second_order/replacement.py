"""The context in which layers are ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from hypergrad.second_order.convolution import convolution
from hypergrad.second_order.normalization import batch_norm, group_norm
from hypergrad.second_order.towards import Towards

__all__ = ["Towards", "replaced"]

#: Called with ``towards``, torch's function, and its arguments.
_OURS: dict[Any, Callable[..., Any]] = {
    torch.conv1d: convolution,
    torch.conv2d: convolution,
    torch.conv3d: convolution,
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
}


class _Replacing(TorchFunctionMode):
    def __init__(self, towards: Towards) -> None:
        super().__init__()
        self._towards = towards

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = _OURS.get(func)
        if ours is None or _kept_for_torch():
            return func(*args, **(kwargs or {}))
        return ours(self._towards, func, *args, **(kwargs or {}))


def _kept_for_torch() -> bool:
    """Inside a transform of torch.func, which refuses these functions, and inside activation checkpointing.

    What is checkpointed is computed again during products, outside of this context, and must then be what it was.
    """
    transformed: bool = torch._C._are_functorch_transforms_active()
    return transformed or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@contextmanager
def replaced(towards: Towards) -> Iterator[None]:
    """Inside, convolutions and normalisation layers are functions of ours, with the same values and derivatives.

    Their second backward pass is what a product with the Hessian spends its time on, and torch's is slow: it forms
    the two weight-like terms of a convolution as convolutions with kernels as large as images, and the terms of a
    normalisation as some forty passes over the activations. Ours calls the kernels of the first backward pass, and it
    follows ``towards``: a product ``J v`` needs only the terms that lead towards the gradient of the output, two
    convolutions of four, where torch's own forms all and throws the others away.
    """
    with _Replacing(towards):
        yield
