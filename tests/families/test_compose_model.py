"""Weight decay, sample weights and MADAO on one model: each part of the hypergradient is the one it has alone."""

import pytest
import torch
from torch import nn

from hypergrad import families
from hypergrad.estimators.implicit import hypergradient
from hypergrad.families import Compose, HyperparameterFamily
from hypergrad.objective import ModelObjective
from hypergrad.solvers.dense import Dense
from hypergrad.testing.families import check_family

D = torch.float64
KEY = 11


@pytest.fixture
def model():
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 3), nn.Tanh(), nn.Linear(3, 3)).to(D)


@pytest.fixture
def batches():
    train = torch.rand(6, 3, 8, 8, dtype=D), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([9, 3, 1, 4, 7, 2])
    return train, (torch.rand(5, 3, 8, 8, dtype=D), torch.tensor([2, 1, 0, 0, 1]))


def members(model, decay: float = 0.05, weight: float = 1.0) -> dict[str, HyperparameterFamily]:
    return {
        "weight_decay": families.get("weight_decay", model=model, per="layer", initial=decay),
        "sample_weights": families.get("sample_weights", num_samples=10, initial=weight).to(D),
        "madao": families.get("madao", operations=["Rotate", "Brightness", "Solarize"]).to(D),
    }


def grads(model, family, batches, weight_decay: float = 0.0):
    """The hypergradient with every member that requires grad; the damping makes the Hessian definite."""
    objective = ModelObjective(model, family, weight_decay=weight_decay)
    inner, outer = objective.losses(KEY)
    result = hypergradient(
        inner,
        outer,
        objective.params,
        objective.hparams,
        inner_batch=batches[0],
        outer_batch=batches[1],
        solver=Dense(),
        damping=1.0,
    )
    return result.grads


@pytest.mark.parametrize(
    "order", [("weight_decay", "sample_weights", "madao"), ("madao", "weight_decay", "sample_weights")]
)
@pytest.mark.parametrize("name", ["weight_decay", "sample_weights", "madao"])
def test_each_part_with_the_others_held_constant(model, batches, order, name):
    made = members(model, weight=1.7)
    both = Compose(*(made[member] for member in order))
    together = grads(model, both, batches)
    for other in made:
        made[other].requires_grad_(other == name)
    alone = grads(model, both, batches)
    assert alone and set(alone) == {k for k in together if k.startswith(f"members.{name}.")}
    for key, part in alone.items():
        assert part.abs().max() > 1e-6
        torch.testing.assert_close(together[key], part, rtol=1e-10, atol=1e-14)


def test_madao_as_the_only_family_of_an_equal_objective(model, batches):
    """Weights of 1 and one decay, here as families and there as a plain constant: the same f, hence the same part."""
    made = members(model, decay=0.05)
    together = grads(model, Compose(*made.values()), batches)
    alone = grads(model, made["madao"], batches, weight_decay=0.05)
    for key, part in alone.items():
        assert part.abs().max() > 1e-6
        # The weights are softplus of a float32 start, so they are 1 to 7 digits.
        torch.testing.assert_close(together[f"members.madao.{key}"], part, rtol=1e-6, atol=1e-9)


def test_conformance(model, batches):
    made = members(model, weight=1.7)
    x, y, index = batches[0]
    # Solarize is a step with the gradient of a sigmoid, for its own magnitude and for what an earlier stage hands it.
    surrogate = ("members.madao.policy.mu", "members.madao.policy.p")
    check_family(Compose(*made.values()), x, y, model=model, index=index, value_range=(0, 1), surrogate=surrogate)
