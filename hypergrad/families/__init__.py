"""Hyperparameter families: ``get(name, **options)``, ``names()``, and the registration of new ones."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from hypergrad.errors import InvalidInputError
from hypergrad.families.base import HOOKS, Context, HyperparameterFamily, Predictor
from hypergrad.families.compose import Compose
from hypergrad.registry import Registry, closest

F = TypeVar("F", bound=HyperparameterFamily)

_registry: Registry[HyperparameterFamily] = Registry(
    "family",
    {
        "weight_decay": "hypergrad.families.weight_decay:WeightDecay",
        "sample_weights": "hypergrad.families.sample_weights:SampleWeights",
        "madao": "hypergrad.augment.madao:Madao",
    },
)

names = _registry.names


def register_family(name: str) -> Callable[[type[F]], type[F]]:
    """Decorator that makes a :class:`~hypergrad.families.base.HyperparameterFamily` available by name.

    Raises:
        InvalidInputError: the name is taken by another class, or what is decorated is no family.
    """
    add = _registry.register(name)

    def decorate(cls: type[F]) -> type[F]:
        if not (isinstance(cls, type) and issubclass(cls, HyperparameterFamily)):
            raise InvalidInputError(f"The family {name!r} must be a subclass of HyperparameterFamily; got {cls!r}.")
        add(cls)
        return cls

    return decorate


def get(family: str | HyperparameterFamily, /, **options: Any) -> HyperparameterFamily:
    """A family by its registered name and options, or the object itself.

    Args:
        family: a registered name, or a family object (then no options).
        options: parameters of the class's constructor.

    Raises:
        UnknownNameError: no such name.
        InvalidInputError: an option that the class does not have (the message lists those it has), one that it needs
            and did not get, a value that its constructor refuses, or something that is no family.

    Example:
        >>> from hypergrad import families
        >>> families.get("sample_weights", num_samples=3).values()["weight"]
        tensor([1., 1., 1.])
    """
    if not isinstance(family, str):
        if not isinstance(family, HyperparameterFamily):
            raise InvalidInputError(
                f"A family is a registered name ({', '.join(names())}) or an instance of a HyperparameterFamily; "
                f"got {family!r}."
            )
        if options:
            raise InvalidInputError(
                f"Options {sorted(options)} go to the family's class, not beside the object {type(family).__name__}."
            )
        return family
    cls = _registry.lookup(family)
    known, required = _constructor_options(cls)
    for option in options:
        if known is not None and option not in known:
            raise InvalidInputError(
                f"Family {family!r} has no option {option!r} (got {option}={options[option]!r})."
                f"{closest(option, known)} Options: {', '.join(known) or 'none'}."
            )
    missing = [option for option in required if option not in options]
    if missing:
        raise InvalidInputError(
            f"Family {family!r} needs the option {missing[0]!r}, which was not given: "
            f"families.get({family!r}, {missing[0]}=...). Options: {', '.join(known or required)}."
        )
    return cls(**options)


def _constructor_options(cls: type[HyperparameterFamily]) -> tuple[list[str] | None, list[str]]:
    """The names that the constructor takes (None when it takes any), and those of them without a default."""
    if cls.__init__ is nn.Module.__init__:
        return [], []  # its signature (*args, **kwargs) promises what it then refuses
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in named if p.default is p.empty]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None, required
    return [p.name for p in named], required


__all__ = ["HOOKS", "Compose", "Context", "HyperparameterFamily", "Predictor", "get", "names", "register_family"]
