"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.layers import Norm, check_image_size, check_integer, kaiming_init, norm_layer

LEAST_SIZE = 8


class _Block(nn.Module):
    """The pre-activation block B(3, 3) of the paper's section 2, with its dropout between the convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = norm_layer(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
        h = F.relu(self.norm1(x))
        # Where the width changes, the shortcut starts behind the first activation, as in the reference.
        skip: Tensor = x if self.shortcut is None else self.shortcut(h)
        h = F.relu(self.norm2(self.conv1(h)))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        residual: Tensor = self.conv2(h)
        return skip + residual


class WideResNet(nn.Module):
    """Wide residual network WRN-depth-width, for images of about 32 x 32; any size of at least 8 works.

    A 3x3 convolution to 16 channels, three groups of ``(depth - 4) / 6`` pre-activation blocks of 16, 32 and 64 times
    ``width`` channels, the second and third group halving the map in their first block, then norm, ReLU, the mean over
    the map and a linear layer. Convolutions are initialised as in the authors' code
    (:func:`~hypergrad.vision.models.layers.kaiming_init`), the linear layer as PyTorch does, with bias 0.

    Args:
        depth: 6 n + 4 for an integer n >= 1 (16, 28, 40).
        width: widening factor, k in the paper.
        num_classes: outputs.
        channels: of the images.
        norm: ``"batch"``, or ``"group"`` (up to 8 groups) for a Hessian without batch statistics.
        dropout: probability between the two convolutions of a block; the paper uses 0 or 0.3.

    Raises:
        InvalidInputError: an argument of a wrong type or range.

    Example:
        >>> import torch
        >>> WideResNet(10, 1, num_classes=5)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        channels: int = 3,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_integer(depth, "depth")
        check_integer(width, "width")
        check_integer(num_classes, "num_classes")
        check_integer(channels, "channels")
        if depth < 10 or (depth - 4) % 6:
            raise InvalidInputError(
                f"The depth of a wide residual network is 6 n + 4, at least 10 (16, 22, 28, 34, 40); got {depth}."
            )
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InvalidInputError(f"dropout must be a probability in [0, 1); got {dropout!r}.")
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for group in range(3):
            for block in range((depth - 4) // 6):
                inputs = widths[group] if block == 0 else widths[group + 1]
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(_Block(inputs, widths[group + 1], stride, norm, float(dropout)))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_layer(norm, widths[3])
        self.linear = nn.Linear(widths[3], num_classes)
        kaiming_init(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, num_classes)
        x = F.relu(self.norm(self.blocks(self.stem(images))))
        scores: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return scores


def wide_resnet(
    num_classes: int,
    channels: int,
    image_size: int,
    *,
    depth: int,
    width: int,
    norm: Norm = "batch",
    dropout: float = 0.0,
) -> WideResNet:
    """A :class:`WideResNet` of any depth and width; ``image_size`` is in pixels and only checked.

    Raises:
        InvalidInputError: an argument of a wrong type or range.
    """
    check_image_size(image_size, LEAST_SIZE, "a wide residual network", "it halves them twice")
    return WideResNet(depth, width, num_classes, channels, norm, dropout)


def _sized(depth: int, width: int) -> Callable[..., WideResNet]:
    def build(
        num_classes: int, channels: int, image_size: int, *, norm: Norm = "batch", dropout: float = 0.0
    ) -> WideResNet:
        return wide_resnet(num_classes, channels, image_size, depth=depth, width=width, norm=norm, dropout=dropout)

    build.__doc__ = f"WRN-{depth}-{width}: see :func:`wide_resnet`."
    return build


wrn_16_1 = _sized(16, 1)
wrn_28_2 = _sized(28, 2)
wrn_28_10 = _sized(28, 10)
wrn_40_2 = _sized(40, 2)
