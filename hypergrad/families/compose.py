"""Several families as one."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.families.base import Context, HyperparameterFamily, Predictor
from hypergrad.keys import derive
from hypergrad.tree import TensorDict


class Compose(HyperparameterFamily):
    """Families applied in the order given.

    - ``transform``: the first family changes the data first; log-probabilities are summed.
    - ``predict``: the first family is outermost, so that inputs pass the families in the order of ``transform``; the
      outputs come back in the reverse order.
    - ``weigh``: the first family weighs first.
    - ``penalty``: the sum.
    - ``values``: names are prefixed by the member's name.

    A member's name is that of its class in snake case (``weight_decay``), with ``_2``, ``_3``, ... for further members
    of a class; its parameters are ``members.<name>.<parameter>``.

    Noise: every member has a key of its own. The first member that overrides ``transform`` or ``predict`` (so that
    may draw) has the key of the call itself, hence draws exactly what it draws alone; every other member has a key
    derived from that and from its position.

    Args:
        families: one or more; each object once.

    Raises:
        InvalidInputError: no family, something that is no family, or the same object twice.

    Example:
        >>> from torch import nn
        >>> from hypergrad.families import Compose
        >>> from hypergrad.families.sample_weights import SampleWeights
        >>> from hypergrad.families.weight_decay import WeightDecay
        >>> sorted(Compose(WeightDecay(nn.Linear(2, 1)), SampleWeights(num_samples=3)).values())
        ['sample_weights.weight', 'weight_decay.decay']
    """

    def __init__(self, *families: HyperparameterFamily) -> None:
        super().__init__()
        if not families:
            raise InvalidInputError("Compose needs at least one family; got none.")
        self.members = nn.ModuleDict()
        for position, family in enumerate(families):
            if not isinstance(family, HyperparameterFamily):
                raise InvalidInputError(
                    f"Compose takes instances of HyperparameterFamily; got {family!r} at position {position}. "
                    "For a registered name: families.get(name, ...)."
                )
            if any(family is earlier for earlier in families[:position]):
                raise InvalidInputError(
                    f"{type(family).__name__} at position {position} is an object that was given before, so it would "
                    "act twice; make a second instance."
                )
            self.members[self._free_name(family)] = family
        self.needs_index = any(f.needs_index for f in families)
        draws = [_may_draw(f) for f in families]
        self._keeps_key = draws.index(True) if any(draws) else 0

    def transform(
        self, inputs: Tensor, targets: Tensor, ctx: Context
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Every member's ``transform``, in order; log-probabilities ``(B,)`` are summed."""
        total: Tensor | None = None
        for family, own in self._each(ctx):
            inputs, targets, *rest = family.transform(inputs, targets, own)
            for log_prob in rest:
                total = log_prob if total is None else total + log_prob
        return (inputs, targets) if total is None else (inputs, targets, total)

    def predict(self, model: Predictor, inputs: Any, ctx: Context) -> Any:
        """``first.predict(lambda x: second.predict(... model ..., x), inputs)``."""
        for family, own in reversed(list(self._each(ctx))):
            model = _Wrapped(family, model, own)
        return model(inputs)

    def weigh(self, losses: Tensor, targets: Tensor, ctx: Context) -> Tensor:
        """Every member's ``weigh``, in order."""
        for family, own in self._each(ctx):
            losses = family.weigh(losses, targets, own)
        return losses

    def penalty(self, params: TensorDict) -> Tensor:
        """The sum of the members' penalties."""
        first, *others = (family.penalty(params) for family in self._families())
        for other in others:
            first = first + other
        return first

    def values(self) -> dict[str, Tensor]:
        """The members' values, as ``<member>.<value>``."""
        members = zip(self.members, self._families(), strict=True)
        return {f"{name}.{key}": value for name, family in members for key, value in family.values().items()}

    def _families(self) -> Iterator[HyperparameterFamily]:
        for member in self.members.values():
            assert isinstance(member, HyperparameterFamily)
            yield member

    def _each(self, ctx: Context) -> Iterator[tuple[HyperparameterFamily, Context]]:
        for position, family in enumerate(self._families()):
            kept = position == self._keeps_key
            yield family, ctx if kept else replace(ctx, key=derive(ctx.key, "compose", position))

    def _free_name(self, family: HyperparameterFamily) -> str:
        base = name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(family).__name__).lower()
        number = 1
        # Attributes of a ModuleDict ("values", "type") are no possible names of its members either.
        while name in self.members or hasattr(self.members, name):
            number += 1
            name = f"{base}_{number}"
        return name


class _Wrapped:
    """``family.predict`` around a predictor, as a predictor."""

    def __init__(self, family: HyperparameterFamily, model: Predictor, ctx: Context) -> None:
        self._family, self._model, self._ctx = family, model, ctx

    def __call__(self, inputs: Any) -> Any:
        return self._family.predict(self._model, inputs, self._ctx)


def _may_draw(family: HyperparameterFamily) -> bool:
    if isinstance(family, Compose):
        return any(_may_draw(member) for member in family._families())
    cls = type(family)
    return cls.transform is not HyperparameterFamily.transform or cls.predict is not HyperparameterFamily.predict
