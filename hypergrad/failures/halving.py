"""A solve that diverged is tried again with half its alpha."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypergrad.estimators.base import Estimator
from hypergrad.failures.guard import HALVINGS
from hypergrad.result import Hypergradient
from hypergrad.solvers.base import Status


def halved(estimator: Estimator, estimate: Callable[[Estimator], Hypergradient]) -> tuple[Hypergradient, int]:
    """The hypergradient with the largest of alpha, alpha / 2, ... whose solve neither diverges nor overflows.

    Args:
        estimator: with the alpha to begin with.
        estimate: forms the hypergradient with an estimator.

    Returns:
        The hypergradient, and how often alpha was halved; where that did not help, the estimator's own, and 0.
    """
    for halvings in range(HALVINGS + 1):
        quiet = with_alpha(estimator, 0.5**halvings)
        if quiet is None:
            break
        result = estimate(quiet)
        if result.solution is None or not result.solution.status.failed:
            return result, halvings
        if result.solution.status not in (Status.DIVERGED, Status.NONFINITE):
            break
    # It did not help: the estimator as it is, so that on_failure says what it has to say.
    return estimate(estimator), 0


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
