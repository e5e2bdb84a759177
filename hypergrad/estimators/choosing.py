"""The estimator that a training loop asks for, by its name and options, and what it asks the loop for."""

from typing import Any

from hypergrad import estimators
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.implicit import OnFailure
from hypergrad.solvers.base import Solver
from hypergrad.solvers.second_moments import SecondMoments


def chosen(
    estimator: str | Estimator, *, solver: str | Solver, damping: float, residual: bool, on_failure: OnFailure
) -> Estimator:
    """An estimator by name gets the options it has; one that it lacks must be at its default.

    Raises:
        UnknownNameError: no such name.
        InvalidInputError: an option that the estimator does not have, or one beside an estimator object.
    """
    options = {"solver": solver, "damping": damping, "residual": residual, "on_failure": on_failure}
    changed = [
        k for k, default in (("solver", "neumann"), ("damping", 0.0), ("residual", False)) if options[k] != default
    ]
    if not isinstance(estimator, str):
        if changed:
            raise InvalidInputError(
                f"{changed} were given beside the estimator object {estimator!r}; give them to the object."
            )
        return estimators.get(estimator)
    known = estimators.options_of(estimator)
    refused = [k for k in changed if k not in known]
    if refused:
        raise InvalidInputError(f"The estimator {estimator!r} has no options {refused}; it has {known}.")
    return estimators.get(estimator, **{k: v for k, v in options.items() if k in known})


def wants_second_moments(estimator: Any) -> bool:
    """Whether the solver of the estimator, or of the one that it wraps, has the preconditioner "adam"."""
    while hasattr(estimator, "inner"):
        estimator = estimator.inner
    return isinstance(getattr(getattr(estimator, "solver", None), "preconditioner", None), SecondMoments)
