"""The networks that the benchmarks train."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of stride 2 and a linear layer over what is left of the picture, for grey images.

    About 12,000 parameters with the default channels on 28x28; no normalisation layers, so that its Hessian is that of
    the function it computes and does not depend on batch statistics; no pooling, so that it sees where things are (a
    rotation it was not trained on hurts) and is fast on a CPU.

    Args:
        channels: of the three convolutions.
        size: height and width of the images.
        num_classes: outputs.
        mean, std: of the data; inputs come in [0, 1] and are normalised here, behind the augmentation.
        activation: after each convolution.
    """

    def __init__(
        self, channels: Sequence[int] = (16, 32, 16), size: int = 28, num_classes: int = 10, mean: float = 0.0,
        std: float = 1.0, activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:  # fmt: skip
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, stride=2, padding=1)
        left = math.ceil(size / 8)
        self.linear = nn.Linear(third * left * left, num_classes)
        self.mean, self.std = mean, std
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:  # (B, 1, H, W) -> (B, num_classes)
        x = (images - self.mean) / self.std
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = self.activation(convolution(x))
        return self.linear(x.flatten(1))


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(min(8, channels), channels)
    raise ValueError(f"norm is 'batch' or 'group'; got {kind!r}.")


class _Block(nn.Module):
    """The pre-activation block of Wide Residual Networks (Zagoruyko and Komodakis 2016, B(3, 3))."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.norm1 = _norm(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        # Where the width changes, the shortcut starts behind the first activation, as in the reference.
        skip = x if self.shortcut is None else self.shortcut(h)
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        return h + skip


class WideResNet(nn.Module):
    """Wide residual network WRN-depth-width for 32x32 colour images.

    Args:
        depth: 6 n + 4 for an integer n >= 1 (16, 28, 40).
        width: widening factor.
        norm: ``"batch"``, or ``"group"`` (groups of up to 8) for a Hessian without batch statistics.
        num_classes: outputs.
    """

    def __init__(self, depth: int, width: int, norm: str = "batch", num_classes: int = 10) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"The depth of a wide residual network is 6 n + 4, at least 10; got {depth}.")
        blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for group in range(3):
            for block in range(blocks):
                inputs = channels[group] if block == 0 else channels[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(_Block(inputs, channels[group + 1], stride, norm))
        self.blocks = nn.Sequential(*layers)
        self.norm = _norm(norm, channels[3])
        self.linear = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 32, 32) -> (B, num_classes)
        x = F.relu(self.norm(self.blocks(self.stem(images))))
        return self.linear(torch.mean(x, dim=(2, 3)))


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
