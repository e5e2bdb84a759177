"""What the networks share: their norm layers, their initialisation, and the checks of their arguments."""

from typing import Literal

from torch import nn

from hypergrad.errors import InvalidInputError

Norm = Literal["batch", "group"]


def norm_layer(kind: Norm, channels: int, groups: int = 8) -> nn.Module:
    """A norm layer for maps ``(B, channels, H, W)``, with scale 1 and shift 0.

    Args:
        kind: ``"batch"``, or ``"group"`` (Wu and He, ECCV 2018) for a Hessian without batch statistics.
        channels: of the maps.
        groups: of channels, with ``"group"``; the largest number up to this one that divides the channels is taken.

    Raises:
        InvalidInputError: an unknown kind.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(next(g for g in range(groups, 0, -1) if channels % g == 0), channels)
    raise InvalidInputError(f"norm must be 'batch' or 'group'; got {kind!r}.")


def kaiming_init(model: nn.Module) -> None:
    """Draw every convolution's weights from a normal distribution of variance 2 / (kernel area x output channels).

    That is He et al. (ICCV 2015), equation 14, the backward pass's condition (``fan_out``), as the authors of ResNet,
    Wide ResNet and DenseNet had it in their code.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_integer(value: object, name: str, least: int = 1) -> None:
    """Refuse what is no integer, or a smaller one than ``least``.

    Raises:
        InvalidInputError: the message gives the argument's name, its bound and the value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{name} must be an integer of at least {least}; got {value!r}.")


def check_image_size(image_size: object, least: int, network: str, reason: str) -> None:
    """Refuse images that a network cannot see anything in.

    Args:
        image_size: height and width, in pixels.
        least: the smallest that is taken.
        network: its name, for the message.
        reason: why, a clause after "because".

    Raises:
        InvalidInputError: too small, or no integer.
    """
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < least:
        raise InvalidInputError(
            f"image_size must be an integer of at least {least} pixels for {network}, because {reason}; got "
            f"{image_size!r}. Enlarge or pad the images, or take another network."
        )
