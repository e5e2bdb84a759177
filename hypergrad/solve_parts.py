"""The parts of a run of ``solve`` whose state changes, by their names in its checkpoints."""

from typing import Any

import torch

from hypergrad.checkpoint.parts import Stateful
from hypergrad.objective import ModelObjective, Objective
from hypergrad.stepper import HyperStepper
from hypergrad.tree import Layout, check_like


def solve_parts(
    stepper: HyperStepper, inner: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler | None
) -> dict[str, Stateful]:
    """What :func:`hypergrad.checkpoint.training_state` is given.

    Args:
        stepper: with the objective, whose model and family, or inner variables, are parts.
        inner: the inner optimizer.
        scheduler: of the inner optimizer, or None.
    """
    parts: dict[str, Stateful] = {"inner_optimizer": inner, "stepper": stepper}
    objective = stepper.objective
    if isinstance(objective, ModelObjective):
        parts |= {"model": objective.model, "family": objective.family}
    else:
        parts["params"] = _Params(objective)
    if scheduler is not None:
        parts["scheduler"] = scheduler
    return parts


class _Params:
    """The inner variables of an objective that has no module."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def state_dict(self) -> dict[str, Any]:
        return dict(self._objective.params)

    def load_state_dict(self, state: Any) -> None:
        check_like(state, Layout.of(self._objective.params, "params"), "params of the checkpoint")
        with torch.no_grad():
            for name, tensor in self._objective.params.items():
                tensor.copy_(state[name])
