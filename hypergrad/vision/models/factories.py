"""Calling what makes a network: a registered function, or any callable given as ``package.module:Name``."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.keys import preserved_rng
from hypergrad.registry import closest

#: The arguments that the data determine; all others are options.
GIVEN = ("num_classes", "channels", "image_size")


def import_factory(path: str) -> Callable[..., Any]:
    """The callable at an import path.

    Args:
        path: ``"package.module:Name"``.

    Raises:
        InvalidInputError: another form, no such module, an error while it is imported, no such name in it, or
            something that cannot be called or is a network already.
    """
    module_name, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidInputError(f"An import path is 'package.module:Name', as 'my_networks.big:Net'; got {path!r}.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is somebody's code, and runs when it is imported
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        problem = "there is no such module" if absent else "importing it failed"
        remedy = (
            "Install its package, or put the folder that holds it on PYTHONPATH (PYTHONPATH=. for the current one)."
            if absent
            else f"Try it alone: python -c 'import {module_name}'."
        )
        raise InvalidInputError(
            f"The network {path!r} cannot be imported: {problem} ({type(error).__name__}: {error}). {remedy}"
        ) from error
    if not hasattr(module, name):
        raise InvalidInputError(f"The module {module_name!r} has no {name!r}.{closest(name, dir(module))}")
    found = getattr(module, name)
    if isinstance(found, nn.Module) or not callable(found):
        raise InvalidInputError(
            f"{path!r} is {'a network already' if isinstance(found, nn.Module) else f'of type {type(found).__name__}'}"
            "; give a class, or a function, that makes one from num_classes."
        )
    called: Callable[..., Any] = found
    return called


def call_factory(name: str, factory: Callable[..., Any], given: Mapping[str, int], options: Mapping[str, Any]) -> Any:
    """The network that a factory makes, its arguments checked against its signature first.

    Args:
        name: of the network, for messages.
        factory: takes num_classes by name, and channels and image_size if its signature has them.
        given: the values of :data:`GIVEN`.
        options: further arguments.

    Raises:
        InvalidInputError: an option that the factory does not have, or one that it needs and did not get (the message
            lists those it has), no argument num_classes, values that it refuses, or something made that is no network.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError as error:
        raise InvalidInputError(f"The network {name!r} has no signature to read; wrap it in a function.") from error
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    own = [option for option in named if option not in GIVEN]
    listed = ", ".join(own) or "none"
    if "num_classes" not in named and not takes_any:
        raise InvalidInputError(
            f"The network {name!r} takes no argument num_classes (it takes: {', '.join(named) or 'none'}). Wrap it in "
            "a function that does: def net(num_classes): ..."
        )
    for option, value in options.items():
        if option not in named and not takes_any:
            raise InvalidInputError(
                f"The network {name!r} has no option {option!r} (got {option}={value!r}).{closest(option, own)} "
                f"Options: {listed}."
            )
    missing = [option for option in own if named[option].default is inspect.Parameter.empty and option not in options]
    if missing:
        raise InvalidInputError(
            f"The network {name!r} needs the option {missing[0]!r}, which was not given. Options: {listed}."
        )
    arguments = {key: value for key, value in given.items() if key in named or key == "num_classes"}
    try:
        model = factory(**arguments, **options)
    except HypergradError:
        raise
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in {**arguments, **options}.items())
        raise InvalidInputError(f"The network {name!r} refused its arguments ({shown}): {error}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(
            f"The network {name!r} made an object of type {type(model).__name__}, and must make a torch.nn.Module."
        )
    return model


def try_network(name: str, model: nn.Module, given: Mapping[str, int]) -> None:
    """Run a network once on a black image, in eval mode; its modes and torch's global generators stay as they were.

    Raises:
        InvalidInputError: it fails, or gives something else than scores ``(1, num_classes)``.
    """
    modes = [(module, module.training) for module in model.modules()]
    image = torch.zeros(1, given["channels"], given["image_size"], given["image_size"])
    try:
        model.eval()
        with torch.no_grad(), preserved_rng(image.device):
            scores = model(image)
    except Exception as error:  # somebody's code
        raise InvalidInputError(
            f"The network {name!r} failed on an image of shape {tuple(image.shape)} ({type(error).__name__}: {error}). "
            "Give it an argument channels or image_size if it depends on them, or change the images."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if got != (1, given["num_classes"]):
        raise InvalidInputError(
            f"The network {name!r} must give scores of shape (1, {given['num_classes']}) for one image; got {got}."
        )
