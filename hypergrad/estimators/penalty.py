"""A first-order penalty method: no second derivative and no linear system."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.curvature.base import LossParts, Replay
from hypergrad.curvature.over_ranks import JointScores, mean_derivatives, shard_loss
from hypergrad.curvature.passes import FirstDerivatives, Pieces, first_derivatives
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Loss
from hypergrad.estimators.implicit import as_batch, check_finite, check_reached
from hypergrad.linearization import check_scalar
from hypergrad.reductions import MeanOverRanks
from hypergrad.result import Hypergradient
from hypergrad.tree import Layout


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """The fully first-order estimate ``dg/dh(y) + m [df/dh(z) - df/dh(y)]`` at two nearly optimal points.

    ``y`` descends f, and ``z`` descends ``f + g / m``, each by ``steps`` steps of gradient descent from ``params`` with
    the rate ``lr``, on the same batches with the same noise. At the two optima the bias is of order ``1 / m`` (the
    multiplier is the paper's lambda). With few steps it is that of a truncated solve: for a quadratic f at its minimum
    and large m, the estimate is the Neumann series with ``steps`` terms and ``alpha = lr``.

    It costs ``2 steps`` gradients and the memory of one, needs no double backward, and works where f is not smooth
    enough for a Hessian. The difference of two near gradients is multiplied by m: in float32 keep m below about
    1e3, or the rounding (of the order of ``m eps``) is all that is left.

    Args:
        multiplier: m, above 0.
        steps: of either descent, at least 1.
        lr: of the steps, in units of one over curvature; below ``2 / lambda_max`` of the inner Hessian.

    Raises:
        InvalidInputError: an option has an impossible value.

    References:
        Kwon, Kwon, Wright, Nowak, "A Fully First-Order Method for Stochastic Bilevel Optimization", ICML 2023,
        algorithm 1 and eq. (5).
    """

    over_ranks: ClassVar[bool] = True

    multiplier: float = 100.0
    steps: int = 10
    lr: float = 0.1

    def __post_init__(self) -> None:
        for name, value in (("multiplier", self.multiplier), ("lr", self.lr)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidInputError(f"{name} must be a finite number above 0; got {value!r}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InvalidInputError(f"steps must be a positive integer; got {self.steps!r}.")

    def estimate(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        inner_batch: Sequence[Any] | None = None,
        outer_batch: Sequence[Any] | None = None,
        x0: Tensor | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Hypergradient:
        """The estimate; ``direct = dg/dh(y)``, ``implicit = direct - grads``; ``x0`` and ``state`` are not used.

        ``inner_loss`` and ``stationarity`` of the result are those at ``params``, ``outer_loss`` is that at ``y``.

        Raises:
            InvalidInputError: a loss is no scalar or does not depend on ``params``, or a hyperparameter reaches none.
            NonFiniteError: a loss or its gradient is NaN or infinite.
        """
        layout = Layout.of(params, "params")
        Layout.of(hparams, "hparams")
        inner, outer = as_batch(inner_batch, "inner_batch"), as_batch(outer_batch, "outer_batch")
        f = _Joint.of(inner_loss, inner, "inner_loss", hparams)
        g = _Joint.of(outer_loss, outer, "outer_loss", hparams)
        replay = Replay(layout.device)

        def at(loss: _Joint, w: Tensor, *, by_hparams: bool = False) -> FirstDerivatives:
            return loss.at(layout.to_dict(w), hparams, replay, by_hparams=by_hparams)

        y = z = layout.flatten([p.detach() for p in params.values()])  # (P,)
        start, above = at(f, y), at(g, z)
        _refuse_unreached(start, "inner_loss")
        _refuse_unreached(above, "outer_loss")
        checked = {"inner_loss": (start.value, inner), "outer_loss": (above.value, outer)}
        check_finite(checked, start.gradient, above.gradient)
        for step in range(self.steps):
            pulled = above.gradient if step == 0 else at(g, z).gradient
            down = start.gradient if step == 0 else at(f, z).gradient
            z = z - self.lr * (down + pulled / self.multiplier)
            y = y - self.lr * (start.gradient if step == 0 else at(f, y).gradient)
        behind, ahead, explicit = (at(loss, w, by_hparams=True) for loss, w in ((f, y), (f, z), (g, y)))
        check_reached(hparams, explicit.by_hparams, behind.by_hparams)
        check_finite({"outer_loss": (explicit.value, outer)}, y, z)
        direct, implicit = {}, {}
        for key, h in hparams.items():
            zero = torch.zeros_like(h, requires_grad=False)
            low, high, straight = (d.by_hparams[key] for d in (behind, ahead, explicit))
            direct[key] = zero if straight is None else straight
            implicit[key] = zero if low is None or high is None else self.multiplier * (low - high)
        return Hypergradient(
            grads={k: direct[k] - implicit[k] for k in hparams},
            direct=direct,
            implicit=implicit,
            inner_loss=start.value,
            outer_loss=explicit.value,
            stationarity=start.gradient.norm(),
        )


@dataclass(frozen=True)
class _Joint:
    """A loss over the batch of all ranks."""

    pieces: Pieces
    ranks: MeanOverRanks
    scores: JointScores

    @classmethod
    def of(cls, loss: Loss, batch: tuple[Any, ...], name: str, hparams: Mapping[str, Tensor]) -> "_Joint":
        ranks = MeanOverRanks.of(batch)
        own = shard_loss(loss, ranks)
        pieces = Pieces([lambda w, h: LossParts(None, check_scalar(own(w, h, *batch), name))])
        return cls(pieces, ranks, JointScores(loss, hparams, batch, ranks))

    def at(
        self, w: Mapping[str, Tensor], hparams: Mapping[str, Tensor], replay: Replay, *, by_hparams: bool
    ) -> FirstDerivatives:
        own = first_derivatives(self.pieces, w, hparams, replay, by_params=not by_hparams, by_hparams=by_hparams)
        found = own.by_hparams
        penalty = self.scores.penalty(w) if by_hparams else None
        if penalty is not None:
            found = self.scores.added(found, self.ranks.mean(own.value) - penalty[0])
        value, gradient, found = mean_derivatives(self.ranks, own.value, own.gradient, found, hparams)
        return FirstDerivatives(value, gradient, found, own.reached)


def _refuse_unreached(found: FirstDerivatives, name: str) -> None:
    if not found.reached:
        raise InvalidInputError(
            f"{name} does not depend on params: compute it from the params argument, without detach or no_grad."
        )
