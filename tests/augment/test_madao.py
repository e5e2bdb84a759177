"""The family ``madao``: what the engine sees of a policy."""

import re

import pytest
import torch
from torch import Tensor

from hypergrad import families
from hypergrad.augment import Madao
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.families.base import Context
from hypergrad.objective import ModelObjective, score_weights

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
TARGETS = torch.arange(20) % 4


def context(soft: bool, index: Tensor | None = None) -> Context:
    return Context(key=9, index=index, soft=soft, training=True)


def images() -> Tensor:
    return torch.randint(256, (20, 3, 17, 19)) / 255


def test_registered() -> None:
    assert isinstance(families.get("madao", stages=1, operations=["Rotate"]), Madao)


def test_raw_parameters_and_values() -> None:
    family = Madao(stages=3, operations=["Rotate", "Invert"])
    assert {k: tuple(p.shape) for k, p in family.named_parameters()} == {
        "policy.pi": (3, 2),
        "policy.mu": (3, 2),
        "policy.p": (3, 2),
    }
    values = family.values()
    assert {k: v.tolist() for k, v in values.items()} == dict.fromkeys(("pi", "mu", "p"), [[0.5, 0.5]] * 3)
    assert not any(v.requires_grad for v in values.values())


@pytest.mark.parametrize(
    ("selection", "soft", "length"),
    [
        ("unbiased", True, 3),
        ("unbiased", False, 2),
        ("relaxed", True, 2),
        ("relaxed", False, 2),
    ],
)
def test_what_transform_returns(selection: str, soft: bool, length: int) -> None:
    result = Madao(selection=selection).transform(images(), TARGETS, context(soft))
    assert len(result) == length
    assert result[1] is TARGETS
    if length == 3:
        assert result[2].shape == (20,)
        assert result[2].requires_grad


def test_the_index_is_used() -> None:
    family, x, index = Madao(), images(), torch.arange(20) + 100
    whole = family.transform(x, TARGETS, context(False, index))[0]
    half = family.transform(x[10:], TARGETS[10:], context(False, index[10:]))[0]
    assert torch.allclose(half, whole[10:], atol=1e-6)
    assert not torch.allclose(family.transform(x, TARGETS, context(False))[0], whole)


@pytest.mark.parametrize(("batch", "group_size"), [(8, 1), (8, 2), (8, 4), (10, 4), (7, 3)])
def test_the_score_gradient_is_unbiased_when_images_share_picks(batch: int, group_size: int) -> None:
    """Monte Carlo against the enumerated gradient, through the weights that the engine gives the losses."""
    family = Madao(stages=1, operations=["Brightness", "Invert"], group_size=group_size).double()
    with torch.no_grad():
        family.policy.p.fill_(40.0)
        family.policy.mu[0, 1] = 40.0
        family.policy.pi.copy_(torch.tensor([[0.3, -0.2]]))
    pi = family.policy.values()["pi"][0]
    levels = torch.linspace(0.1, 0.6, batch, dtype=torch.float64)  # the images differ
    x = levels.view(-1, 1, 1, 1)

    def losses(images: Tensor) -> Tensor:
        return images[:, 0, 0, 0] ** 2

    # Brightness is 1.45 x or 0.55 x.
    bright = ((1.45 * levels) ** 2 + (0.55 * levels) ** 2).mean() / 2
    inverted = ((1 - levels) ** 2).mean()
    truth = pi[0] * pi[1] * (bright - inverted)  # d/d pi_0 of the mean loss
    repeats = 1500
    estimates = torch.zeros(repeats, dtype=torch.float64)
    for i in range(repeats):
        images, _, log_prob = family.transform(x, TARGETS, Context(key=i, index=None, soft=True, training=True))
        loss = (losses(images).detach() * score_weights(log_prob, batch)).mean()
        estimates[i] = torch.autograd.grad(loss, family.policy.pi)[0][0, 0]
    error = estimates.std() / repeats**0.5
    assert truth.abs() > 12 * error
    assert (estimates.mean() - truth).abs() < 3.5 * error


def test_a_single_group_has_no_selection_gradient() -> None:
    family = Madao(stages=1, group_size=4)
    _, _, log_prob = family.transform(images()[:4], TARGETS[:4], context(True))
    (grad,) = torch.autograd.grad((torch.rand(4) * score_weights(log_prob, 4)).sum(), family.policy.pi)
    assert grad.abs().max() < 1e-6


@pytest.mark.parametrize("mean_std", [(MEAN, STD), (0.5, 0.5)])
@pytest.mark.parametrize("soft", [False, True])
def test_normalisation_is_undone_and_redone(mean_std, soft: bool) -> None:
    x = images().double()
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in mean_std)
    plain = Madao().double().transform(x, TARGETS, context(soft))[0]
    family = Madao(mean=mean_std[0], std=mean_std[1]).double()
    result = family.transform((x - mean) / std, TARGETS, context(soft))[0]
    # Undoing moves values by rounding, and a value that lies on the edge of an 8-bit level to the next one.
    different = (result - (plain - mean) / std).abs() > 1e-6
    assert different.double().mean() < 1e-3
    assert set(family.state_dict()) == {"policy.pi", "policy.mu", "policy.p"}


def test_normalised_float32_reaches_the_bounds() -> None:
    x = torch.tensor([0.0, 1.0]).repeat(20, 3, 4, 2)
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    result = Madao(mean=MEAN, std=STD).transform((x - mean) / std, TARGETS, context(False))[0]
    assert result.isfinite().all()


def test_through_a_model() -> None:
    """The inner loss of an outer step reaches pi, mu and p in second order; the plain training loss reaches none."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 17 * 19, 4))
    for selection in ("unbiased", "relaxed"):
        objective = ModelObjective(model, Madao(selection=selection))
        inner, _ = objective.losses(key=1)
        grads = torch.func.grad(inner)(objective.params, objective.hparams, images(), TARGETS)
        cross = torch.autograd.grad(sum(g.sin().sum() for g in grads.values()), list(objective.hparams.values()))
        assert all(c.isfinite().all() and c.abs().sum() > 0 for c in cross)
        loss = objective.training_loss((images(), TARGETS), key=1)
        assert torch.autograd.grad(loss, list(objective.hparams.values()), allow_unused=True) == (None, None, None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: families.get("madao", stage=2), InvalidInputError, "stage"),
        (lambda: Madao(operations=["Rotat"]), UnknownNameError, "Did you mean 'Rotate'?"),
        (lambda: Madao(std=0.0), InvalidInputError, "std must be positive; got 0.0"),
        (lambda: Madao(mean="imagenet"), InvalidInputError, "mean must be a number or one per channel; got 'imagenet'"),
        (lambda: Madao(mean=(float("nan"),)), InvalidInputError, "finite"),
        (
            lambda: Madao(mean=(0.5, 0.5)).transform(images(), TARGETS, context(False)),
            InvalidInputError,
            "mean has 2 values, but the images have 3 channels",
        ),
        (
            lambda: Madao().transform(images() * 4 - 2, TARGETS, context(False)),
            InvalidInputError,
            "say so by mean= and std=",
        ),
        (
            lambda: Madao(mean=MEAN, std=STD).transform(images() * 255, TARGETS, context(False)),
            InvalidInputError,
            "must lie in [0, 1]",
        ),
        (lambda: Madao(mean=0.5).transform(images().byte(), TARGETS, context(False)), InvalidInputError, "torch.uint8"),
        (lambda: Madao().transform(images()[0], TARGETS, context(False)), InvalidInputError, "(3, 17, 19)"),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
