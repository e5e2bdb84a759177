"""What the stepper's saved state must be: its version, how older ones are brought up to it, and whether it fits."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError
from hypergrad.failures.guard import Guard
from hypergrad.tree import Layout, TensorDict, check_like

#: Of :meth:`hypergrad.HyperStepper.state_dict`.
STATE_VERSION = 3

_ENTRIES = {
    "inner_step",
    "outer_step",
    "pending",
    "seed",
    "hparams",
    "outer_optimizer",
    "x",
    "solver_state",
    "left_out",
}


def checked_state(state: Mapping[str, Any], params: Layout, hparams: TensorDict) -> dict[str, Any]:
    """A copy of a saved state in the present version, its ``x`` and ``solver_state`` on the parameters' device.

    Args:
        state: from :meth:`hypergrad.HyperStepper.state_dict`, also of an older version.
        params: layout of the inner variables, of P entries; ``x`` has the shape (P,).
        hparams: the hyperparameters, whose shapes those of the state must have.

    Raises:
        InvalidInputError: another version, missing entries, or tensors of another shape.
    """
    if state.get("version") == 1:  # which kept no broken-off outer step
        state = {**state, "version": 2, "pending": False}
    if state.get("version") == 2:  # which left nothing out
        state = {**state, "version": STATE_VERSION, "left_out": Guard().state_dict()}
    if state.get("version") != STATE_VERSION or not set(state) >= _ENTRIES:
        raise InvalidInputError(
            f"This state has version {state.get('version')!r} and lacks {sorted(_ENTRIES - set(state))}; this "
            f"hypergrad reads version {STATE_VERSION}."
        )
    state = copy.deepcopy(dict(state))
    check_like(state["hparams"], Layout.of(hparams, "hparams"), "hparams of the state")
    x = _moved(state["x"], params.device)
    if x is not None and x.shape != (params.size,):
        raise InvalidInputError(f"x of the state has shape {tuple(x.shape)}; the model has ({params.size},).")
    return {**state, "x": x, "solver_state": dict(_moved(state["solver_state"], params.device))}


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors, however nested, on the device: a checkpoint holds them on the CPU."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
