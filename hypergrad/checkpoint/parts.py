"""The state of a training: everything that changes in it, part by part, for a loop of one's own."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hypergrad.errors import InvalidInputError


@runtime_checkable
class Stateful(Protocol):
    """An optimizer, a scheduler, a :class:`~hypergrad.HyperStepper`, or anything else with these two methods."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that what follows depends on."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from there."""
        ...


def training_state(**parts: Stateful) -> dict[str, Any]:
    """The states of all parts, and of torch's global random generators.

    Of an ``nn.Module``: its ``state_dict``, the buffers that are not in it, and the train/eval flag of each submodule.

    Args:
        parts: by names of your choice: ``model=model, optimizer=optimizer, stepper=stepper``.

    Returns:
        What :meth:`Checkpoints.save` takes. Modules and optimizers give the live tensors: save it at once.

    Raises:
        InvalidInputError: a part has no ``state_dict`` and ``load_state_dict``.
    """
    _check(parts)
    states = {name: _module_state(p) if isinstance(p, nn.Module) else p.state_dict() for name, p in parts.items()}
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        generators |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return {"parts": states, "generators": generators}


def restore(state: Mapping[str, Any], **parts: Stateful) -> None:
    """Put all parts, and torch's global random generators, where :func:`training_state` found them.

    Args:
        state: from :func:`training_state`; left as it is.
        parts: built as they were then, under the same names.

    Raises:
        InvalidInputError: other parts than in the state (nothing is changed then), or a part that does not fit.
    """
    _check(parts)
    missing = [name for name in state["parts"] if name not in parts]
    extra = [name for name in parts if name not in state["parts"]]
    if missing or extra:
        raise InvalidInputError(
            f"The state has other parts: {missing} were not given, {extra} are not in it. Give those it was made of."
        )
    for name, part in parts.items():
        held = copy.deepcopy(state["parts"][name])  # an optimizer would go on writing into it
        try:
            if isinstance(part, nn.Module):
                _load_module(part, held)
            else:
                part.load_state_dict(held)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise InvalidInputError(
                f"{name} ({type(part).__name__}) does not fit the state: {said}. Build it as it was when the state "
                "was made."
            ) from error
    for device, generator in state["generators"].items():
        if device == "cpu":
            torch.set_rng_state(generator)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(generator, device)


def _check(parts: Mapping[str, object]) -> None:
    for name, part in parts.items():
        if isinstance(part, type) or not isinstance(part, Stateful):
            raise InvalidInputError(
                f"{name} must have state_dict() and load_state_dict(); got {part!r}. Plain values go into the "
                "dictionary that you save, beside this state."
            )


def _module_state(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict()
    versions = getattr(state, "_metadata", {})
    return {
        "tensors": dict(state),
        "versions": {name: dict(version) for name, version in versions.items()},
        "buffers": {k: b for k, b in module.named_buffers(remove_duplicate=False) if k not in state},
        "training": {k: m.training for k, m in module.named_modules(remove_duplicate=False)},
    }


def _load_module(module: nn.Module, held: dict[str, Any]) -> None:
    tensors: dict[str, Any] = _Tensors(held["tensors"])
    tensors._metadata = held["versions"]  # type: ignore[attr-defined]
    buffers = {k: b for k, b in module.named_buffers(remove_duplicate=False) if k not in tensors}
    modules = dict(module.named_modules(remove_duplicate=False))
    if (list(buffers), list(modules)) != (list(held["buffers"]), list(held["training"])):
        raise ValueError("it has other submodules or buffers")
    module.load_state_dict(tensors)
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(held["buffers"][name])
    for name, submodule in modules.items():
        submodule.training = held["training"][name]


class _Tensors(dict[str, Any]):
    """A dictionary that can carry the versions of modules, as that of ``nn.Module.state_dict`` does."""
