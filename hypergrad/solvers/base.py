"""The contract of an inverse-Hessian solver: options in, ``Solution`` out. Linear algebra only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


class Status(Enum):
    """How a solve ended. ``failed`` says whether the answer should not be used; ``advice`` what to try."""

    CONVERGED = "converged"
    TRUNCATED = "truncated"
    MAX_STEPS = "max_steps"
    NEGATIVE_CURVATURE = "negative_curvature"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"

    @property
    def failed(self) -> bool:
        """True for statuses that ``on_failure`` acts upon. A fixed budget, used by design, is no failure."""
        return self not in (Status.CONVERGED, Status.TRUNCATED)

    @property
    def advice(self) -> str:
        """One sentence: what to try."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "The wanted tolerance was reached.",
    Status.TRUNCATED: "The fixed budget was used, as asked; ask for residual=True to see what it leaves.",
    Status.MAX_STEPS: "The tolerance was not reached: raise max_steps, add damping, or loosen tol.",
    Status.NEGATIVE_CURVATURE: (
        "The inner Hessian is not positive definite here: train the inner problem longer, add damping, "
        "or use solver='minres'."
    ),
    Status.DIVERGED: "The iteration grows: lower alpha below 2 / lambda_max, or use alpha='auto'.",
    Status.NONFINITE: (
        "A product with the Hessian is NaN or infinite: check the inner loss for overflow (log or sqrt of zero, "
        "half precision) at this batch."
    ),
}


@runtime_checkable
class LinearOperator(Protocol):
    """What a solver sees of ``A = H + damping I``: square, symmetric, known by its products."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __matmul__(self, v: Tensor) -> Tensor: ...  # (P,) -> (P,)
    def dense(self) -> Tensor: ...  # (P, P)


@dataclass(frozen=True)
class Solution:
    """What a solver returns.

    Attributes:
        x: the approximate solution of ``A x = b``, flat ``(P,)``.
        status: how the solve ended.
        matvecs: products with ``A`` spent.
        residual: ``||b - A x|| / ||b||``, a 0-d tensor (no host synchronisation) where the method has it for free,
            else None.
        state: what the next solve of the same run should be given (a chosen alpha, a sketch); tensors and plain
            numbers only, so that it can be saved.
        choice: the method that was used, for a solver that chooses, else empty.
        detail: one more sentence (what was chosen; for a failed status a bound, a curvature), or empty.
    """

    x: Tensor
    status: Status
    matvecs: int
    residual: Tensor | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""
    choice: str = ""


@runtime_checkable
class Solver(Protocol):
    """A frozen, keyword-only dataclass whose fields are its options, checked on construction."""

    def solve(
        self,
        A: LinearOperator,
        b: Tensor,  # (P,)
        *,
        x0: Tensor | None = None,  # (P,), a warm start
        state: Mapping[str, Any] | None = None,
    ) -> Solution:
        """Approximate the solution of ``A x = b``."""
        ...
