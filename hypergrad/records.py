"""How the record of an outer step comes about: of a hypergradient, of a step left out, or of a row that was saved."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from hypergrad.result import Hypergradient, StepRecord
from hypergrad.solvers.base import Status


def record_of(result: Hypergradient, *, inner_step: int, outer_step: int, start: float) -> StepRecord:
    """The record of a hypergradient; waits for the device once.

    Args:
        result: that was formed.
        inner_step, outer_step: as the record has them.
        start: of the outer step, on ``time.perf_counter``'s clock.
    """
    solution = result.solution
    residual = None if solution is None else solution.residual
    norm = torch.cat([g.reshape(-1).double() for g in result.grads.values()]).norm()
    numbers = [result.inner_loss, result.outer_loss, result.stationarity, norm]
    if residual is not None:
        numbers.append(residual)
    inner, outer, stationarity, grad_norm, *rest = torch.stack([n.double() for n in numbers]).tolist()
    return StepRecord(
        inner_step=inner_step,
        outer_step=outer_step,
        inner_loss=inner,
        outer_loss=outer,
        status=None if solution is None else solution.status,
        residual=rest[0] if rest else None,
        matvecs=0 if solution is None else solution.matvecs,
        stationarity=stationarity,
        grad_norm=grad_norm,
        seconds=time.perf_counter() - start,
        choice="" if solution is None else solution.choice,
        alpha=None if solution is None else _alpha(solution.state),
        detail="" if solution is None else solution.detail,
    )


def record_left_out(*, inner_step: int, outer_step: int, start: float) -> StepRecord:
    """The record of an outer step that was left out before it had a hypergradient; see :func:`record_of`."""
    nan = math.nan
    seconds = time.perf_counter() - start
    return StepRecord(inner_step, outer_step, nan, nan, None, None, 0, nan, nan, seconds, left_out=True)


def record_of_row(row: Mapping[str, Any]) -> StepRecord:
    """What ``row()`` was called on."""
    status = row["status"]
    return StepRecord(**{**row, "status": None if status is None else Status(status)})


def _alpha(state: Mapping[str, Any]) -> float | None:
    alpha = state.get("alpha")
    return float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None
