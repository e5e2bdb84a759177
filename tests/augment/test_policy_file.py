"""Policies as files: bit-equal after reading, readable, and wrong files refused by field."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad.augment import (
    PAPER_OPERATIONS,
    RANGES,
    FixedPolicy,
    Policy,
    auto_augment,
    get_operation,
    rand_augment,
    register_operation,
    trivial_augment_wide,
)
from hypergrad.augment.policy_file import EDGE
from hypergrad.errors import InvalidInputError, UnknownNameError

FIXED = {
    "cifar10": auto_augment(),
    "imagenet": auto_augment("imagenet"),
    "svhn": auto_augment("svhn"),
    "rand_augment": rand_augment(3, 11),
    "trivial_augment_wide": trivial_augment_wide(),
    "frozen": Policy(stages=2).freeze(),
}


def randomised(policy: Policy) -> Policy:
    with torch.no_grad():
        for p in policy.parameters():
            p.normal_(std=3)
    return policy


def bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().view(torch.uint8)


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(32, 3, 12, 13, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ranges", RANGES)
def test_a_learned_policy_comes_back_bit_equal(tmp_path: Path, ranges: str, dtype: torch.dtype) -> None:
    policy = Policy(
        stages=3,
        ranges=ranges,
        group_size=4,
        selection="relaxed",
        temperature=0.1,
        selection_temperature=0.05,
        straight_through="unit",
    )
    policy = randomised(policy).to(dtype)
    with torch.no_grad():
        policy.mu[0, :4] = torch.tensor([40.0, -40.0, 0.0, 1e-5])  # saturated: the readable ones are 1 and 4e-18
    policy.save(tmp_path / "a.json")
    loaded = Policy.load(str(tmp_path / "a.json"))
    for name, value in policy.named_parameters():
        other = loaded.get_parameter(name)
        assert other.dtype == dtype
        assert torch.equal(bits(value), bits(other))
        assert other.requires_grad
    assert loaded.mixture.operations == policy.mixture.operations
    assert loaded.extra_repr() == policy.extra_repr()
    x = images()
    assert torch.equal(policy(x, soft=False, key=3), loaded(x, soft=False, key=3))
    for one, two in zip(policy.draw(x, soft=True, key=4), loaded.draw(x, soft=True, key=4), strict=True):
        assert torch.equal(one, two)
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fixed_policy_comes_back_bit_equal(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    policy = FIXED[name]
    held = {k: policy.get_buffer(k).to(dtype) for k in ("pi", "p", "mu")}
    policy = FixedPolicy(policy.mixture.operations, **held)
    policy.save(tmp_path / "a.json")
    loaded = FixedPolicy.load(tmp_path / "a.json")
    for k, value in held.items():
        assert loaded.get_buffer(k).dtype == dtype
        assert torch.equal(bits(value), bits(loaded.get_buffer(k)))
    assert loaded.mixture.operations == policy.mixture.operations
    x = images()
    assert torch.equal(policy(x, key=3), loaded(x, key=3))
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_random_doubles_and_extreme_values_come_back(tmp_path: Path) -> None:
    # Every bit of the mantissa, tiny and huge.
    policy = randomised(Policy(stages=2)).double()
    with torch.no_grad():
        policy.p[0, :6] = torch.tensor([1e-310, -1e300, 1e300, math.pi, -0.0, 2.0**-52], dtype=torch.float64)
    policy.save(tmp_path / "p.json")
    assert torch.equal(bits(policy.p), bits(Policy.load(tmp_path / "p.json").p))
    single = Policy(stages=8)
    with torch.no_grad():
        for p in single.parameters():
            p.copy_((torch.randint(2**23, p.shape) + 2**23).float() * 2.0 ** torch.randint(-40, -20, p.shape).float())
        single.p[0, :3] = torch.tensor([1e-45, -3.4028235e38, 1.17549435e-38])
    single.save(tmp_path / "p.json")
    for name, value in single.named_parameters():
        assert torch.equal(bits(value), bits(Policy.load(tmp_path / "p.json").get_parameter(name)))


def test_what_can_be_read(tmp_path: Path) -> None:
    policy = Policy(stages=1, operations=["Rotate", "Posterize", "Color"])
    with torch.no_grad():
        policy.pi[:] = torch.tensor([0.5, 0.25, 0.25]).log()
        policy.p[:] = torch.logit(torch.tensor([0.9, 0.8, 1 / 3]))
        policy.mu[:] = torch.logit(torch.tensor([0.5, 0.25, 2 / 3]))
    policy.save(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text()
    # An operation on one line, with six digits, and amounts in the unit.
    assert '\n      {"operation": "Rotate", "pi": 0.5, "p": 0.9, "magnitude": 0.5, "amount": 15.0},\n' in text
    assert '{"operation": "Posterize", "pi": 0.25, "p": 0.8, "magnitude": 0.25, "amount": 7.0}' in text
    assert '{"operation": "Color", "pi": 0.25, "p": 0.333333, "magnitude": 0.666667, "amount": 1.6}' in text
    assert '{"name": "Rotate", "unit": "degrees", "identity": 0, "strongest": 30, "signed": true}' in text
    content = json.loads(text)
    assert (content["format"], content["schema"], content["kind"]) == ("hypergrad-policy", 1, "learned")
    assert content["raw"]["dtype"] == "float32"


def test_what_can_be_read_of_a_fixed_policy(tmp_path: Path) -> None:
    auto_augment().save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    assert len(content["sub_policies"]) == 25
    # (Posterize, 0.3, 7) of the sixth published pair; what cannot be picked is not listed.
    assert content["sub_policies"][5][1] == [
        {"operation": "Posterize", "pi": 1.0, "p": 0.3, "magnitude": 0.7777778, "amount": 4.88889}
    ]
    trivial_augment_wide().save(tmp_path / "p.json")
    entry = json.loads((tmp_path / "p.json").read_text())["sub_policies"][0][0][4]
    assert (entry["operation"], entry["pi"], entry["amount"][15], len(entry["magnitude"])) == (
        "TranslateY",
        0.071428575,
        16.0,
        31,
    )


def learned_content() -> dict[str, Any]:
    """A hand-written policy: nothing in it is computed."""
    return {
        "format": "hypergrad-policy",
        "schema": 1,
        "kind": "learned",
        "options": {
            "group_size": 1,
            "selection": "unbiased",
            "temperature": 0.5,
            "selection_temperature": 0.5,
            "straight_through": "surrogate",
        },
        "operations": [
            {"name": "Rotate", "unit": "degrees", "identity": 0, "strongest": 45, "signed": False},
            {"name": "TranslateX", "unit": "pixels", "identity": 0, "strongest": 8, "signed": True},
        ],
        "stages": [
            [
                {"operation": "Rotate", "pi": 0.3, "p": 0.6, "magnitude": 0.2, "amount": 9},
                {"operation": "TranslateX", "pi": 0.7, "p": 1, "magnitude": 0.25},
            ],
            [
                {"operation": "Rotate", "pi": 1, "p": 0, "magnitude": 1},
                {"operation": "TranslateX", "pi": 0, "p": 0.5, "magnitude": 0, "amount": 0.0},
            ],
        ],
    }


def fixed_content() -> dict[str, Any]:
    content = learned_content()
    del content["options"], content["stages"]
    return content | {
        "kind": "fixed",
        "dtype": "float32",
        "sub_policies": [
            [
                [{"operation": "Rotate", "pi": 1, "p": 0.5, "magnitude": [0.1, 0.2], "amount": [4.5, 9]}],
                [{"operation": "TranslateX", "pi": 1.0, "p": 1, "magnitude": [1, 0]}],
            ]
        ],
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_policy_written_by_hand(tmp_path: Path) -> None:
    policy = Policy.load(write(tmp_path / "p.json", learned_content()))
    values = policy.values()
    assert policy.operations == ("Rotate", "TranslateX")
    assert policy.pi.dtype == torch.float32
    # 0 and 1 would need infinite parameters.
    assert torch.allclose(values["pi"], torch.tensor([[0.3, 0.7], [1.0, EDGE]]), rtol=1e-3, atol=2e-6)
    assert torch.allclose(values["p"], torch.tensor([[0.6, 1 - EDGE], [EDGE, 0.5]]), rtol=1e-3, atol=1e-7)
    assert torch.allclose(values["mu"], torch.tensor([[0.2, 0.25], [1 - EDGE, EDGE]]), rtol=1e-3, atol=1e-7)
    assert values["pi"].min() > 0
    assert all(p.isfinite().all() for p in policy.parameters())
    rotate, translate = policy.mixture.operations
    assert rotate == replace(get_operation("Rotate"), strongest=45, signed=False)
    assert translate == replace(get_operation("TranslateX", "trivialaugment-wide"), strongest=8)
    # Stage one moves by 2 pixels in 7 of 10 cases, in either direction.
    impulse = torch.zeros(4000, 1, 1, 9)
    impulse[..., 4] = 1
    moved = policy(impulse, soft=False, key=0)[:, 0, 0]
    assert (moved[:, 2] > 0.999).float().mean().item() == pytest.approx(0.35, abs=0.04)
    assert (moved[:, 6] > 0.999).float().mean().item() == pytest.approx(0.35, abs=0.04)


def test_a_fixed_policy_written_by_hand(tmp_path: Path) -> None:
    policy = FixedPolicy.load(write(tmp_path / "p.json", fixed_content()))
    assert torch.equal(policy.get_buffer("pi"), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    assert torch.equal(policy.get_buffer("p"), torch.tensor([[[0.5, 0.0], [0.0, 1.0]]]))
    assert torch.equal(policy.get_buffer("mu"), torch.tensor([[[[0.1, 0.2], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]]))


def test_an_edited_file_loads_without_raw(tmp_path: Path) -> None:
    policy = randomised(Policy(stages=2))
    policy.save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    content["stages"][1][4]["magnitude"], content["stages"][1][4]["amount"] = 0.3, 9
    with pytest.raises(InvalidInputError, match=r'stages\[1\]\[4\].magnitude is 0.3, but "raw" gives .* delete "raw"'):
        Policy.load(write(tmp_path / "p.json", content))
    del content["raw"]
    loaded = Policy.load(write(tmp_path / "p.json", content))
    assert loaded.values()["mu"][1, 4].item() == pytest.approx(0.3)
    # All else is the policy that was saved, to six digits.
    for name, value in policy.values().items():
        same = torch.ones_like(value, dtype=torch.bool)
        same[1, 4] = name != "mu"
        assert torch.allclose(loaded.values()[name][same], value[same], rtol=2e-5, atol=1e-6)


def test_operations_of_ones_own(tmp_path: Path) -> None:
    def double(images: Tensor, amount: Tensor) -> Tensor:
        return images ** amount[:, None, None, None]

    register_operation("TestOwn", unit="exponent", identity=1.0, strongest=3.0)(double)
    policy = Policy(stages=1, operations=["TestOwn", replace(get_operation("Rotate"), strongest=10)])
    policy.save(tmp_path / "p.json")
    assert Policy.load(tmp_path / "p.json").mixture.operations == policy.mixture.operations


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (replace(get_operation("Rotate"), name="TestUnheard"), "'TestUnheard' could not be read back"),
        (replace(get_operation("Rotate"), unit="radians"), "The unit of Rotate must be 'degrees'; got 'radians'"),
        (replace(get_operation("Rotate"), gradient="none"), "its gradient is not that of the registered one"),
        (replace(get_operation("Rotate"), function=get_operation("ShearX").function), "its function is not that"),
        (replace(get_operation("Rotate"), pillow=None), "its pillow is not that"),
    ],
)
def test_operations_that_could_not_be_read_back(tmp_path: Path, operation: Any, message: str) -> None:
    for policy in (Policy(operations=[operation]), Policy(operations=[operation]).freeze()):
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            policy.save(tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("old")
    for bad in (math.nan, math.inf):
        policy = Policy()
        with torch.no_grad():
            policy.mu[1, 3] = bad
        with pytest.raises(InvalidInputError, match="1 of the 28 values of mu are not finite"):
            policy.save(tmp_path / "p.json")
    fixed = rand_augment()
    fixed.get_buffer("p")[0, 0, 0] = math.nan
    with pytest.raises(InvalidInputError, match="1 of the 28 values of p are not finite"):
        fixed.save(tmp_path / "p.json")
    policy = Policy()
    policy.mu = torch.nn.Parameter(policy.mu.double())
    with pytest.raises(InvalidInputError, match=r"one dtype of .*; got float32, float64. Use policy.float\(\)"):
        policy.save(tmp_path / "p.json")
    assert (tmp_path / "p.json").read_text() == "old"


def put(content: dict[str, Any], where: str, value: Any) -> None:
    """Set, or with ``...`` delete, the value at a place such as ``stages.0.1.pi``."""
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    inside: Any = content
    for part in path:
        inside = inside[part]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value


RAW = {"dtype": "float32", **{name: [[0.0, 0.0]] * 2 for name in ("pi", "mu", "p")}}


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", "other", 'p.json is not a policy: it lacks "format": "hypergrad-policy"'),
        ("format", ..., 'p.json is not a policy: it lacks "format": "hypergrad-policy"'),
        ("schema", 2, "p.json: schema is 2, and this version of hypergrad reads up to 1. Install a newer one"),
        ("schema", "1", "p.json: schema must be an integer of at least 1; got '1'"),
        ("schema", ..., "p.json: the content lacks the field 'schema'"),
        ("kind", "other", "p.json: kind must be 'learned' or 'fixed'; got 'other'"),
        ("kind", "fixed", "p.json: kind is 'fixed', not 'learned'. Read it by FixedPolicy.load(path)"),
        ("kind", ..., "p.json: the content lacks the field 'kind'"),
        ("stages", ..., "p.json: the content lacks the field 'stages'"),
        ("rwa", RAW, "p.json: the content has an unknown field 'rwa'. Did you mean 'raw'?"),
        ("options", [], "p.json: options must be an object with the fields group_size,"),
        ("options.group_size", 0, "p.json: options.group_size must be an integer of at least 1; got 0"),
        ("options.selection", "biased", "options.selection must be 'unbiased' or 'relaxed'; got 'biased'"),
        ("options.temperature", 0, "p.json: options.temperature must be a positive number; got 0"),
        ("options.selection_temperature", "x", "options.selection_temperature must be a number; got 'x'"),
        ("options.straight_through", None, "straight_through must be 'surrogate' or 'unit'; got None"),
        ("options.temprature", 1, "options has an unknown field 'temprature'. Did you mean 'temperature'?"),
        ("options.temperature", ..., "p.json: options lacks the field 'temperature'"),
        ("operations", [], "p.json: operations must be a non-empty list"),
        ("operations.0", "Rotate", "p.json: operations[0] must be an object with the fields name, unit,"),
        ("operations.0.name", 3, "p.json: operations[0].name must be a string; got 3"),
        ("operations.1.name", "Rotate", "operations[1].name must be a name that no other operation has"),
        ("operations.0.unit", "radians", "operations[0].unit: The unit of Rotate must be 'degrees'; got 'radians'"),
        ("operations.1.unit", "metres", "The unit of TranslateX must be 'width' or 'pixels'; got 'metres'"),
        ("operations.0.strongest", True, "p.json: operations[0].strongest must be a number; got True"),
        ("operations.0.identity", 10**400, "p.json: operations[0].identity must be a finite number"),
        ("operations.0.signed", 1, "p.json: operations[0].signed must be true or false; got 1"),
        ("operations.0.signed", ..., "p.json: operations[0] lacks the field 'signed'"),
        ("operations.1", ..., "p.json: stages[0] must be a list of 1, not of 2"),
        ("stages", [], "p.json: stages must be a non-empty list"),
        ("stages.0", {}, "p.json: stages[0] must be a list of 2; got {}"),
        ("stages.0.1", ..., "p.json: stages[0] must be a list of 2, not of 1"),
        ("stages.0.1.operation", "Rotate", "stages[0][1].operation must be 'TranslateX': every stage lists all"),
        ("stages.0.1.operation", "Shear", "stages[0][1].operation must be 'Rotate' or 'TranslateX'; got 'Shear'"),
        ("stages.0.1.pi", 1.1, "p.json: stages[0][1].pi must be a number in [0, 1]; got 1.1"),
        ("stages.0.1.pi", 0.6, "p.json: the pi of stages[0] must sum to 1; they sum to 0.9"),
        ("stages.0.1.p", -0.1, "p.json: stages[0][1].p must be a number in [0, 1]; got -0.1"),
        ("stages.0.1.p", None, "p.json: stages[0][1].p must be a number; got None"),
        ("stages.0.1.magnitude", "1", "p.json: stages[0][1].magnitude must be a number; got '1'"),
        ("stages.0.1.magnitude", [0.1, 0.2], "stages[0][1].magnitude must have one; got 2 magnitudes"),
        ("stages.0.1.magnitude", ..., "p.json: stages[0][1] lacks the field 'magnitude'"),
        ("stages.0.0.amount", 12, "stages[0][0].amount must be 9 degrees, as stages[0][0].magnitude 0.2 says, or"),
        ("stages.0.0.amounts", 12, "stages[0][0] has an unknown field 'amounts'. Did you mean 'amount'?"),
        ("raw", RAW | {"dtype": "int8"}, "p.json: raw.dtype must be 'float64' or 'float32' or"),
        ("raw", RAW | {"mu": [[0.0, 0.0]]}, "p.json: raw.mu must be a list of 2, not of 1"),
        ("raw", RAW | {"mu": [[0.0, 0.0], [0.0]]}, "p.json: raw.mu[1] must be a list of 2, not of 1"),
        (
            "raw",
            RAW | {"mu": [[0.0, 0.0], [0.0, 1e39]]},
            "p.json: raw.mu[1][1] must be in the range of float32; got 1e+39",
        ),
        ("raw", RAW | {"mu": [[0.0, 0.0], [0.0, None]]}, "p.json: raw.mu[1][1] must be a number; got None"),
        ("raw", RAW | {"q": 1}, "p.json: raw has an unknown field 'q'"),
        ("raw", RAW, 'p.json: stages[0][0].pi is 0.3, but "raw" gives 0.5. One of the two was edited: delete "raw"'),
    ],
)
def test_wrong_files_of_learned_policies(tmp_path: Path, where: str, value: Any, message: str) -> None:
    content = learned_content()
    put(content, where, value)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        Policy.load(write(tmp_path / "p.json", content))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("kind", "learned", "p.json: kind is 'learned', not 'fixed'. Read it by Policy.load(path)"),
        ("dtype", "float", "p.json: dtype must be 'float64' or"),
        ("options", {}, "p.json: the content has an unknown field 'options'"),
        ("sub_policies", [], "p.json: sub_policies must be a non-empty list"),
        ("sub_policies.0", 3, "p.json: sub_policies[0] must be a non-empty list; got 3"),
        ("sub_policies.0.1", [], "p.json: sub_policies[0][1] must be a non-empty list"),
        ("sub_policies.0.1.0.pi", 0.5, "the pi of sub_policies[0][1] must sum to 1; they sum to 0.5"),
        ("sub_policies.0.1.0.magnitude", 1, "sub_policies[0][1][0].magnitude must have 2, as the first of the file"),
        (
            "sub_policies.0.1.0.magnitude",
            [1, 2],
            "sub_policies[0][1][0].magnitude[1] must be a number in [0, 1]; got 2",
        ),
        ("sub_policies.0.0.0.amount", [4.5, 8], "sub_policies[0][0][0].amount[1] must be 9 degrees, as"),
        ("sub_policies.0.0.0.amount", [4.5], "sub_policies[0][0][0].amount must be a list of 2, not of 1"),
        ("sub_policies.0.0.0.amount", 4.5, "sub_policies[0][0][0].amount must be a list of 2; got 4.5"),
    ],
)
def test_wrong_files_of_fixed_policies(tmp_path: Path, where: str, value: Any, message: str) -> None:
    content = fixed_content()
    put(content, where, value)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        FixedPolicy.load(write(tmp_path / "p.json", content))


def test_an_operation_twice_in_a_stage_and_stages_that_differ(tmp_path: Path) -> None:
    content = fixed_content()
    entry = content["sub_policies"][0][0][0]
    content["sub_policies"][0][0] = [entry | {"pi": 0.5}] * 2
    with pytest.raises(InvalidInputError, match=r"\[0\]\[0\]\[1\].operation must be an operation that the stage does"):
        FixedPolicy.load(write(tmp_path / "p.json", content))
    content = fixed_content()
    content["sub_policies"].append([[entry]])
    with pytest.raises(InvalidInputError, match=r"sub_policies\[1\] must be a list of 2, not of 1"):
        FixedPolicy.load(write(tmp_path / "p.json", content))


@pytest.mark.parametrize("load", [Policy.load, FixedPolicy.load])
def test_unknown_operations_and_files(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    path = tmp_path / "p.json"
    content = learned_content() if load == Policy.load else fixed_content()
    content["operations"][0]["name"] = "Rotat"
    with pytest.raises(
        UnknownNameError, match=r"p.json: operations\[0\].name: Unknown operation 'Rotat'. Did you mean 'Rotate'\?"
    ):
        load(write(path, content))
    for text, message in (("{", "p.json is not JSON"), ("[]", "p.json is not a policy"), ("[NaN]", "NaN is not a")):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            load(path)
    with pytest.raises(InvalidInputError, match=r"There is no file .*q.json"):
        load(tmp_path / "q.json")


def test_every_registered_range_is_found_again(tmp_path: Path) -> None:
    for ranges in RANGES:
        for name in (*PAPER_OPERATIONS, "Identity"):
            policy = rand_augment(1, 0, operations=[name], ranges=ranges)
            policy.save(tmp_path / "p.json")
            assert FixedPolicy.load(tmp_path / "p.json").mixture.operations == (get_operation(name, ranges),)
