"""Composition: order, noise, names, and each family's part as it is alone."""

import pytest
import torch
from torch import nn

from hypergrad.errors import InvalidInputError
from hypergrad.families import Compose, Context, HyperparameterFamily
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.keys import uniform
from hypergrad.testing.families import check_family


class Noise(HyperparameterFamily):
    """Adds noise of a learned size, and draws a sign whose probability is learned."""

    def __init__(self, size: float = 0.5) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))
        self.logit = nn.Parameter(torch.tensor(0.3))

    def transform(self, inputs, targets, ctx):
        index = torch.arange(len(inputs)) if ctx.index is None else ctx.index
        u = uniform(ctx.key, index, 1 + inputs[0].numel(), inputs.dtype)
        up = u[:, 0] < torch.sigmoid(self.logit)
        sign = torch.where(up, 1.0, -1.0).to(inputs.dtype)
        log_prob = nn.functional.logsigmoid(torch.where(up, self.logit, -self.logit))
        noise = u[:, 1:].reshape(inputs.shape)
        return inputs + self.size * sign.view(-1, *[1] * (inputs.ndim - 1)) * noise, targets, log_prob


class Scale(HyperparameterFamily):
    """``x -> scale x + shift`` before the model and ``y -> y + shift`` after it; the same on losses."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.shift = nn.Parameter(torch.tensor(shift))

    def transform(self, inputs, targets, ctx):
        return inputs * self.scale + self.shift, targets

    def predict(self, model, inputs, ctx):
        return model(inputs * self.scale + self.shift) + self.shift

    def weigh(self, losses, targets, ctx):
        return losses * self.scale + self.shift


def ctx(key: int = 3, index=None) -> Context:
    return Context(key=key, index=index, soft=True, training=True)


def test_order():
    a, b = Scale(2.0, 1.0), Scale(3.0, 10.0)
    both = Compose(a, b)
    x, y = torch.ones(2, 1), torch.zeros(2)
    assert both.transform(x, y, ctx())[0].flatten().tolist() == [(1 * 2 + 1) * 3 + 10] * 2
    assert both.weigh(y + 1, y, ctx()).tolist() == [(1 * 2 + 1) * 3 + 10] * 2
    # Inputs pass a, then b; outputs come back through b, then a.
    assert both.predict(lambda z: 100 * z, x, ctx()).flatten().tolist() == [100 * ((1 * 2 + 1) * 3 + 10) + 10 + 1] * 2


def test_penalties_and_log_probs_are_summed():
    model = nn.Linear(3, 2)
    decays = WeightDecay(model, initial=0.1), WeightDecay(model, per="layer", initial=0.3)
    params = dict(model.named_parameters())
    total = Compose(*decays, Noise()).penalty(params)
    torch.testing.assert_close(total, decays[0].penalty(params) + decays[1].penalty(params))
    x, y = torch.rand(6, 3), torch.zeros(6)
    first, second = Noise(), Noise()
    *_, together = Compose(first, second).transform(x, y, ctx())
    *_, alone = first.transform(x, y, ctx())
    choices = torch.nn.functional.logsigmoid(torch.tensor([0.3, -0.3]))
    possible = torch.stack([c + d for c in choices for d in choices])
    assert all(torch.isclose(possible, t).any() for t in together)
    assert all(torch.isclose(choices, t - s).any() for t, s in zip(together, alone, strict=True))
    assert len(Compose(*decays).transform(x, y, ctx())) == 2


def test_noise_of_the_first_family_that_draws_is_what_it_draws_alone():
    model = nn.Linear(3, 2)
    x, y = torch.rand(6, 3), torch.zeros(6)
    noise = Noise()
    alone = noise.transform(x, y, ctx())
    for members in ((noise,), (WeightDecay(model), SampleWeights(6), noise), (noise, WeightDecay(model))):
        for got, wanted in zip(Compose(*members).transform(x, y, ctx()), alone, strict=True):
            assert torch.equal(got, wanted)
    nested = Compose(Compose(WeightDecay(model)), Compose(noise))
    assert torch.equal(nested.transform(x, y, ctx())[0], alone[0])


def test_two_members_of_a_class_draw_different_noise():
    x, y = torch.zeros(64, 3), torch.zeros(64)
    first, second = Noise(1.0), Noise(1.0)
    both = Compose(first, second).transform(x, y, ctx())[0]
    own = first.transform(x, y, ctx())[0]
    other = both - own
    assert not torch.isclose(own, other).any()
    assert abs(torch.corrcoef(torch.stack([own.flatten(), other.flatten()]))[0, 1]) < 0.3
    assert torch.equal(both, Compose(first, second).transform(x, y, ctx())[0])


def test_names():
    model = nn.Linear(3, 2)
    composed = Compose(WeightDecay(model), SampleWeights(4), WeightDecay(model, per="layer"))
    assert list(composed.values()) == ["weight_decay.decay", "sample_weights.weight", "weight_decay_2.decay.(model)"]
    assert [k for k, _ in composed.named_parameters()] == [
        "members.weight_decay.log_decay",
        "members.sample_weights.raw",
        "members.weight_decay_2.log_decay",
    ]
    assert composed.needs_index and not Compose(WeightDecay(model)).needs_index

    class Values(Scale):  # a module dictionary has an attribute of this name
        pass

    assert next(iter(Compose(Values(1.0, 0.0)).values())) == "values_2.scale"


def test_each_part_of_the_gradient_is_the_one_that_the_family_has_alone():
    """The cross term of each member, with the others held as constants, is its part of the composed one."""
    model = nn.Linear(3, 2).double()
    x, y, index = torch.rand(6, 3, dtype=torch.float64), torch.randint(2, (6,)), torch.arange(6)
    decay, weights, noise = WeightDecay(model, per="layer", initial=0.2), SampleWeights(6, initial=2.0), Noise()
    members = [m.double() for m in (decay, weights, noise)]
    v = torch.randn(2, 3, dtype=torch.float64)

    def cross(data: HyperparameterFamily, weighing: HyperparameterFamily, penalty: HyperparameterFamily, of: nn.Module):
        p = {k: q.detach().requires_grad_() for k, q in model.named_parameters()}
        c = ctx(index=index)
        moved, *_ = data.transform(x, y, c)
        out = data.predict(lambda z: z @ p["weight"].T + p["bias"], moved, c)
        losses = weighing.weigh(nn.functional.cross_entropy(out, y, reduction="none"), y, c)
        total = losses.mean() + penalty.penalty(p)
        (grad,) = torch.autograd.grad(total, p["weight"], create_graph=True)
        return torch.autograd.grad((grad * v).sum(), list(of.parameters()), allow_unused=True)

    both = Compose(*members)
    for member in members:
        parts = cross(both, both, both, member)
        alone = cross(noise, weights, decay, member)
        assert any(part is not None for part in parts)
        for part, wanted in zip(parts, alone, strict=True):
            assert (part is None) == (wanted is None)
            if part is not None:
                torch.testing.assert_close(part, wanted, rtol=1e-13, atol=1e-15)


def test_conformance():
    model = nn.Linear(3, 2)
    family = Compose(WeightDecay(model, initial=0.1), SampleWeights(5, initial=2.0), Noise(), Scale(1.2, 0.1))
    check_family(
        family,
        torch.rand(4, 3),
        torch.tensor([0, 1, 1, 0]),
        model=model,
        index=torch.tensor([4, 1, 0, 2]),
        value_range=(-9, 9),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Compose, "at least one family; got none"),
        (lambda: Compose(Noise), r"instances of HyperparameterFamily; got .*Noise.*position 0"),
        (lambda: Compose(Noise(), "madao"), "got 'madao' at position 1.*families.get"),
        (lambda: Compose(*[Noise()] * 2), "Noise at position 1 is an object that was given before"),
    ],
)
def test_error_inputs(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
