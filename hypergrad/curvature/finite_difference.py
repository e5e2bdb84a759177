"""Products by central differences of the inner gradient: first derivatives only."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hypergrad.curvature.base import Replay
from hypergrad.curvature.passes import FirstDerivatives, Pieces, first_derivatives
from hypergrad.errors import InvalidInputError
from hypergrad.linearization import Curvature


class FiniteDifference(Curvature):
    """``H v`` as ``[df/dw(w + e v) - df/dw(w - e v)] / 2e``, and the cross term by the same difference of ``df/dh``.

    For losses without double backward: fused attention, activation checkpointing, hand-written backward passes. The
    step is ``e = eps^(1/3) (1 + ||w||) / ||v||``, which balances the truncation, ``e^2 / 6`` times the third derivative
    along ``v``, against the rounding, ``eps / e``: relative errors of about ``eps^(2/3)``, 1e-5 in float32 on a smooth
    loss and 1e-10 in float64, and more where the gradient is much larger than the product, or where a kink (ReLU,
    max-pooling) lies within the step. It costs two gradients a product, as much as the exact product does for
    convolutions, and the memory of a plain training step. The products are not exactly linear in ``v``.

    Args:
        pieces: the loss.
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``.

    Raises:
        InvalidInputError: the loss does not depend on the parameters.

    References:
        Andrei, "Accelerated conjugate gradient algorithm with finite difference Hessian/vector product approximation
        for unconstrained optimization", J. Comput. Appl. Math. 230, 2009 (the step); Liu, Simonyan, Yang, "DARTS:
        Differentiable Architecture Search", ICLR 2019, eq. (8) (the cross term).
    """

    def __init__(
        self,
        pieces: Pieces,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        damping: float = 0.0,
    ) -> None:
        super().__init__(params, hparams, damping)
        self._pieces = pieces
        self._replay = Replay(self.layout.device)
        self._w = self.flat(list(self._params.values())).detach()
        here = first_derivatives(pieces, self._params, self._hparams, self._replay)
        if not here.reached:
            raise InvalidInputError(
                "inner_loss does not depend on params: compute it from the params argument, without detach or no_grad."
            )
        self._value, self._gradient = here.value, here.gradient

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``H v``, by two gradients."""
        step, scale = self._step(v)
        return (self._at(step, v).gradient - self._at(-step, v).gradient) * scale

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """``[d2f/dh dw] x``, by two gradients in ``h``; None where f does not reach the hyperparameter."""
        step, scale = self._step(x)
        ahead, behind = (self._at(s, x, by_hparams=True).by_hparams for s in (step, -step))
        found: dict[str, Tensor | None] = {}
        for key, a in ahead.items():
            b = behind[key]
            found[key] = None if a is None or b is None else (a - b) * scale.to(a.dtype)
        return found

    def _step(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """``e`` and ``1 / 2e``, both 0-d; 0 and 0 for ``v = 0``, and without a word to the host."""
        size = torch.linalg.vector_norm(v)
        root = torch.finfo(self.dtype).eps ** (1 / 3) * (1 + torch.linalg.vector_norm(self._w))
        step = torch.where(size > 0, root / torch.where(size > 0, size, 1.0), 0.0)
        return step, torch.where(size > 0, size / (2 * root), 0.0)

    def _at(self, step: Tensor, v: Tensor, *, by_hparams: bool = False) -> FirstDerivatives:
        moved = self.layout.to_dict(self._w + step * v)
        return first_derivatives(
            self._pieces, moved, self._hparams, self._replay, by_params=not by_hparams, by_hparams=by_hparams
        )
