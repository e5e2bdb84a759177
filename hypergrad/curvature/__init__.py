"""The inner loss at one point, linearised as the options say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hypergrad.curvature.accumulated import Accumulated
from hypergrad.curvature.base import (
    Kind,
    Loss,
    LossParts,
    Memory,
    Replay,
    SeparableLoss,
    check_options,
    drawn_rows,
    micro_batch_size,
    samples_of,
    take,
)
from hypergrad.curvature.finite_difference import FiniteDifference
from hypergrad.curvature.gauss_newton import GaussNewton
from hypergrad.curvature.passes import Piece, cut, whole
from hypergrad.errors import InvalidInputError
from hypergrad.linearization import Curvature, Linearization, Precision

__all__ = [
    "Accumulated",
    "Curvature",
    "FiniteDifference",
    "GaussNewton",
    "Kind",
    "LossParts",
    "Memory",
    "OnSubBatch",
    "Precision",
    "SeparableLoss",
    "check_options",
    "linearize",
]


class OnSubBatch(Curvature):
    """Products from one linearisation, the value, the gradient and the cross term from another.

    With ``part`` on ``n`` samples drawn from the ``B`` of ``entire`` without replacement, the products are unbiased
    (without BatchNorm) with a variance proportional to ``1/n - 1/B``. The solution is not: the inverse is convex on
    positive definite matrices, so that on average ``x`` is too long, by a term of the order of that variance.

    Only one of the two exists at a time, made when it is asked for; made again, it has the same noise. So ask for all
    products first, for the rest afterwards.

    Args:
        entire: makes that on the whole batch.
        part: makes that on the sub-batch, at the same point.
        params: the point ``w``.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``.
    """

    def __init__(
        self,
        entire: Callable[[], Curvature],
        part: Callable[[], Curvature],
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        damping: float = 0.0,
    ) -> None:
        super().__init__(params, hparams, damping)
        self._make = (entire, part)
        self._replay = Replay(self.device)
        self._held: tuple[int, Curvature] | None = None

    @property
    def value(self) -> Tensor:  # ()
        """The whole batch's."""
        return self._get(0).value

    @property
    def gradient(self) -> Tensor:  # (P,)
        """The whole batch's."""
        return self._get(0).gradient

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """The sub-batch's."""
        return self._get(1).product(v)

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """The whole batch's."""
        return self._get(0).cross_vjp(x)

    def _get(self, which: int) -> Curvature:
        if self._held is None or self._held[0] != which:
            self._held = None  # before the other's graph is made
            with self._replay.again(which):
                self._held = (which, self._make[which]())
        return self._held[1]


def linearize(
    loss: Loss,
    params: Mapping[str, Tensor],
    hparams: Mapping[str, Tensor],
    batch: Sequence[Any] = (),
    *,
    damping: float = 0.0,
    curvature: Kind = "hessian",
    share: float = 1.0,
    memory: Memory = "fast",
    micro_batch: int | None = None,
    precision: Precision = "float32",
) -> Curvature:
    """``A`` and the cross derivative of ``loss(params, hparams, *batch)`` at this point.

    Args:
        loss: the inner loss; a :class:`~hypergrad.curvature.base.SeparableLoss` where an option needs its parts.
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        batch: further arguments of the loss.
        damping: added to the diagonal of ``A``.
        curvature: which matrix, see :class:`GaussNewton` and :class:`FiniteDifference`.
        share: of the batch's samples that the products are formed on, drawn from the global random state (which is
            left as it is); see :class:`OnSubBatch`.
        memory: "fast" for kept graphs of the whole batch, "low" for :class:`Accumulated`.
        micro_batch: samples at a time in "low"; None for a quarter of the batch.
        precision: of the forward passes.

    Raises:
        InvalidInputError: the loss or the batch does not have what an option needs.
    """
    if curvature == "gauss-newton" and not isinstance(loss, SeparableLoss):
        raise InvalidInputError(
            "curvature='gauss-newton' needs the network's outputs apart from the loss, and a function of params and "
            "hparams does not give them. Make the problem by BilevelProblem.for_model(model, family, ...), or use "
            "curvature='hessian'."
        )

    size = micro_batch_size(batch, memory, micro_batch)

    def of(kind: Kind, rows: Sequence[Any], *, products: bool = True) -> Curvature:
        return _on(loss, params, hparams, rows, kind, size, precision, products)

    if share == 1:
        operator = of(curvature, batch)
        operator.damping = damping
        return operator
    samples = samples_of(batch, f"curvature_share={share}")
    device = next(iter(params.values())).device
    chosen = drawn_rows(device, samples, share)
    rows = take(loss, chosen, batch, samples)
    # Only the cross term is asked of the whole batch, and that is exact in the Gauss-Newton form, too.
    exact: Kind = "hessian" if curvature == "gauss-newton" else curvature
    return OnSubBatch(
        lambda: of(exact, batch, products=False), lambda: of(curvature, rows), params, hparams, damping=damping
    )


def _on(
    loss: Loss,
    params: Mapping[str, Tensor],
    hparams: Mapping[str, Tensor],
    batch: Sequence[Any],
    kind: Kind,
    size: int | None,
    precision: Precision,
    products: bool,
) -> Curvature:
    def of_piece(piece: Piece, w: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> Curvature:
        if kind == "gauss-newton" and piece is not pieces.penalty:
            return GaussNewton(piece, w, h, precision=precision)
        return Linearization(lambda p, q: piece(p, q).total, w, h, precision=precision, products=products)

    if size is None:
        pieces = whole(loss, batch)
        if kind == "finite-difference":
            return FiniteDifference(pieces, params, hparams)
        return of_piece(pieces.data[0], params, hparams)
    samples = samples_of(batch, "memory='low'")
    pieces = cut(loss, batch, samples, size)
    if kind == "finite-difference":
        return FiniteDifference(pieces, params, hparams)
    return Accumulated(pieces, params, hparams, of_piece, precision=precision)
