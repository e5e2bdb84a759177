"""A run that starts from pretrained weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from hypergrad.vision.config import TrainConfig
from hypergrad.vision.models import build_model
from hypergrad.vision.training import train


def test_the_body_is_read_and_a_head_of_another_size_is_reported(tmp_path: Path, capsys) -> None:
    torch.manual_seed(5)
    other = build_model("small-cnn", num_classes=3, channels=1, image_size=8)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    config = TrainConfig(
        model={"weights": tmp_path / "other.safetensors"},
        method={"name": "standard"},
        epochs=1,
        lr=1e-12,
        batch_size=64,
    )
    result = train(config)
    assert "linear" in result.weights
    assert result.weights in capsys.readouterr().err
    held = dict(result.model.named_parameters())
    assert torch.allclose(held["model.conv1.weight"], other.conv1.weight, atol=1e-6)
    assert held["model.linear.weight"].shape[0] == 10
