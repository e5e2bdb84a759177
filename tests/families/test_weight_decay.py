"""The weight-decay family against torch.optim and closed forms."""

import pytest
import torch
from torch import nn

from hypergrad.errors import InvalidInputError
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.testing.families import check_family

PER = ["global", "layer", "parameter", "element"]


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), nn.Linear(4, 2)
    ).double()


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("skip_1d", [False, True])
def test_the_gradient_is_that_of_sgd(per, skip_1d):
    model = small()
    family = WeightDecay(model, per=per, initial=0.03, skip_1d=skip_1d)
    params = dict(model.named_parameters())
    before = {k: p.detach().clone() for k, p in params.items()}
    decayed = [k for k, p in params.items() if p.ndim >= 2 or not skip_1d]
    grads = torch.autograd.grad(family.penalty(params), list(params.values()), allow_unused=True)
    optimizer = torch.optim.SGD([params[k] for k in decayed], lr=1.0, weight_decay=0.03)
    for k in decayed:
        params[k].grad = torch.zeros_like(params[k])
    optimizer.step()
    for (k, p), grad in zip(params.items(), grads, strict=True):
        moved = before[k] - p.detach()
        torch.testing.assert_close(torch.zeros_like(p) if grad is None else grad, moved, rtol=1e-13, atol=1e-16)
    assert sum(g is not None for g in grads) == len(decayed)


@pytest.mark.parametrize(
    ("per", "names"),
    [
        ("global", ["decay"]),
        ("layer", ["decay.0", "decay.2.0", "decay.2.1", "decay.3"]),
        ("parameter", [f"decay.{k}" for k, _ in small().named_parameters()]),
        ("element", [f"decay.{k}" for k, _ in small().named_parameters()]),
    ],
)
def test_groups_and_their_own_decays(per, names):
    model = small()
    family = WeightDecay(model, per=per, initial=0.01)
    assert list(family.values()) == names
    with torch.no_grad():
        family.log_decay.add_(torch.randn_like(family.log_decay))
    values = family.values()
    params = dict(model.named_parameters())
    expected = torch.zeros((), dtype=torch.float64)
    for k, p in params.items():
        owner = {"global": "decay", "layer": f"decay.{k.rpartition('.')[0]}"}.get(per, f"decay.{k}")
        expected = expected + 0.5 * (values[owner] * p.detach() ** 2).sum()
    torch.testing.assert_close(family.penalty(params).detach(), expected, rtol=1e-14, atol=0)
    if per == "element":
        assert all(values[f"decay.{k}"].shape == p.shape for k, p in params.items())


def test_a_root_module_that_owns_parameters():
    assert list(WeightDecay(nn.Linear(2, 1), per="layer").values()) == ["decay.(model)"]


def test_frozen_parameters_and_the_model_are_left_out():
    model = small()
    model[0].weight.requires_grad_(False)
    family = WeightDecay(model, per="parameter")
    assert "decay.0.weight" not in family.values()
    assert [k for k, _ in family.named_parameters()] == ["log_decay"]
    assert len(list(family.modules())) == 1
    assert family.log_decay.dtype == torch.float64


@pytest.mark.parametrize("per", PER)
def test_zero_weights_have_finite_derivatives(per):
    model = nn.Linear(2, 2).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    family = WeightDecay(model, per=per)
    params = {k: p.detach().requires_grad_() for k, p in model.named_parameters()}
    grads = torch.autograd.grad(family.penalty(params), list(params.values()), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in grads), list(params.values()))
    decay = torch.full_like(second[0], 5e-4)
    torch.testing.assert_close(second[0], decay, rtol=1e-13, atol=0)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("skip_1d", [False, True])
def test_conformance(per, skip_1d):
    model = small()
    family = WeightDecay(model, per=per, initial=0.1, skip_1d=skip_1d)
    check_family(family, torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]), model=model, index=torch.arange(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightDecay(small(), per="layers"), r"per must be one of .*got 'layers'.*Did you mean 'layer'"),
        (lambda: WeightDecay(small(), initial=0.0), r"positive number.*got 0\.0.*initial=1e-8"),
        (lambda: WeightDecay(small(), initial=-1e-4), r"got -0\.0001"),
        (lambda: WeightDecay(small(), initial=float("nan")), "got nan"),
        (lambda: WeightDecay(small(), initial="5e-4"), "got '5e-4'"),
        (lambda: WeightDecay({"w": torch.zeros(2)}), "nn.Module; got dict"),
        (lambda: WeightDecay(nn.Tanh()), "No parameter of Tanh requires grad"),
        (lambda: WeightDecay(nn.LayerNorm(3), skip_1d=True), r"skip_1d=True\), so there is nothing to decay"),
        (
            lambda: WeightDecay(small()).penalty({"0.wieght": torch.zeros(4, 3)}),
            r"'0\.weight'.*Did you mean '0\.wieght'",
        ),
        (
            lambda: WeightDecay(nn.Linear(2, 1)).penalty({"weight": torch.zeros(3, 1)}),
            r"of shape \(1, 2\); got \(3, 1\)",
        ),
    ],
)
def test_error_inputs(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
