"""A symmetric matrix with a chosen spectrum, and a right-hand side that has a part in every eigendirection."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

System = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def system() -> System:
    def make(eigenvalues: Sequence[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        spectrum = torch.as_tensor(eigenvalues, dtype=torch.float64)
        n = len(spectrum)
        q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
        matrix = (q * spectrum) @ q.T
        return ((matrix + matrix.T) / 2).to(dtype), (q @ torch.linspace(1, 2, n, dtype=torch.float64)).to(dtype)

    return make
