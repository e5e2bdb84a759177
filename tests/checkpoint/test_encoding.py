"""A state goes through a file and is what it was, or is refused."""

import json
import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergrad.checkpoint.encoding import DTYPES, decode, encode, equal
from hypergrad.errors import InvalidInputError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.tuples(st.integers()), inner)
    ),
    max_leaves=20,
)


def through_json(value: Any) -> Any:
    content, tensors = encode(value)
    return decode(json.loads(json.dumps(content, allow_nan=False)), tensors)


@given(PLAIN)
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back(value: Any) -> None:
    assert equal(through_json(value), value)


@pytest.mark.parametrize(
    "value",
    [
        {"$": "tuple", "items": []},
        {0: {"step": 3}, 1: {}},
        OrderedDict(b=1, a=2),
        torch.Size([2, 3]),
        torch.bfloat16,
        [math.inf, -math.inf, -0.0, 1e-310],
    ],
    ids=repr,
)
def test_kinds(value: Any) -> None:
    found = through_json(value)
    assert found == value
    assert isinstance(found, tuple) == isinstance(value, tuple)


@pytest.mark.parametrize("name", DTYPES)
def test_tensors_of_each_dtype(name: str) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(DTYPES[name])
    assert equal(through_json({"t": tensor}), {"t": tensor})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(3.0),
        torch.empty(0, 4),
        torch.tensor([math.nan, math.inf, -0.0]),
    ],
    ids=["channels_last", "transposed", "scalar", "empty", "not finite"],
)
def test_layouts_come_back(tensor: torch.Tensor) -> None:
    found = through_json(tensor)
    assert equal(found, tensor) and found.stride() == tensor.stride()


def test_what_has_holes_or_overlaps_comes_back_by_value() -> None:
    for tensor in (torch.arange(10.0)[::3], torch.ones(1).expand(4)):
        assert torch.equal(through_json(tensor), tensor)


def test_tied_tensors_stay_tied_and_others_do_not_become_so() -> None:
    a = torch.arange(4.0)
    found = through_json({"a": a, "again": a.detach(), "part": a[:2], "equal": a.clone()})
    assert found["a"] is found["again"]
    found["a"].zero_()
    assert found["part"].tolist() == [0, 1] and found["equal"].tolist() == [0, 1, 2, 3]


def test_what_was_saved_does_not_change_with_the_tensor() -> None:
    a = torch.zeros(2)
    _, tensors = encode(a)
    a.add_(1)
    assert tensors["t0"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [object()]}, r"state\.a\[0\] is of type object"),
        ({"f": print}, r"state\.f is of type builtin_function"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2).to_sparse(), "sparse"),
        ({1.5: 2, frozenset(): 1}, "frozenset"),
    ],
)
def test_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        encode(value)


@pytest.mark.parametrize(
    "content",
    [
        {"$": "code", "value": "print()"},
        {"$": "float", "value": "1"},
        {"$": "float"},
        {"$": "dtype", "value": "Tensor"},
        {"$": "dtype", "value": []},
        {"$": "tuple", "items": 3},
        {"$": "size", "items": ["a"]},
        {"$": "dict", "items": [[1]]},
        {"$": "dict", "items": [[[], 1]]},
        {"$": "tensor", "name": "missing"},
        {"$": "tensor", "name": "t0", "stride": [0]},
        {"$": "tensor", "name": "t0", "stride": [10**12]},
        {"$": "tensor", "name": "t0", "stride": [1, 1]},
        {"$": []},
    ],
    ids=str,
)
def test_damaged_content_is_refused(content: Any) -> None:
    with pytest.raises(InvalidInputError, match="checkpoint"):
        decode({"a": content}, {"t0": torch.zeros(3)})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1], (1,)),
        ({1: 2}, {True: 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), -torch.zeros(2)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2, 2), torch.zeros(2, 2).T),
    ],
    ids=repr,
)
def test_unequal(a: Any, b: Any) -> None:
    assert not equal(a, b) and not equal([a], [b])
