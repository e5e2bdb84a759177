"""Policies as JSON files: readable, editable by hand, and read back bit-equal.

A file says which operations there are, in which unit, and which amount magnitude 1 stands for; then, stage by stage,
what happens with which probability. For a learned policy::

    {
      "format": "hypergrad-policy",
      "schema": 1,
      "kind": "learned",
      "options": {"group_size": 1, "selection": "unbiased", "temperature": 0.5, ...},
      "operations": [{"name": "Rotate", "unit": "degrees", "identity": 0, "strongest": 30, "signed": true}, ...],
      "stages": [[{"operation": "Rotate", "pi": 0.0714286, "p": 0.5, "magnitude": 0.5, "amount": 15.0}, ...], ...],
      "raw": {"dtype": "float32", "pi": [[0.0, ...], ...], "mu": [[0.0, ...], ...], "p": [[0.0, ...], ...]}
    }

"stages" is rounded to six digits. "raw" holds the parameters, exactly. Where it is left out, the policy is made from
"stages", with every probability and magnitude kept at least :data:`EDGE` away from 0 and 1, where a raw parameter
would be infinite. Where it is there it is what is loaded, and "stages" must agree with it. An "amount", in the unit and
for the sign +1, is there to be read: it must agree with its magnitude and may be left out.

A fixed policy has "sub_policies" in the place of "options", "stages" and "raw": a list of such lists of stages, equally
likely, and the "dtype" of its numbers, which are exact. A magnitude may be a list of equally likely ones. An operation
that a stage does not list is never picked there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from hypergrad.augment.operations import Operation, StraightThrough
from hypergrad.augment.policy_entries import describe, entry, exact, read_operations, read_tables, six
from hypergrad.errors import InvalidInputError
from hypergrad.files import Field, Pathlike, read_json, write_atomically

FORMAT = "hypergrad-policy"
SCHEMA = 1
#: How close to 0 and 1 a probability or magnitude of a learned policy without "raw" may come.
EDGE = 1e-6
# Numbers that were rounded to six digits, on machines that may differ in the last bits before that.
_AGREE = 1e-5
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OPTIONS = ("group_size", "selection", "temperature", "selection_temperature", "straight_through")


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What the file of a learned policy holds: raw parameters ``(K, N)``, and the options of the policy's class."""

    operations: tuple[Operation, ...]
    pi: Tensor
    mu: Tensor
    p: Tensor
    group_size: int
    selection: Literal["unbiased", "relaxed"]
    temperature: float
    selection_temperature: float
    straight_through: StraightThrough


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What the file of a fixed policy holds: probabilities pi and p ``(S, K, N)``, and magnitudes ``(S, K, N, L)``."""

    operations: tuple[Operation, ...]
    pi: Tensor
    p: Tensor
    mu: Tensor


def write_learned(path: Pathlike, policy: Learned) -> None:
    """Write a learned policy; see the module for the form.

    Raises:
        InvalidInputError: a parameter that is not finite, an operation that could not be read back, or a place that
            cannot be written.
    """
    raw = {name: getattr(policy, name).detach() for name in ("pi", "mu", "p")}
    dtype = _dtype_name(raw)
    pi, p, mu = (value.tolist() for value in _constrained(raw))
    content = {
        "options": {name: getattr(policy, name) for name in _OPTIONS},
        "operations": [describe(o) for o in policy.operations],
        "stages": [
            [entry(o, six(pi[k][n]), six(p[k][n]), [six(mu[k][n])]) for n, o in enumerate(policy.operations)]
            for k in range(len(pi))
        ],
        "raw": {"dtype": dtype}
        | {name: [[exact(v, dtype) for v in row] for row in value.tolist()] for name, value in raw.items()},
    }
    _write(path, "learned", content)


def read_learned(path: Pathlike) -> Learned:
    """Read what :func:`write_learned` wrote, or somebody by hand.

    Raises:
        InvalidInputError: no such file, not a learned policy's, a newer schema, or a field that is missing, unknown or
            has a value that cannot be; the message names file, field, value and remedy.
        UnknownNameError: an operation that is not registered.
    """
    needed = ("format", "schema", "kind", "options", "operations", "stages")
    top = _open(path, "learned").fields(*needed, optional=("raw",))
    options = top["options"].fields(*_OPTIONS)
    operations = read_operations(top["operations"])
    tables = read_tables([top["stages"]], operations, complete=True)
    pi, p, mu = tables[0][0], tables[1][0], tables[2][0, ..., 0]
    if "raw" in top:
        raw = _read_raw(top["raw"], pi.shape)
        _check_agreement(top["stages"], (pi, p, mu), _constrained(raw))
    else:
        raw = {"pi": pi.clamp(min=EDGE).log(), "mu": torch.logit(mu, EDGE), "p": torch.logit(p, EDGE)}
        raw = {name: value.float() for name, value in raw.items()}
    return Learned(
        operations=operations,
        pi=raw["pi"],
        mu=raw["mu"],
        p=raw["p"],
        group_size=options["group_size"].integer(1),
        selection=cast(Literal["unbiased", "relaxed"], options["selection"].one_of("unbiased", "relaxed")),
        temperature=options["temperature"].positive(),
        selection_temperature=options["selection_temperature"].positive(),
        straight_through=cast(StraightThrough, options["straight_through"].one_of("surrogate", "unit")),
    )


def write_fixed(path: Pathlike, policy: Fixed) -> None:
    """Write a fixed policy; see the module for the form.

    Raises:
        InvalidInputError: as :func:`write_learned`.
    """
    values = {"pi": policy.pi, "p": policy.p, "mu": policy.mu}
    dtype = _dtype_name(values)

    def stage(pi: list[float], p: list[float], mu: list[list[float]]) -> list[dict[str, Any]]:
        return [
            entry(o, exact(a, dtype), exact(b, dtype), [exact(m, dtype) for m in levels])
            for o, a, b, levels in zip(policy.operations, pi, p, mu, strict=True)
            if any((a, b, *levels))  # what is zero throughout is what an operation that is not listed has
        ]

    content = {
        "dtype": dtype,
        "operations": [describe(o) for o in policy.operations],
        "sub_policies": [
            [stage(*rows) for rows in zip(*sub, strict=True)]
            for sub in zip(*(value.tolist() for value in values.values()), strict=True)
        ],
    }
    _write(path, "fixed", content)


def read_fixed(path: Pathlike) -> Fixed:
    """Read what :func:`write_fixed` wrote, or somebody by hand.

    Raises:
        InvalidInputError: as :func:`read_learned`.
        UnknownNameError: an operation that is not registered.
    """
    top = _open(path, "fixed").fields("format", "schema", "kind", "dtype", "operations", "sub_policies")
    dtype = _DTYPES[top["dtype"].one_of(*_DTYPES)]
    operations = read_operations(top["operations"])
    pi, p, mu = read_tables(top["sub_policies"].items(), operations, complete=False)
    return Fixed(operations=operations, pi=pi.to(dtype), p=p.to(dtype), mu=mu.to(dtype))


def _open(path: Pathlike, kind: str) -> Field:
    """The content of a policy's file whose format, schema and kind are right."""
    content = read_json(path)
    if not isinstance(content.value, dict) or content.value.get("format") != FORMAT:
        raise InvalidInputError(
            f'{content.file} is not a policy: it lacks "format": "{FORMAT}". Give a file that save() of a policy wrote.'
        )
    schema = content.member("schema").integer(1)
    if schema > SCHEMA:
        raise InvalidInputError(
            f"{content.file}: schema is {schema}, and this version of hypergrad reads up to {SCHEMA}. "
            "Install a newer one: pip install -U hypergrad-toolkit."
        )
    found = content.member("kind").one_of("learned", "fixed")
    if found != kind:
        reader = "Policy.load" if found == "learned" else "FixedPolicy.load"
        raise InvalidInputError(f"{content.file}: kind is {found!r}, not {kind!r}. Read it by {reader}(path).")
    return content


