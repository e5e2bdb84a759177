"""The digits as floats, for losses that are enumerated and not trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.optional import require


@dataclass(frozen=True)
class Part:
    """Images ``(n, 1, side, side)`` in [0, 1] and labels ``(n,)``."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> "Part":
        """The images at ``rows``, in that order."""
        return Part(self.images[rows], self.labels[rows])


def read_digits() -> Part:
    """scikit-learn's 1,797 digits, 8x8, in its order and with its 17 levels."""
    digits = require("sklearn.datasets", "The digits", "vision").load_digits()
    return Part(
        torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target, dtype=torch.int64)
    )
