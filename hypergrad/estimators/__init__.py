"""How a hypergradient is formed: ``get(name, **options)``, ``names()``, and the registration of new ones."""

import dataclasses
from typing import Any

from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Estimator, Loss
from hypergrad.estimators.implicit import Implicit
from hypergrad.registry import Registry, closest

_registry: Registry[Estimator] = Registry(
    "estimator",
    {
        "implicit": "hypergrad.estimators.implicit:Implicit",
        "unrolled": "hypergrad.estimators.unroll:Unrolled",
    },
)

#: ``@register_estimator("name")`` on a frozen dataclass that satisfies :class:`~hypergrad.estimators.base.Estimator`.
register_estimator = _registry.register
names = _registry.names


def options_of(name: str) -> list[str]:
    """The options (fields) that the estimator registered under ``name`` takes."""
    cls = _registry.lookup(name)
    return [f.name for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []


def get(estimator: str | Estimator, **options: Any) -> Estimator:
    """An estimator by its registered name and options, or the object itself.

    Raises:
        UnknownNameError: no such name.
        InvalidInputError: an option that the class does not have, or something that is no estimator.
    """
    if isinstance(estimator, str):
        cls = _registry.lookup(estimator)
        known = options_of(estimator)
        for option in options:
            if option not in known:
                raise InvalidInputError(
                    f"Estimator {estimator!r} has no option {option!r} (got {option}={options[option]!r})."
                    f"{closest(option, known)} Options: {', '.join(known) or 'none'}."
                )
        return cls(**options)
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise InvalidInputError(
            f"An estimator is a registered name ({', '.join(names())}) or an object with an estimate method; "
            f"got {estimator!r}."
        )
    if options:
        raise InvalidInputError(f"Options {sorted(options)} go to the estimator's class, not beside {estimator!r}.")
    return estimator


__all__ = ["Estimator", "Implicit", "Loss", "get", "names", "options_of", "register_estimator"]
