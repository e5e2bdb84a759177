"""The same estimator with a smaller alpha."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypergrad.estimators.base import Estimator


def with_alpha(estimator: Estimator, factor: float) -> Estimator | None:
    """The estimator with ``factor`` times its solver's alpha, and nothing said about a failed solve.

    None where it has no solver with a number for alpha (``"auto"`` lowers its own).

    Args:
        estimator: such as :class:`~hypergrad.estimators.Implicit`; frozen.
        factor: in (0, 1].
    """
    solver: Any = getattr(estimator, "solver", None)
    alpha = getattr(solver, "alpha", None)
    if not is_dataclass(solver) or isinstance(solver, type) or not isinstance(alpha, int | float):
        return None
    if not is_dataclass(estimator) or "on_failure" not in {f.name for f in fields(estimator)}:
        return None
    changed: Estimator = replace(estimator, solver=replace(solver, alpha=alpha * factor), on_failure="ignore")
    return changed
