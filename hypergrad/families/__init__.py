"""Hyperparameter families: ``get(name, **options)``, ``names()``, and the registration of new ones."""

from collections.abc import Callable
from typing import Any, TypeVar

from hypergrad.errors import InvalidInputError
from hypergrad.families.base import HOOKS, Context, HyperparameterFamily, Predictor
from hypergrad.families.compose import Compose
from hypergrad.registry import Registry

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
    if isinstance(family, str):
        return _registry.make(family, options)
    if not isinstance(family, HyperparameterFamily):
        raise InvalidInputError(
            f"A family is a registered name ({', '.join(names())}) or an instance of a HyperparameterFamily; "
            f"got {family!r}."
        )
    return _registry.refuse_options(family, options)


__all__ = ["HOOKS", "Compose", "Context", "HyperparameterFamily", "Predictor", "get", "names", "register_family"]
