"""The sample-weight family."""

import pytest
import torch
from torch import nn

from hypergrad.errors import InvalidInputError
from hypergrad.families import Context
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.testing.families import check_family


def ctx(index) -> Context:
    return Context(key=0, index=index, soft=True, training=True)


@pytest.mark.parametrize("initial", [1e-6, 0.5, 1.0, 30.0, 800.0])
def test_initial_weights(initial):
    torch.testing.assert_close(
        SampleWeights(4, initial=initial).double().values()["weight"],
        torch.full((4,), initial).double(),
        rtol=2e-6,
        atol=0,
    )


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_each_loss_gets_its_own_weight(shape):
    family = SampleWeights(5).double()
    with torch.no_grad():
        family.raw.copy_(torch.randn(5))
    losses, index = torch.rand(shape, dtype=torch.float64), torch.tensor([4, 0, 4])
    got = family.weigh(losses, torch.zeros(3), ctx(index))
    weights = family.values()["weight"]
    expected = torch.stack([weights[i] * row for i, row in zip(index.tolist(), losses, strict=True)])
    torch.testing.assert_close(got.detach(), expected, rtol=1e-15, atol=0)
    (grad,) = torch.autograd.grad(got.sum(), family.raw)
    assert (grad == 0).tolist() == [False, True, True, True, False]


def test_conformance():
    family = SampleWeights(6)
    index = torch.tensor([5, 2, 0, 2])
    check_family(family, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), model=nn.Linear(3, 2), index=index)


def test_conformance_with_several_losses_a_sample():
    def loss(outputs, targets):
        return (outputs - targets) ** 2

    check_family(
        SampleWeights(6), torch.randn(4, 3), torch.randn(4, 2), model=nn.Linear(3, 2), index=torch.arange(4), loss=loss
    )


def test_the_index_is_not_checked_off_the_cpu():
    # A comparison read on the host would stop the device; the meta device has no values to read, so it would raise.
    family = SampleWeights(3).to("meta")
    assert family.weigh(
        torch.zeros(2, device="meta"), torch.zeros(2), ctx(torch.zeros(2, dtype=int, device="meta"))
    ).shape == (2,)


@pytest.mark.parametrize(
    ("losses", "index", "message"),
    [
        (torch.zeros(2), None, r"no index.*\(inputs, targets, index\)"),
        (torch.zeros(2), torch.tensor([0.0, 1.0]), "integers; got dtype torch.float32"),
        (torch.zeros(2), torch.tensor([True, False]), "integers; got dtype torch.bool"),
        (torch.zeros(2), torch.tensor([0, 1, 2]), r"losses have shape \(2,\), the index \(3,\)"),
        (torch.zeros(()), torch.tensor([0]), r"losses have shape \(\).*reduction"),
        (torch.zeros(2), torch.tensor([0, 3]), r"from 0 to 3, but num_samples=3 allows 0 to 2"),
        (torch.zeros(2), torch.tensor([-1, 0]), "from -1 to 0"),
    ],
)
def test_error_batches(losses, index, message):
    with pytest.raises(InvalidInputError, match=message):
        SampleWeights(3).weigh(losses, torch.zeros(2), ctx(index))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "positive integer.*got 0"),
        ({"num_samples": 2.5}, "got 2.5"),
        ({"num_samples": True}, "got True"),
        ({"num_samples": 3, "initial": 0}, "positive number.*got 0"),
        ({"num_samples": 3, "initial": float("inf")}, "got inf"),
    ],
)
def test_error_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        SampleWeights(**options)
