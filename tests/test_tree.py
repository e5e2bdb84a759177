import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypergrad.errors import InvalidInputError
from hypergrad.tree import Layout, check_like

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4)


def tensors(sizes: list[list[int]], dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {f"p{i}": torch.randn(size, dtype=dtype) for i, size in enumerate(sizes)}


@given(shapes)
def test_round_trip_is_bit_equal(sizes: list[list[int]]) -> None:
    values = tensors(sizes)
    layout = Layout.of(values, "params")
    flat = layout.flatten(list(values.values()))
    assert flat.shape == (layout.size,) == (sum(v.numel() for v in values.values()),)
    back = layout.to_dict(flat)
    assert list(back) == list(values)
    for key, value in values.items():
        assert back[key].shape == value.shape and back[key].dtype == value.dtype
        assert torch.equal(back[key], value)


def test_the_flat_order_is_the_order_of_the_keys() -> None:
    values = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor(5.0)}
    layout = Layout.of(values, "params")
    assert layout.keys == ("b", "a")
    assert layout.numels == [4, 1]
    assert layout.flatten([values["b"], values["a"]]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_mixed_precision_is_promoted_and_restored() -> None:
    values = {"half": torch.tensor([1.5], dtype=torch.bfloat16), "double": torch.tensor([0.1], dtype=torch.float64)}
    layout = Layout.of(values, "params")
    flat = layout.flatten(list(values.values()))
    assert layout.dtype == flat.dtype == torch.float64
    back = layout.to_dict(flat)
    assert {k: v.dtype for k, v in back.items()} == {"half": torch.bfloat16, "double": torch.float64}
    assert all(torch.equal(back[k], values[k]) for k in values)


def test_two_half_precisions_promote_to_float32() -> None:
    values = {"a": torch.zeros(1, dtype=torch.bfloat16), "b": torch.zeros(1, dtype=torch.float16)}
    assert Layout.of(values, "params").dtype == torch.float32


def test_non_contiguous_entries() -> None:
    value = torch.arange(6.0).reshape(2, 3).t()
    layout = Layout.of({"w": value}, "params")
    assert torch.equal(layout.to_dict(layout.flatten([value]))["w"], value)


def test_flatten_and_unflatten_are_differentiable() -> None:
    values = tensors([[2, 3], []])
    layout = Layout.of(values, "params")

    def loss(vector: torch.Tensor) -> torch.Tensor:
        w, b = layout.unflatten(vector)
        return layout.flatten([w * w, b * b]).sum()

    at = torch.randn(layout.size, dtype=torch.float64)
    assert torch.equal(torch.func.grad(loss)(at), 2 * at)


def test_equal_dictionaries_have_equal_layouts() -> None:
    assert Layout.of(tensors([[2], [3]]), "a") == Layout.of(tensors([[2], [3]]), "b")
    assert Layout.of(tensors([[2], [3]]), "a") != Layout.of(tensors([[3], [2]]), "a")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "params must be a non-empty dict of tensors; got an empty dict"),
        ([torch.zeros(1)], "got list"),
        (None, "got NoneType"),
        ({"w": 0.5}, r"params\['w'\] must be a tensor; got float. Wrap it: torch.tensor\(0.5\)"),
        ({"w": torch.zeros(2, dtype=torch.int64)}, r"params\['w'\] has dtype torch.int64.*floating-point"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, r"params\['w'\] has dtype torch.complex64"),
        ({"a": torch.zeros(1), "b": torch.zeros(1, device="meta")}, r"several devices \(cpu, meta\)"),
    ],
)
def test_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Layout.of(value, "params")  # type: ignore[arg-type]


def test_check_like() -> None:
    layout = Layout.of({"w": torch.zeros(2, 3), "b": torch.zeros(3)}, "params")
    check_like({"b": torch.zeros(3), "w": torch.zeros(2, 3)}, layout, "grads")  # the order does not matter
    with pytest.raises(
        InvalidInputError, match=r"grads has other keys than expected: missing \['b'\], unexpected \['c'\]"
    ):
        check_like({"w": torch.zeros(2, 3), "c": torch.zeros(3)}, layout, "grads")
    with pytest.raises(InvalidInputError, match=r"grads\['b'\] has shape \(1,\); expected \(3,\)"):
        check_like({"w": torch.zeros(2, 3), "b": torch.zeros(1)}, layout, "grads")
