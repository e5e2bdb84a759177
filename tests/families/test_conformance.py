"""The conformance suite itself: each way to break the contract is found, and named."""

import pytest
import torch
from torch import nn

from hypergrad.families import HyperparameterFamily
from hypergrad.keys import uniform
from hypergrad.testing.families import check_family


class Good(HyperparameterFamily):
    """Noise of a learned size, with a straight-through step (its gradient is a surrogate)."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(0.5))

    def transform(self, inputs, targets, ctx):
        return inputs + self.size * uniform(ctx.key, ctx.index, inputs.shape[1], inputs.dtype), targets


class InPlace(Good):
    def transform(self, inputs, targets, ctx):
        inputs.copy_(inputs + self.size.detach())
        return inputs * self.size, targets


class GlobalNoise(Good):
    def transform(self, inputs, targets, ctx):
        return inputs + self.size * torch.rand_like(inputs), targets


class WholeBatchNoise(Good):
    def transform(self, inputs, targets, ctx):
        return inputs + self.size * uniform(ctx.key, torch.arange(len(inputs)), inputs.shape[1], inputs.dtype), targets


class Detached(Good):
    def transform(self, inputs, targets, ctx):
        return inputs * self.size.detach(), targets


class ByRequiresGrad(Good):
    def predict(self, model, inputs, ctx):
        return model(inputs * self.size) if inputs.requires_grad else model(inputs)

    def transform(self, inputs, targets, ctx):
        return inputs, targets


class WrongGradient(Good):
    def transform(self, inputs, targets, ctx):
        return inputs + (inputs.round() * self.size - (inputs.round() * self.size).detach()), targets


class NotFinite(Good):
    def transform(self, inputs, targets, ctx):
        return inputs * self.size / (0.0 if not ctx.soft else 1.0), targets


class OutOfRange(Good):
    def transform(self, inputs, targets, ctx):
        return inputs * self.size + (0 if ctx.soft else 2), targets


class BadLogProb(Good):
    def transform(self, inputs, targets, ctx):
        return inputs * self.size, targets, self.size.log()


class PositiveLogProb(Good):
    def transform(self, inputs, targets, ctx):
        return inputs * self.size, targets, self.size.expand(len(inputs))


class LiveValues(Good):
    def values(self):
        return {"size": self.size.detach()}


class ValuesWithGraph(Good):
    def values(self):
        return {"size": self.size * 2}


class VectorPenalty(Good):
    def penalty(self, params):
        return self.size * torch.ones(2)


class NoParameters(HyperparameterFamily):
    def values(self):
        return {"nothing": torch.zeros(())}


def run(family, **options):
    check_family(
        family, torch.rand(4, 3), torch.tensor([0, 1, 1, 0]), model=nn.Linear(3, 2), index=torch.arange(4), **options
    )


def test_a_good_family_passes_and_is_left_alone():
    family = Good()
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = {k: v.clone() for k, v in (family.state_dict() | model.state_dict()).items()}
    x, y = torch.rand(4, 3), torch.randn(4, 2)
    rng = torch.get_rng_state()
    check_family(family, x, y, model=model, index=torch.tensor([7, 1, 2, 9]), value_range=(0, 2))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in (family.state_dict() | model.state_dict()).items())


def test_a_surrogate_gradient_passes_when_it_is_named():
    run(WrongGradient(), surrogate=("size",))
    with pytest.raises(AssertionError, match=r"surrogate names \['sise'\]"):
        run(WrongGradient(), surrogate=("sise",))


def test_noise_that_depends_on_the_batch_passes_when_that_is_said():
    run(WholeBatchNoise(), shardable=False)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (InPlace, "changed the inputs in place"),
        (GlobalNoise, "two results for one key"),
        (WholeBatchNoise, "half a batch is transformed otherwise"),
        (Detached, r"\['size'\] have no effect"),
        (ByRequiresGrad, r"\['size'\] have no effect"),
        (WrongGradient, "derivative of df/dw with respect to 'size'"),
        (NotFinite, r"not finite \(soft=False\)"),
        (OutOfRange, r"outside \(0, 2\) \(soft=False\)"),
        (BadLogProb, r"log_prob must have shape \(4,\); got \(\)"),
        (PositiveLogProb, "exceeds 0"),
        (LiveValues, "shares memory with a parameter"),
        (ValuesWithGraph, "requires grad; detach"),
        (VectorPenalty, r"penalty must be a scalar; got shape \(2,\)"),
        (NoParameters, "has no nn.Parameter"),
    ],
)
def test_each_violation_is_found(family, message):
    with pytest.raises(AssertionError, match=message):
        run(family(), value_range=(0, 2))
