"""The first-order method: the inverse Hessian is replaced by the identity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hypergrad.solvers.base import LinearOperator, Solution, Status
from hypergrad.solvers.numerics import check_system


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """``x = b``: no product, no option, no reading by the host.

    Exact for ``A = I`` only. The hypergradient's size is then arbitrary, and even its sign can be wrong: with
    ``A = diag(1, 0.01)`` the second coordinate is a hundred times too small. The baseline of DARTS and of the
    "first-order" row in MADAO's Table 5.

    Example:
        >>> import torch
        >>> from hypergrad.testing import DenseOperator
        >>> FirstOrder().solve(DenseOperator(2 * torch.eye(2)), torch.ones(2)).x
        tensor([1., 1.])

    Reference:
        Liu, Simonyan and Yang, "DARTS", ICLR 2019, section 2.3 (xi = 0).
    """

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Return ``b``; the warm start and the state are not used.

        Raises:
            InvalidInputError: ``b`` or ``x0`` does not fit ``A``.
        """
        check_system(A, b, x0)
        return Solution(x=b.clone(), status=Status.TRUNCATED, matvecs=0)
