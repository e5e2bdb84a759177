"""The contract of an estimator: how a hypergradient is formed from two losses at one point."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hypergrad.result import Hypergradient

#: ``loss(params, hparams, *batch) -> scalar``; the batch is there exactly when data was given.
Loss = Callable[..., Tensor]


@runtime_checkable
class Estimator(Protocol):
    """A frozen, keyword-only dataclass whose fields are its options."""

    def estimate(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        inner_batch: Sequence[Any] | None = None,
        outer_batch: Sequence[Any] | None = None,
        x0: Tensor | None = None,  # (P,), the last solution, where there is one
        state: Mapping[str, Any] | None = None,  # what the last solution's solver left
    ) -> Hypergradient:
        """The hypergradient at this point. Must leave its arguments and the global random state untouched."""
        ...
