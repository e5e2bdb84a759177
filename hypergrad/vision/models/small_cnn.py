"""A small convolutional network that a CPU trains in minutes."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError
from hypergrad.vision.models.layers import check_image_size, check_integer

LEAST_SIZE = 8


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of stride 2 and a linear layer over what is left of the picture.

    11,994 parameters with the default widths on 28 x 28 grey images in 10 classes. It has no normalisation layers, so
    that its Hessian is that of the function it computes and does not depend on batch statistics, and no pooling, so
    that it sees where things are: a rotation that it was not trained on hurts. All layers are initialised as PyTorch
    does (uniform, bounded by one over the root of the inputs that an output sees).

    Args:
        num_classes: outputs.
        channels: of the images.
        image_size: height and width of the images, in pixels, at least 8.
        widths: channels of the three convolutions.
        activation: after each convolution, ``"relu"``, or ``"silu"`` for a loss that is smooth in the parameters.

    Raises:
        InvalidInputError: an argument of a wrong type or range, and, when it is called, images that its linear layer
            does not fit.

    Example:
        >>> import torch
        >>> SmallCNN(10, channels=1, image_size=28)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 1,
        image_size: int = 28,
        *,
        widths: Sequence[int] = (16, 32, 16),
        activation: Literal["relu", "silu"] = "relu",
    ) -> None:
        super().__init__()
        check_integer(num_classes, "num_classes")
        check_integer(channels, "channels")
        check_image_size(image_size, LEAST_SIZE, "the small CNN", "it halves them three times")
        if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) != 3:
            raise InvalidInputError(f"widths must be three integers, one a convolution; got {widths!r}.")
        for width in widths:
            check_integer(width, "each of widths")
        if activation not in ("relu", "silu"):
            raise InvalidInputError(f"activation must be 'relu' or 'silu'; got {activation!r}.")
        first, second, third = widths
        self.conv1 = nn.Conv2d(channels, first, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, stride=2, padding=1)
        self.side = math.ceil(image_size / 8)
        self.linear = nn.Linear(third * self.side**2, num_classes)
        self.activation = F.relu if activation == "relu" else F.silu

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> (B, num_classes)
        x = images
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = self.activation(convolution(x))
        if x.shape[2:] != (self.side, self.side):
            raise InvalidInputError(
                f"This small CNN was built for images of {8 * self.side - 7} to {8 * self.side} pixels a side; got "
                f"{images.shape[2]} x {images.shape[3]}. Resize them, or build it with another image_size."
            )
        scores: Tensor = self.linear(x.flatten(1))
        return scores
