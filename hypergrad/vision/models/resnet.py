"""Residual networks for large images (He et al., CVPR 2016, arXiv:1512.03385)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.layers import Norm, check_image_size, check_integer, kaiming_init, norm_layer

GROUPS = 32  # of group norm: Wu and He (ECCV 2018), section 4
LEAST_SIZE = 17


def _norm(kind: Norm, channels: int) -> nn.Module:
    return norm_layer(kind, channels, GROUPS)


class _Basic(nn.Module):
    """Two 3x3 convolutions (the paper's figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.downsample = _projection(inputs, width, stride, norm)

    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, width, H / stride, W / stride)
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right); the stride is in the 3x3 one ("v1.5"), not in the first."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = _norm(norm, width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = _norm(norm, outputs)
        self.downsample = _projection(inputs, outputs, stride, norm)

    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


def _projection(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """The shortcut where the shape changes (option B of the paper's section 3.3); None: the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(norm, outputs))


_BLOCKS: dict[str, type[_Basic] | type[_Bottleneck]] = {"basic": _Basic, "bottleneck": _Bottleneck}


class ResNet(nn.Module):
    """Residual network for images of about 224 x 224; any size of at least 17 works.

    A 7x7 convolution of stride 2 to 64 channels, 3x3 max-pooling of stride 2, four groups of blocks of 64, 128, 256
    and 512 channels (times 4 at the end of a bottleneck), each group but the first halving the map, then the mean over
    the map and a linear layer. Bottlenecks have their stride in the 3x3 convolution, as the "v1.5" of the usual
    pretrained weights, where the paper has it in the first 1x1 one. Parameters have torchvision's names, so that
    weights published under them can be loaded (:func:`hypergrad.vision.models.weights.load_weights`).

    Convolutions are initialised by :func:`~hypergrad.vision.models.layers.kaiming_init`, the linear layer as PyTorch
    does.

    Args:
        block: ``"basic"`` or ``"bottleneck"``.
        blocks: how many in each of the four groups.
        num_classes: outputs.
        channels: of the images.
        norm: ``"batch"``, or ``"group"`` (32 groups) for a Hessian without batch statistics.
        zero_init_last: start each block's last norm at scale 0, so that the block is the identity at first (Goyal et
            al., 2017, arXiv:1706.02677, section 5.1). The usual default is False, as here.

    Raises:
        InvalidInputError: an argument of a wrong type or range.

    Example:
        >>> import torch
        >>> ResNet("basic", (1, 1, 1, 1), num_classes=5)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        blocks: Sequence[int],
        num_classes: int = 1000,
        channels: int = 3,
        norm: Norm = "batch",
        zero_init_last: bool = False,
    ) -> None:
        super().__init__()
        if block not in _BLOCKS:
            raise InvalidInputError(f"block must be 'basic' or 'bottleneck'; got {block!r}.")
        if len(blocks) != 4:
            raise InvalidInputError(f"blocks must be four integers, one a group, as (2, 2, 2, 2); got {blocks!r}.")
        for count in blocks:
            check_integer(count, "each of blocks")
        check_integer(num_classes, "num_classes")
        check_integer(channels, "channels")
        if not isinstance(zero_init_last, bool):
            raise InvalidInputError(f"zero_init_last must be true or false; got {zero_init_last!r}.")
        kind = _BLOCKS[block]
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(norm, 64)
        inputs = 64
        groups: list[nn.Module] = []
        for width, count, first in zip((64, 128, 256, 512), blocks, (1, 2, 2, 2), strict=True):
            members: list[nn.Module] = []
            for position in range(count):
                members.append(kind(inputs, width, first if position == 0 else 1, norm))
                inputs = kind.expansion * width
            groups.append(nn.Sequential(*members))
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.fc = nn.Linear(inputs, num_classes)
        kaiming_init(self)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, _Basic | _Bottleneck):
                    nn.init.zeros_(module.last_norm().get_parameter("weight"))

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, num_classes)
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = group(x)
        scores: Tensor = self.fc(torch.mean(x, dim=(2, 3)))
        return scores


def _check_size(image_size: int) -> None:
    check_image_size(
        image_size, LEAST_SIZE, "a ResNet", "it divides them by 32 and its last group would see a single pixel"
    )


def resnet18(
    num_classes: int, channels: int, image_size: int, *, norm: Norm = "batch", zero_init_last: bool = False
) -> ResNet:
    """ResNet-18: see :class:`ResNet`; ``image_size`` is in pixels and only checked."""
    _check_size(image_size)
    return ResNet("basic", (2, 2, 2, 2), num_classes, channels, norm, zero_init_last)


def resnet50(
    num_classes: int, channels: int, image_size: int, *, norm: Norm = "batch", zero_init_last: bool = False
) -> ResNet:
    """ResNet-50: see :class:`ResNet`; ``image_size`` is in pixels and only checked."""
    _check_size(image_size)
    return ResNet("bottleneck", (3, 4, 6, 3), num_classes, channels, norm, zero_init_last)
