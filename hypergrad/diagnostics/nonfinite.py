"""Where a number stops being finite: which batch, which stage, and the operation that did it."""

from torch import Tensor

from hypergrad.diagnostics.evaluations import Batch
from hypergrad.diagnostics.measurements import NonFinite
from hypergrad.estimators.implicit import as_batch
from hypergrad.failures.tracing import examine
from hypergrad.failures.watching import not_finite
from hypergrad.keys import preserved_rng
from hypergrad.linearization import leaves, twice_differentiable
from hypergrad.objective import Objective
from hypergrad.tree import Layout


def find_nonfinite(objective: Objective, number: int, batch: Batch, val: Batch, key: int) -> NonFinite | None:
    """What is not finite on this pair of batches; None where everything is.

    The inner loss, its gradient and one product with the Hessian are formed by plain autograd, then the outer loss and
    its gradient, and every operation is watched; so this is slow, and meant for a pair that is known to be bad.

    Args:
        objective: at whose point.
        number: of the pair, for the record.
        batch, val: for the inner and the outer loss.
        key: of the noise.
    """
    inner, outer = objective.losses(key)
    device = Layout.of(objective.params, "params").device
    with preserved_rng(device, key):
        for data, loss, given in (("train_data", inner, batch), ("val_data", outer, val)):
            parts = as_batch(given, data)
            entries = tuple(
                (i, int((~part.isfinite()).sum()))
                for i, part in enumerate(parts)
                if isinstance(part, Tensor) and not_finite(part)
            )
            w, h = leaves(objective.params), leaves(objective.hparams)
            with twice_differentiable(device):
                stage, _, cause = examine(
                    lambda loss=loss, w=w, h=h, parts=parts: loss(w, h, *parts),  # type: ignore[misc]
                    list(w.values()),
                    twice=data == "train_data",
                )
            if entries or stage:
                return NonFinite(number, data, entries, stage or "loss", cause.operation, cause.dtype)
    return None
