"""Controls for experiments: outer steps that cost and move as much as a hypergradient's and know less, or the wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.estimators.base import Loss
from hypergrad.estimators.implicit import Implicit
from hypergrad.keys import derive, generator
from hypergrad.result import Hypergradient
from hypergrad.tree import TensorDict


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """The hypergradient with its sign reversed: the hyperparameters ascend the outer loss.

    Args:
        inner: the estimator whose sign is reversed.

    Example:
        >>> Flipped(inner=Implicit(solver="first_order")).inner.damping
        0.0
    """

    over_ranks: ClassVar[bool] = True

    inner: Implicit = field(default_factory=Implicit)

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
        """As the wrapped estimator's, with ``grads`` reversed."""
        result = self.inner.estimate(
            inner_loss,
            outer_loss,
            params,
            hparams,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
            x0=x0,
            state=state,
        )
        return replace(result, grads={key: -grad for key, grad in result.grads.items()})


@dataclass(frozen=True, kw_only=True)
class Random:
    """A Gaussian direction with the norm of the hypergradient, entry of the dictionary by entry.

    Args:
        inner: the estimator whose norm is kept.
        seed: of the directions; the calls of a run draw one after another.
    """

    over_ranks: ClassVar[bool] = True

    inner: Implicit = field(default_factory=Implicit)
    seed: int = 0

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
        """As the wrapped estimator's, with other ``grads``; the number of calls travels in the solver's state."""
        passed = dict(state or {})
        draws = passed.pop("draws", 0)
        result = self.inner.estimate(
            inner_loss,
            outer_loss,
            params,
            hparams,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
            x0=x0,
            state=passed or None,
        )
        assert result.solution is not None  # the implicit estimator always solves
        solution = replace(result.solution, state={**result.solution.state, "draws": draws + 1})
        return replace(result, grads=self._directions(result.grads, draws), solution=solution)

    def _directions(self, grads: TensorDict, draws: int) -> TensorDict:
        changed = {}
        for key, grad in grads.items():
            drawn = generator(derive(self.seed, "control:random", draws, key))
            noise = torch.randn(grad.shape, generator=drawn, dtype=torch.float64).to(grad)
            changed[key] = noise * (grad.norm() / noise.norm())
        return changed
