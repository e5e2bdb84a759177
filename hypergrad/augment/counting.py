"""How often each value occurs, without a look at the values."""

import torch
from torch import Tensor


def count_each(values: Tensor, size: int) -> Tensor:  # (..., N) -> (..., size)
    """The number of times that each of ``0 .. size - 1`` occurs, row by row; values outside are not allowed.

    ``torch.bincount`` does the same, but on an accelerator the host waits twice for it, for the smallest and the
    largest value.
    """
    none = torch.zeros(*values.shape[:-1], size, dtype=torch.int64, device=values.device)
    return none.scatter_add(-1, values, torch.ones_like(values))
