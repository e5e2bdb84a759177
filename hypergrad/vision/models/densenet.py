"""Densely connected networks for small images (Huang et al., CVPR 2017, arXiv:1608.06993)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.layers import Norm, check_image_size, check_integer, kaiming_init, norm_layer

LEAST_SIZE = 8


class _Layer(nn.Module):
    """One layer of a dense block: its input, with ``growth`` new maps appended."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool, norm: Norm) -> None:
        super().__init__()
        inner = 4 * growth if bottleneck else inputs  # the paper's section 3, "Bottleneck layers"
        self.norm1 = norm_layer(norm, inputs) if bottleneck else None
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False) if bottleneck else None
        self.norm2 = norm_layer(norm, inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, inputs + growth, H, W)
        h = x
        if self.norm1 is not None and self.conv1 is not None:
            h = self.conv1(F.relu(self.norm1(h)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], 1)


class _Transition(nn.Module):
    """Fewer maps of half the size, between two dense blocks."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm_layer(norm, inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H / 2, W / 2)
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """DenseNet of three dense blocks, for images of about 32 x 32; any size of at least 8 works.

    A 3x3 convolution, three dense blocks of equally many layers with two transitions between them, then norm, ReLU,
    the mean over the map and a linear layer. With ``bottleneck`` and ``compression`` below 1 it is the paper's
    DenseNet-BC, with neither its plain DenseNet. Convolutions are initialised by
    :func:`~hypergrad.vision.models.layers.kaiming_init`, the linear layer as PyTorch does, with bias 0.

    Args:
        depth: 6 n + 4 with bottlenecks, 3 n + 4 without, for an integer n >= 1 (40, 100).
        growth: maps that a layer adds, k in the paper.
        num_classes: outputs.
        channels: of the images.
        compression: share of the maps that a transition keeps, theta in the paper, in (0, 1].
        bottleneck: whether a 1x1 convolution to ``4 * growth`` maps precedes each 3x3 one; the first convolution has
            ``2 * growth`` maps with it, 16 without.
        norm: ``"batch"``, or ``"group"`` (up to 8 groups) for a Hessian without batch statistics.

    Raises:
        InvalidInputError: an argument of a wrong type or range.

    Example:
        >>> import torch
        >>> DenseNet(10, 4, num_classes=5)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        depth: int,
        growth: int,
        num_classes: int = 10,
        channels: int = 3,
        compression: float = 0.5,
        bottleneck: bool = True,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_integer(depth, "depth")
        check_integer(growth, "growth")
        check_integer(num_classes, "num_classes")
        check_integer(channels, "channels")
        if not isinstance(bottleneck, bool):
            raise InvalidInputError(f"bottleneck must be true or false; got {bottleneck!r}.")
        per_layer = 6 if bottleneck else 3
        if depth < per_layer + 4 or (depth - 4) % per_layer:
            raise InvalidInputError(
                f"The depth of a DenseNet {'with' if bottleneck else 'without'} bottlenecks is {per_layer} n + 4, at "
                f"least {per_layer + 4} (40 and 100 are the paper's); got {depth}."
            )
        if not isinstance(compression, int | float) or isinstance(compression, bool) or not 0 < compression <= 1:
            raise InvalidInputError(f"compression must be a share in (0, 1]; got {compression!r}.")
        layers = (depth - 4) // per_layer
        width = 2 * growth if bottleneck else 16
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                kept = max(1, int(compression * width))
                stages.append(_Transition(width, kept, norm))
                width = kept
            for _ in range(layers):
                stages.append(_Layer(width, growth, bottleneck, norm))
                width += growth
        self.blocks = nn.Sequential(*stages)
        self.norm = norm_layer(norm, width)
        self.linear = nn.Linear(width, num_classes)
        kaiming_init(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, num_classes)
        x = F.relu(self.norm(self.blocks(self.stem(images))))
        scores: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return scores


def densenet(
    num_classes: int,
    channels: int,
    image_size: int,
    *,
    depth: int,
    growth: int,
    compression: float = 0.5,
    bottleneck: bool = True,
    norm: Norm = "batch",
) -> DenseNet:
    """A :class:`DenseNet` of any depth and growth; ``image_size`` is in pixels and only checked.

    Raises:
        InvalidInputError: an argument of a wrong type or range.
    """
    check_image_size(image_size, LEAST_SIZE, "a DenseNet", "it halves them twice")
    return DenseNet(depth, growth, num_classes, channels, compression, bottleneck, norm)


def densenet_bc_40_12(num_classes: int, channels: int, image_size: int, *, norm: Norm = "batch") -> DenseNet:
    """DenseNet-BC of depth 40 and growth 12: see :func:`densenet`."""
    return densenet(num_classes, channels, image_size, depth=40, growth=12, norm=norm)
