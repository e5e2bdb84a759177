"""The normalisation in front of a network: values, buffers, and what it refuses."""

import pytest
import torch
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.normalised import Normalised


def test_values_per_channel() -> None:
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    got = Normalised(nn.Identity(), (0.5, 0.375, 0.25), (0.25, 0.5, 0.125)).double()(images)
    for channel, (mean, std) in enumerate([(0.5, 0.25), (0.375, 0.5), (0.25, 0.125)]):
        assert torch.allclose(got[:, channel], (images[:, channel] - mean) / std, rtol=1e-14)


def test_the_statistics_are_saved_and_not_trained() -> None:
    model = Normalised(nn.Conv2d(1, 2, 1), [0.5], [0.25])
    assert [name for name, _ in model.named_parameters()] == ["model.weight", "model.bias"]
    assert {"mean", "std", "model.weight", "model.bias"} == set(model.state_dict())
    other = Normalised(nn.Conv2d(1, 2, 1), [0.0], [1.0])
    other.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(other(images), model(images))


def test_gradients_reach_the_images() -> None:
    images = torch.rand(1, 1, 2, 2, requires_grad=True)
    Normalised(nn.Identity(), [0.5], [0.25])(images).sum().backward()
    assert torch.equal(images.grad, torch.full((1, 1, 2, 2), 4.0))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.25, 0.25], "one number a channel; got 1 and 2 numbers"),
        ([], [], "got 0 and 0 numbers"),
        ([0.5], [0.0], r"std must be positive in every channel; got \[0.0\]"),
        ([125.3], [63.0], r"units of \[0, 1\]; got mean=\[125.3\].* by 255"),
        ([float("nan")], [1.0], "mean must be a sequence of finite numbers"),
        ([0.5], ["a"], "std must be a sequence of finite numbers"),
        (0.5, 0.25, "mean must be a sequence .* got 0.5"),
    ],
)
def test_refused_statistics(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Normalised(nn.Identity(), mean, std)


def test_no_module() -> None:
    with pytest.raises(InvalidInputError, match=r"must be a torch.nn.Module; got function"):
        Normalised(lambda x: x, [0.5], [0.25])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "must be floats .* got torch.uint8. Divide"),
        (torch.zeros(1, 1, 2, 2), r"must be \(B, 3, H, W\).*; got \(1, 1, 2, 2\)"),
        (torch.zeros(3, 2, 2), r"got \(3, 2, 2\)"),
    ],
)
def test_refused_images(images: Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Normalised(nn.Identity(), [0.5] * 3, [0.25] * 3)(images)
