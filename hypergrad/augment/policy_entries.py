"""What a policy's file says of operations: their ranges, and stage by stage what happens how often and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergrad.augment.operations import Operation, get_operation
from hypergrad.augment.ranges import RANGES
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.files import Field

_RANGE = ("name", "unit", "identity", "strongest", "signed")


def six(value: float) -> float:
    """The number rounded to six digits, to be read."""
    return float(f"{value:.6g}")


def exact(value: float, dtype: str) -> float:
    """The number with the fewest digits that reads back as this one; what half precision holds, float32 does too."""
    if dtype == "float64":
        return value
    short = float(str(np.float32(value)))
    return short if np.float32(short) == np.float32(value) else value


def describe(operation: Operation) -> dict[str, Any]:
    """What the file says of an operation, from which reading makes the same one.

    Raises:
        InvalidInputError: it would not, because the operation is not the one registered under its name.
    """
    described = {name: getattr(operation, name) for name in _RANGE}
    refused = f"The operation {operation.name!r} could not be read back, so the policy is not saved:"
    try:
        found = _find(**described)
    except InvalidInputError as error:
        raise InvalidInputError(f"{refused} {error} Add it by register_operation.") from error
    for field in fields(Operation):
        if _comparable(getattr(found, field.name)) != _comparable(getattr(operation, field.name)):
            raise InvalidInputError(
                f"{refused} its {field.name} is not that of the registered one. Register it under a name of its own."
            )
    return described


def _comparable(value: Any) -> Any:
    """A function counts by its address: a notebook cell that is run twice makes it anew."""
    return (value.__module__, value.__qualname__) if hasattr(value, "__qualname__") else value


def _find(name: str, unit: str, identity: float, strongest: float, signed: bool) -> Operation:
    """The registered operation of that name and unit, with this range."""
    candidates = [get_operation(name, ranges) for ranges in RANGES]
    matching = [o for o in candidates if o.unit == unit]
    if not matching:
        units = " or ".join(repr(u) for u in dict.fromkeys(o.unit for o in candidates))
        raise InvalidInputError(f"The unit of {name} must be {units}; got {unit!r}.")
    # A named range may differ in more than its numbers: an operation without a strength has no gradient to it.
    same = [o for o in matching if (o.identity, o.strongest, o.signed) == (identity, strongest, signed)]
    return replace((same or matching)[0], identity=identity, strongest=strongest, signed=signed)


def read_operations(table: Field) -> tuple[Operation, ...]:
    """The operations that a file lists.

    Raises:
        InvalidInputError: a field or a unit that cannot be, or a name twice.
        UnknownNameError: a name that is not registered.
    """
    operations: list[Operation] = []
    for row in table.items():
        given = row.fields(*_RANGE)
        name, unit = given["name"].text(), given["unit"].text()
        if name in [o.name for o in operations]:
            raise given["name"].error("a name that no other operation has")
        identity, strongest = given["identity"].number(), given["strongest"].number()
        try:
            operations.append(_find(name, unit, identity, strongest, given["signed"].flag()))
        except UnknownNameError as error:
            raise UnknownNameError(
                f"{row.file}: {row.where}.name: {error} If it is your own, import what registers it first."
            ) from error
        except InvalidInputError as error:
            raise InvalidInputError(f"{row.file}: {row.where}.unit: {error}") from error
    return tuple(operations)


def _amount(operation: Operation, magnitude: float) -> float:
    return operation.identity + (operation.strongest - operation.identity) * magnitude


def entry(operation: Operation, pi: float, p: float, magnitudes: list[float]) -> dict[str, Any]:
    """What a stage says of one operation; the amounts are for the sign +1."""
    amounts = [six(_amount(operation, m)) for m in magnitudes]
    one = len(magnitudes) == 1
    return {
        "operation": operation.name,
        "pi": pi,
        "p": p,
        "magnitude": magnitudes[0] if one else magnitudes,
        "amount": amounts[0] if one else amounts,
    }


@dataclass(frozen=True)
class _Entry:
    place: int  # of the operation
    pi: float
    p: float
    magnitudes: list[float]


def _read_entry(field: Field, operations: tuple[Operation, ...]) -> _Entry:
    given = field.fields("operation", "pi", "p", "magnitude", optional=("amount",))
    names = [o.name for o in operations]
    place = names.index(given["operation"].one_of(*names))
    operation = operations[place]
    listed = isinstance(given["magnitude"].value, list)
    levels = given["magnitude"].items() if listed else [given["magnitude"]]
    magnitudes = [level.number(0, 1) for level in levels]
    if "amount" in given:
        amounts = given["amount"].items(len(levels)) if listed else [given["amount"]]
        # Both are rounded to six digits.
        tolerance = 1e-5 * max(abs(operation.identity), abs(operation.strongest))
        for amount, level, magnitude in zip(amounts, levels, magnitudes, strict=True):
            if abs(amount.number() - _amount(operation, magnitude)) > tolerance:
                raise amount.error(
                    f"{_amount(operation, magnitude):.6g} {operation.unit}, as {level.where} {magnitude:.6g} says, "
                    "or be left out"
                )
    return _Entry(place, given["pi"].number(0, 1), given["p"].number(0, 1), magnitudes)


def _read_stage(stage: Field, operations: tuple[Operation, ...], complete: bool) -> list[_Entry]:
    listed = stage.items(len(operations) if complete else None)
    entries = [_read_entry(field, operations) for field in listed]
    for i, (field, read) in enumerate(zip(listed, entries, strict=True)):
        name = field.member("operation")
        if complete and read.place != i:
            raise name.error(f"{operations[i].name!r}: every stage lists all operations in their order")
        if read.place in [e.place for e in entries[:i]]:
            raise name.error("an operation that the stage does not list already")
    total = sum(e.pi for e in entries)
    if abs(total - 1) > 1e-4:
        raise InvalidInputError(
            f"{stage.file}: the pi of {stage.where} must sum to 1; they sum to {total:.6g}. Divide each by that."
        )
    return entries


def read_tables(
    subs: Sequence[Field], operations: tuple[Operation, ...], *, complete: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The values that sub-policies list.

    Args:
        subs: S lists of K stages.
        operations: N of them.
        complete: whether every stage must list every operation, in its order and with one magnitude.

    Returns:
        pi and p, ``(S, K, N)``, and the magnitudes, ``(S, K, N, L)``, in float64; zero where nothing is listed.

    Raises:
        InvalidInputError: a field or a value that cannot be, or lengths that differ.
    """
    stages = len(subs[0].items())
    read = [[_read_stage(stage, operations, complete) for stage in sub.items(stages)] for sub in subs]
    levels = 1 if complete else len(read[0][0][0].magnitudes)
    pi, p = (torch.zeros(len(subs), stages, len(operations), dtype=torch.float64) for _ in range(2))
    mu = torch.zeros(*pi.shape, levels, dtype=torch.float64)
    for s, sub in enumerate(read):
        for k, stage in enumerate(sub):
            for i, e in enumerate(stage):
                if len(e.magnitudes) != levels:
                    where = f"{subs[s].where}[{k}][{i}].magnitude"
                    wanted = "one" if complete else f"{levels}, as the first of the file"
                    raise InvalidInputError(
                        f"{subs[s].file}: {where} must have {wanted}; got {len(e.magnitudes)} magnitudes."
                    )
                pi[s, k, e.place], p[s, k, e.place] = e.pi, e.p
                mu[s, k, e.place] = torch.tensor(e.magnitudes, dtype=torch.float64)
    return pi, p, mu
