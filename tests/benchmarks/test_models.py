import pytest
import torch
from _models import SmallCNN, WideResNet, parameter_count


@pytest.mark.parametrize(("depth", "width", "millions"), [(28, 2, 1.468), (40, 2, 2.244)])
def test_parameter_counts_of_wide_residual_networks(depth: int, width: int, millions: float) -> None:
    assert round(parameter_count(WideResNet(depth, width)) / 1e6, 3) == millions


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_wide_residual_network_classifies_colour_images(norm: str) -> None:
    out = WideResNet(10, 1, norm=norm, num_classes=7)(torch.rand(2, 3, 32, 32))
    assert out.shape == (2, 7) and bool(out.isfinite().all())


@pytest.mark.parametrize(
    ("depth", "norm", "message"),
    [(27, "batch", "6 n . 4.*27"), (4, "batch", "at least 10; got 4"), (16, "layer", "'layer'")],
)
def test_impossible_networks(depth: int, norm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(depth, 1, norm=norm)


@pytest.mark.parametrize(("size", "low", "high"), [(28, 11_500, 12_500), (8, 9_000, 12_500)])
def test_the_small_network_has_some_twelve_thousand_parameters(size: int, low: int, high: int) -> None:
    model = SmallCNN(size=size)
    assert low < parameter_count(model) < high
    assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


def test_the_small_network_normalises_its_input() -> None:
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    plain, normalising = SmallCNN(), SmallCNN(mean=0.3, std=0.5)
    normalising.load_state_dict(plain.state_dict())
    assert torch.allclose(normalising(images), plain((images - 0.3) / 0.5), atol=1e-6)
