"""What comes back: a hypergradient, and the record of one outer step."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from hypergrad.solvers.base import Solution, Status
from hypergrad.tree import TensorDict


@dataclass(frozen=True)
class Hypergradient:
    """The gradient of the outer loss with respect to the hyperparameters, and what it was made of.

    ``grads = direct - implicit`` for the implicit estimator; estimators without that split give zeros for one part.

    Attributes:
        grads: like ``hparams``; with respect to the raw (unconstrained) hyperparameters.
        direct: the explicit part, ``dg/dh`` at fixed ``w``.
        implicit: ``[d2f/dh dw] x``, which is subtracted.
        inner_loss: f, 0-d.
        outer_loss: g, 0-d.
        stationarity: norm of the inner gradient, 0-d; the implicit function theorem wants 0.
        solution: the linear solve (its ``x`` is the warm start of the next), or None where nothing is solved.
    """

    grads: TensorDict
    direct: TensorDict
    implicit: TensorDict
    inner_loss: Tensor
    outer_loss: Tensor
    stationarity: Tensor
    solution: Solution | None = None


@dataclass(frozen=True)
class StepRecord:
    """One outer step, in plain numbers.

    Attributes:
        inner_step: inner steps taken before this outer step.
        outer_step: outer steps taken, this one included.
        inner_loss, outer_loss: the losses at the outer step's batches.
        status: of the solve; None where nothing is solved.
        residual: relative residual of the solve, or None.
        matvecs: products with the inner Hessian spent.
        stationarity: norm of the inner gradient.
        grad_norm: norm of the hypergradient.
        seconds: wall time of the outer step.
        memory: bytes that the outer step kept for its graph (saved tensors on CPU; the allocator's peak above the
            start on CUDA), measured in ``preflight`` only, else None.
        choice: the method that a solver that chooses (``auto``) used, else empty.
        alpha: of a Neumann series that was chosen or tuned for this solve, else None.
        detail: what the solver says about the solve, in a sentence, or empty.
        halvings: how often the solve was tried again with half the alpha (``on_nonfinite="halve"``).
        left_out: something was not finite, and no outer step was taken; losses and norms are NaN where unknown.
    """

    inner_step: int
    outer_step: int
    inner_loss: float
    outer_loss: float
    status: Status | None
    residual: float | None
    matvecs: int
    stationarity: float
    grad_norm: float
    seconds: float
    memory: int | None = None
    choice: str = ""
    alpha: float | None = None
    detail: str = ""
    halvings: int = 0
    left_out: bool = False

    def row(self) -> dict[str, Any]:
        """A flat dictionary of plain values, for a table, JSON or a data frame."""
        row = asdict(self)
        row["status"] = None if self.status is None else self.status.value
        return row
