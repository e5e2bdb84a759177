"""The data set's normalisation in front of a network, so that augmentation and users see images in [0, 1]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergrad.errors import InvalidInputError


class Normalised(nn.Module):
    """``model((images - mean) / std)`` for images in [0, 1].

    Mean and standard deviation are buffers: they are not trained, they are saved with the model, and they follow it
    to its device.

    Args:
        model: the network, which gets images of about mean 0 and standard deviation 1.
        mean: of each channel over the training images, in units of [0, 1].
        std: standard deviation of each channel, likewise, positive.

    Raises:
        InvalidInputError: not a module, not one number a channel, or one that cannot be used; and, when it is called,
            images that are no floats or have another number of channels.

    Example:
        >>> import torch
        >>> Normalised(torch.nn.Flatten(), mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 2))
        tensor([[2., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
        for name, values in (("mean", mean), ("std", std)):
            if not isinstance(values, Sequence) or isinstance(values, str) or not all(_finite(v) for v in values):
                raise InvalidInputError(f"{name} must be a sequence of finite numbers, one a channel; got {values!r}.")
        if len(mean) != len(std) or not mean:
            raise InvalidInputError(
                f"mean and std must have one number a channel; got {len(mean)} and {len(std)} numbers."
            )
        if min(std) <= 0:
            raise InvalidInputError(
                f"std must be positive in every channel; got {std!r}. A channel that is constant takes 1."
            )
        if max(map(abs, mean)) > 1 or max(std) > 1:
            raise InvalidInputError(
                f"mean and std are in units of [0, 1]; got mean={mean!r}, std={std!r}. Divide those of 8-bit images "
                "by 255."
            )
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype())[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype())[:, None, None])

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W) -> what the model gives
        if not images.is_floating_point():
            raise InvalidInputError(f"images must be floats in [0, 1]; got {images.dtype}. Divide 8-bit ones by 255.")
        # One channel beside three would be broadcast without a word.
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise InvalidInputError(
                f"images must be (B, {len(self.mean)}, H, W), as mean and std; got {tuple(images.shape)}."
            )
        scores: Tensor = self.model((images - self.mean) / self.std)
        return scores


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
