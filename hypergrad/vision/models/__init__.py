"""Networks for image classification: ``build_model(name, ...)``, ``model_names()`` and the registration of new ones.

A network takes images ``(B, channels, H, W)`` of about mean 0 and standard deviation 1 and gives scores
``(B, num_classes)``. The normalisation is a wrapper (:class:`hypergrad.vision.models.normalised.Normalised`), so that
everything else, augmentation first, sees images in [0, 1].
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn

from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.registry import Registry
from hypergrad.vision.models.factories import call_factory, import_factory, try_network
from hypergrad.vision.models.layers import check_integer

F = TypeVar("F", bound=Callable[..., nn.Module])

_registry: Registry[Any] = Registry(
    "network",
    {
        "densenet": "hypergrad.vision.models.densenet:densenet",
        "densenet-bc-40-12": "hypergrad.vision.models.densenet:densenet_bc_40_12",
        "resnet18": "hypergrad.vision.models.resnet:resnet18",
        "resnet50": "hypergrad.vision.models.resnet:resnet50",
        "small-cnn": "hypergrad.vision.models.small_cnn:SmallCNN",
        "wide_resnet": "hypergrad.vision.models.wide_resnet:wide_resnet",
        "wrn-16-1": "hypergrad.vision.models.wide_resnet:wrn_16_1",
        "wrn-28-2": "hypergrad.vision.models.wide_resnet:wrn_28_2",
        "wrn-28-10": "hypergrad.vision.models.wide_resnet:wrn_28_10",
        "wrn-40-2": "hypergrad.vision.models.wide_resnet:wrn_40_2",
    },
)

model_names = _registry.names


def register_model(name: str) -> Callable[[F], F]:
    """Decorator that adds a class or a function under ``name``.

    It is called as ``(num_classes=..., channels=..., image_size=..., **options)``, the latter two only where its
    signature has them, and gives the network; its other arguments are the network's options.

    Raises:
        InvalidInputError: the name is empty, no string, has a colon (those are import paths), or is taken; or what is
            decorated is no class or function.

    Example:
        >>> import torch
        >>> @register_model("linear")
        ... def linear(num_classes: int, channels: int, image_size: int, *, bias: bool = True) -> torch.nn.Module:
        ...     pixels = channels * image_size**2
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes, bias))
        >>> build_model("linear", num_classes=10, channels=1, image_size=8, bias=False)[1]
        Linear(in_features=64, out_features=10, bias=False)
    """
    add = cast("Callable[[F], F]", _registry.register(name))
    if ":" in name:
        raise InvalidInputError(f"A network's name has no colon, which marks an import path; got {name!r}.")

    def checked(factory: F) -> F:
        if not callable(factory) or not hasattr(factory, "__qualname__"):
            raise InvalidInputError(
                f"A network is registered as a class or a function; got {factory!r} under {name!r}."
            )
        return add(factory)

    return checked


def build_model(name: str, *, num_classes: int, channels: int, image_size: int, **options: Any) -> nn.Module:
    """A network with fresh weights, in train mode as it comes; ``torch.manual_seed`` determines the weights.

    Args:
        name: a registered name, or ``"package.module:Name"``: any class or function that takes num_classes (and, if it
            has them, channels and image_size) and gives a module. One by import path is run once on a black image, so
            that a mistake is found before training begins.
        num_classes: outputs.
        channels: of the images, 1 for grey and 3 for colour.
        image_size: height and width of the images, in pixels.
        options: further arguments of the network.

    Returns:
        A module that takes images ``(B, channels, H, W)`` of about mean 0 and standard deviation 1, and gives scores
        ``(B, num_classes)``.

    Raises:
        UnknownNameError: no such name; the message lists those that exist.
        InvalidInputError: an import path that leads nowhere, an option that the network does not have or refuses,
            images that are too small for it, or something that is no network.

    Example:
        >>> network = build_model("wide_resnet", num_classes=10, channels=3, image_size=32, depth=28, width=2)
        >>> sum(p.numel() for p in network.parameters())
        1467610
    """
    given = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    for argument, value in given.items():
        check_integer(value, argument)
    if isinstance(name, str) and ":" in name:
        model: nn.Module = call_factory(name, import_factory(name), given, options)
        try_network(name, model, given)
        return model
    try:
        factory = _registry.lookup(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} A network of your own: 'package.module:Name'.") from None
    built: nn.Module = call_factory(name, factory, given, options)
    return built


__all__ = ["build_model", "model_names", "register_model"]
