"""The curvature of a batch whose samples lie on several ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hypergrad.curvature.base import Loss, LossParts, SeparableLoss
from hypergrad.curvature.passes import Pieces, first_derivatives, with_scores
from hypergrad.keys import preserved_rng
from hypergrad.linearization import Curvature
from hypergrad.reductions import MeanOverRanks
from hypergrad.tree import TensorDict


class ShardLoss:
    """A separable loss of one rank's shard, such that the mean over the ranks is the whole batch's.

    That is the shard's own mean loss, except that the score-function term has the weights of the whole batch's
    leave-one-out baseline, and lacks the part of it that no shard knows alone; :class:`JointScores` adds that.

    Args:
        loss: of the whole batch.
        samples: B, of the whole batch.
    """

    def __init__(self, loss: SeparableLoss, samples: int) -> None:
        self._loss, self._samples = loss, samples

    def __call__(self, params: TensorDict, hparams: TensorDict, *batch: Any) -> Tensor:
        """The loss, 0-d."""
        return self.parts(params, hparams, *batch).total

    def parts(self, params: TensorDict, hparams: TensorDict, *batch: Any, samples: int | None = None) -> LossParts:
        """The mean over the rows, or with ``samples`` their share of a shard of so many, without penalty."""
        rows = MeanOverRanks.rows(batch) if samples is None else samples
        part = self._loss.parts(params, hparams, *batch, samples=self._samples)
        penalty = self._loss.penalty(params, hparams) if samples is None else None
        return LossParts(part.outputs, part.data * (self._samples / rows), penalty)

    def penalty(self, params: TensorDict, hparams: TensorDict) -> Tensor:
        """The whole loss's."""
        return self._loss.penalty(params, hparams)

    def log_prob(self, hparams: TensorDict, *batch: Any) -> Tensor | None:
        """None: the baseline is the whole batch's."""
        return None

    def take(self, rows: Tensor, *batch: Any) -> tuple[Any, ...]:
        """As the whole loss's."""
        return self._loss.take(rows, *batch)

    def coupling(self) -> str:
        """As the whole loss's."""
        return self._loss.coupling()


class JointScores:
    """The part ``- data * d/dh sum_i log_prob_i / (B - 1)`` of the whole batch's leave-one-out baseline.

    ``data`` is the mean loss over all ranks, or its derivative along a vector.

    Args:
        loss: of the whole batch; a plain function has no such part.
        hparams: the point ``h``.
        batch: this rank's shard.
        ranks: its shares.
    """

    def __init__(self, loss: Loss, hparams: Mapping[str, Tensor], batch: Sequence[Any], ranks: MeanOverRanks) -> None:
        self._hparams, self._ranks = hparams, ranks
        self._separable = loss if isinstance(loss, SeparableLoss) and not ranks.single else None
        self._batch = batch

    def penalty(self, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Value and flat gradient ``(P,)`` of the penalty, which is no part of ``data``; None where nothing is."""
        separable = self._separable
        if separable is None:
            return None
        piece = Pieces([lambda w, h: LossParts(None, separable.penalty(w, h))])
        found = first_derivatives(piece, params, self._hparams, None)
        return found.value, found.gradient

    def added(self, found: Mapping[str, Tensor | None], data: Tensor) -> dict[str, Tensor | None]:
        """This rank's ``found``, with its samples' part such that the mean over the ranks has all."""
        separable = self._separable
        if separable is None:
            return dict(found)
        whole = Pieces(data=[], log_probs=[lambda h: separable.log_prob(h, *self._batch)], samples=self._ranks.samples)
        with preserved_rng(data.device):
            return with_scores(whole, self._hparams, None, found, data / self._ranks.share)

    def weight(self, hparams: TensorDict) -> Tensor | None:
        """``- sum_i log_prob_i / (B - 1)`` over this rank's samples as a 0 with a graph to ``hparams``, or None."""
        if self._separable is None:
            return None
        with preserved_rng(next(iter(hparams.values())).device):
            drawn = self._separable.log_prob(hparams, *self._batch)
        return None if drawn is None else (drawn.detach() - drawn).sum() / (self._ranks.samples - 1)


class OverRanks(Curvature):
    """The mean over the ranks of curvatures at one point, each of its own shard: every product is one reduction.

    With shards that are drawn and weighted as :class:`~hypergrad.reductions.MeanOverRanks` has it, this is the
    curvature of the whole batch, whatever the kind, except that train-mode BatchNorm normalises by each shard's own
    statistics. The cross term's reduction comes last, so that every rank has the same hypergradient.

    Args:
        local: of this rank's shard, without damping.
        ranks: the shares.
        scores: of the same shard.
        params: the point ``w``.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``, after the mean.
    """

    def __init__(
        self,
        local: Curvature,
        ranks: MeanOverRanks,
        scores: JointScores,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        damping: float = 0.0,
    ) -> None:
        super().__init__(params, hparams, damping)
        self._local, self._ranks, self._scores = local, ranks, scores
        self._means: tuple[Tensor, Tensor] | None = None

    @property
    def value(self) -> Tensor:  # ()
        """The mean of the ranks' losses."""
        return self._mean()[0]

    @property
    def gradient(self) -> Tensor:  # (P,)
        """The mean of the ranks' gradients."""
        return self._mean()[1]

    def _mean(self) -> tuple[Tensor, Tensor]:
        """On demand, because a sub-batch's graph comes before the whole shard's; at the same place on every rank."""
        if self._means is None:
            own = [self._local.value, self._local.gradient]
            value, gradient = self._ranks.mean_each(own, own)
            assert value is not None and gradient is not None
            self._means = value, gradient
        return self._means

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """The mean of the ranks' products."""
        return self._ranks.mean(self._local.product(v))

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """The mean of the ranks' cross terms."""
        found = self._local.cross_vjp(x)
        penalty = self._scores.penalty(self._params)
        if penalty is not None:
            found = self._scores.added(found, x.dot(self.gradient - penalty[1]))
        return self._ranks.mean_dict(found, self._hparams)


def shard_loss(loss: Loss, ranks: MeanOverRanks) -> Loss:
    """``loss`` for this rank's shard; a plain function is taken to be a mean over samples plus terms without any."""
    if ranks.single or not isinstance(loss, SeparableLoss):
        return loss
    return ShardLoss(loss, ranks.samples)


def mean_derivatives(
    ranks: MeanOverRanks,
    value: Tensor,
    gradient: Tensor,
    by_hparams: Mapping[str, Tensor | None],
    like: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """A loss's value, its flat gradient ``(P,)`` and its gradient in ``h``, averaged over the ranks at once."""
    if ranks.single:
        return value, gradient, dict(by_hparams)
    mean, flat, *rest = ranks.mean_each(
        [value, gradient, *(by_hparams[k] for k in like)], [value, gradient, *like.values()]
    )
    assert mean is not None and flat is not None
    return mean, flat, dict(zip(like, rest, strict=True))
