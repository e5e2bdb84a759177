"""A weight for each training sample as a hyperparameter."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypergrad.errors import InvalidInputError
from hypergrad.families.base import Context, HyperparameterFamily


class SampleWeights(HyperparameterFamily):
    """``losses[b] * weight[index[b]]``, with ``weight = softplus(raw) > 0``.

    Softplus and not the exponential: a weight that is pushed up grows linearly instead of taking over the mean, and
    one that is pushed down tends to 0. The weights are not normalised: the engine takes the plain mean of the
    weighted losses, so that a sample's part of the loss depends on its own weight alone.

    Batches must carry the samples' indices: ``(inputs, targets, index)``.

    Args:
        num_samples: N, the size of the training set.
        initial: every weight at the start, > 0.

    Raises:
        InvalidInputError: ``num_samples`` is no positive integer, or ``initial`` no positive number.

    Example:
        >>> import torch
        >>> from hypergrad.families import Context
        >>> family = SampleWeights(num_samples=10, initial=2.0)
        >>> ctx = Context(key=0, index=torch.tensor([7, 3]), soft=True, training=True)
        >>> family.weigh(torch.tensor([1.0, 5.0]), torch.zeros(2), ctx).detach()
        tensor([ 2., 10.])
    """

    needs_index = True
    raw: nn.Parameter

    def __init__(self, num_samples: int, *, initial: float = 1.0) -> None:
        super().__init__()
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
            raise InvalidInputError(
                f"num_samples must be a positive integer, the size of the training set; got {num_samples!r}."
            )
        if not isinstance(initial, int | float) or not 0 < initial < math.inf:
            raise InvalidInputError(
                f"initial must be a positive number, because softplus gives the weights; got {initial!r}."
            )
        # log(exp(w) - 1), in a form that overflows for no w.
        start = initial + math.log(-math.expm1(-initial))
        self.raw = nn.Parameter(torch.full((num_samples,), start))

    def weigh(self, losses: Tensor, targets: Tensor, ctx: Context) -> Tensor:
        """``losses`` ``(B,)`` or ``(B, T)``, each row times its sample's weight.

        Raises:
            InvalidInputError: no index, one of another length, of a dtype that is no integer, or (on CPU, where it
                costs no synchronisation) out of range.
        """
        index = self._checked_index(ctx.index, losses)
        weight = functional.softplus(self.raw[index])  # (B,)
        return losses * weight.view(-1, *[1] * (losses.ndim - 1))

    def values(self) -> dict[str, Tensor]:
        """``weight`` ``(N,)``."""
        return {"weight": functional.softplus(self.raw.detach())}

    def _checked_index(self, index: Tensor | None, losses: Tensor) -> Tensor:
        if index is None:
            raise InvalidInputError(
                "Sample weights need to know which samples a batch holds, and this batch has no index; "
                "make batches (inputs, targets, index)."
            )
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise InvalidInputError(f"The index must be integers; got dtype {index.dtype}. Use torch.int64.")
        if losses.ndim < 1 or index.shape != losses.shape[:1]:
            raise InvalidInputError(
                f"One index a sample is needed: losses have shape {tuple(losses.shape)}, "
                f"the index {tuple(index.shape)}. "
                'The loss must not be reduced over the batch (reduction="none").'
            )
        size = self.raw.shape[0]
        if index.device.type == "cpu" and bool(((index < 0) | (index >= size)).any()):
            raise InvalidInputError(
                f"The index runs from {int(index.min())} to {int(index.max())}, but num_samples={size} allows "
                f"0 to {size - 1}; num_samples must be the size of the whole training set."
            )
        return index.to(torch.int64)