def _write(path: Pathlike, kind: str, content: dict[str, Any]) -> None:
    write_atomically(path, _layout({"format": FORMAT, "schema": SCHEMA, "kind": kind} | content) + "\n")


def _layout(value: Any, indent: str = "") -> str:
    """JSON in which a list or an object of plain values takes one line, and any other one line a member."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(m, dict | list) for m in members):
        return json.dumps(value, allow_nan=False)
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(name)}: {_layout(member, inner)}" for name, member in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _layout(member, inner) for member in value) + f"\n{indent}]"


def _constrained(raw: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """pi, p and magnitudes, in float64 whatever the parameters' dtype."""
    return (
        torch.softmax(raw["pi"].double(), -1),
        torch.sigmoid(raw["p"].double()),
        torch.sigmoid(raw["mu"].double()),
    )


def _dtype_name(values: dict[str, Tensor]) -> str:
    """The common dtype's name, where all values are finite."""
    for name, value in values.items():
        bad = int((~value.isfinite()).sum())
        if bad:
            raise InvalidInputError(
                f"{bad} of the {value.numel()} values of {name} are not finite, so the policy is not saved. "
                "The search has diverged: lower its learning rate."
            )
    names = {str(value.dtype).removeprefix("torch.") for value in values.values()}
    if len(names) > 1 or not names <= set(_DTYPES):
        raise InvalidInputError(
            f"A policy is saved when its values have one dtype of {', '.join(_DTYPES)}; got "
            f"{', '.join(sorted(names))}. Use policy.float()."
        )
    return names.pop()


def _read_raw(raw: Field, shape: torch.Size) -> dict[str, Tensor]:
    """The raw parameters, ``(K, N)`` each."""
    given = raw.fields("dtype", "pi", "mu", "p")
    dtype = _DTYPES[given["dtype"].one_of(*_DTYPES)]
    values = {}
    for name in ("pi", "mu", "p"):
        places = [row.items(shape[1]) for row in given[name].items(shape[0])]
        value = torch.tensor([[v.number() for v in row] for row in places], dtype=torch.float64).to(dtype)
        for k, n in (~value.isfinite()).nonzero().tolist():
            raise places[k][n].error(f"in the range of {given['dtype'].value}")
        values[name] = value
    return values


def _check_agreement(stages: Field, readable: Sequence[Tensor], raw: Sequence[Tensor]) -> None:
    for name, shown, wanted in zip(("pi", "p", "magnitude"), readable, raw, strict=True):
        for k, n in ((shown - wanted).abs() > _AGREE * wanted).nonzero().tolist():
            raise InvalidInputError(
                f'{stages.file}: {stages.where}[{k}][{n}].{name} is {shown[k, n]:.6g}, but "raw" gives '
                f'{wanted[k, n]:.6g}. One of the two was edited: delete "raw" to load "stages" as it stands.'
            )
