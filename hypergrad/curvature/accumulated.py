"""Products accumulated over micro-batches, whose graphs are rebuilt for each product."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hypergrad.curvature.base import Replay, add_entries
from hypergrad.curvature.passes import Piece, Pieces, first_derivatives, with_scores
from hypergrad.errors import InvalidInputError
from hypergrad.linearization import Curvature, Precision

#: Makes the linearisation of one piece at ``(params, hparams)``.
Linearize = Callable[[Piece, Mapping[str, Tensor], Mapping[str, Tensor]], Curvature]


class Accumulated(Curvature):
    """The curvature of a loss in pieces: a sum over their linearisations, of which only one exists at a time.

    Exact to rounding, also in the cross term of a score-function gradient: its leave-one-out baseline couples the
    samples by the mean loss, whose derivative along ``x`` is known once every micro-batch has been seen. Each product
    costs one more forward and backward pass of the batch than with a kept graph; memory is that of one piece's graph.

    Each micro-batch draws its own noise of torch's global generators (dropout inside the model), the same in every
    product; it is another draw than the whole batch's.

    Args:
        pieces: the loss.
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        linearize: of one piece.
        damping: added to the diagonal of ``A``.
        precision: of the forward pass.

    Raises:
        InvalidInputError: the loss does not depend on the parameters.
    """

    def __init__(
        self,
        pieces: Pieces,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        linearize: Linearize,
        *,
        damping: float = 0.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(params, hparams, damping)
        self._pieces, self._linearize = pieces, linearize
        self._replay = Replay(self.layout.device)
        data = Pieces(pieces.data)
        here = first_derivatives(data, self._params, self._hparams, self._replay, precision=precision)
        self._value, self._gradient, self._data_gradient = here.value, here.gradient, here.gradient
        reached = here.reached
        self._all = list(pieces.data)
        if pieces.penalty is not None:
            rest = first_derivatives(Pieces([pieces.penalty]), self._params, self._hparams, self._replay)
            self._value = self._value + rest.value
            if rest.reached:  # without a penalty it is a constant, which nothing can linearise
                self._all.append(pieces.penalty)
                self._gradient = self._gradient + rest.gradient
                reached = True
        if not reached:
            raise InvalidInputError(
                "inner_loss does not depend on params: compute it from the params argument, without detach or no_grad."
            )

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """The sum of the pieces' products."""
        total = torch.zeros_like(v)
        for number in range(len(self._all)):
            # No name for the piece, so that its graph is gone before the next one's is made.
            total += self._piece(number).product(v)
        return total

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """The sum of the pieces' cross terms, and the baseline's part."""
        total: dict[str, Tensor | None] = dict.fromkeys(self._hparams)
        for number in range(len(self._all)):
            total = add_entries(total, self._piece(number).cross_vjp(x))
        return with_scores(self._pieces, self._hparams, self._replay, total, x.dot(self._data_gradient))

    def _piece(self, number: int) -> Curvature:
        with self._replay.again(number):
            return self._linearize(self._all[number], self._params, self._hparams)
