"""A failing step taken again, watched: at which batch, samples and operation its numbers stop being finite."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hypergrad.failures.failure import Failure, Level
from hypergrad.failures.watching import Cause, Watch, bad_rows, not_finite
from hypergrad.keys import preserved_rng
from hypergrad.linearization import leaves, twice_differentiable
from hypergrad.objective import ModelObjective, Objective
from hypergrad.tree import Layout

#: What a model's batch holds.
ARGUMENTS = ("inputs", "targets", "index")


def examine(
    loss: Callable[[], Any],
    wrt: Sequence[Tensor],
    *,
    modules: Mapping[str, nn.Module] | None = None,
    samples: int = 0,
    twice: bool = False,
) -> tuple[str, str, Cause]:
    """The first stage that is not finite ("loss", "gradient", "product"; empty if none), the loss, and the cause.

    Args:
        loss: computes it, 0-d, with a graph to ``wrt``.
        wrt: what it is differentiated with respect to.
        modules: whose names are wanted.
        samples: of the batch.
        twice: form a product with the second derivatives, too.
    """
    watch = Watch(modules, samples)
    with watch.watching():
        value = loss()
        shown = f"{float(value.detach()):g}" if isinstance(value, Tensor) and value.numel() == 1 else ""
        if isinstance(value, Tensor) and not_finite(value):
            return "loss", shown, watch.cause(value)
        if not isinstance(value, Tensor) or not value.requires_grad:
            return "", shown, Cause()
        grads = torch.autograd.grad(value, list(wrt), create_graph=twice, allow_unused=True)
        found = [g for g in grads if g is not None]
        bad = [g for g in found if not_finite(g)]
        if bad:
            return "gradient", shown, watch.cause(bad[0])
        again = [g for g in found if g.requires_grad] if twice else []
        if again:
            ones = [torch.ones_like(g) for g in again]
            bad = [p for p in torch.autograd.grad(again, list(wrt), ones, allow_unused=True) if not_finite(p)]
            if bad:
                return "product", shown, watch.cause(bad[0])
    return "", shown, Cause()


def trace(
    loss: Callable[[], Any],
    wrt: Mapping[str, Tensor],
    batch: Sequence[Any] | None,
    *,
    level: Level,
    step: int,
    number: int | None,
    data: str = "train_data",
    names: Sequence[str] = (),
    others: Mapping[str, Tensor] | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    twice: bool = False,
) -> Failure | None:
    """What is not finite in a step, taken again by ``loss``; None where everything is.

    Args:
        loss: of the step, with the noise that it had.
        wrt: the parameters.
        batch: of the step.
        level, step, number, data: see :class:`~hypergrad.failures.Failure`.
        names: of the batch's arguments; "argument 2" where there is none.
        others: further tensors that the loss depends on, such as ``"hyperparameter weights"``.
        modules: whose names are wanted.
        twice: see :func:`examine`.
    """
    parts = list(batch or ())
    index = parts[-1] if len(parts) > 2 and _is_index(parts[-1], parts[0]) else None
    samples = next((len(p) for p in parts if isinstance(p, Tensor) and p.ndim), 0)
    holders, rows = [], set[int]()
    for i, part in enumerate(parts):
        if not_finite(part):
            holders.append((names[i] if i < len(names) else f"argument {i}", int((~part.isfinite()).sum())))
            if part.ndim and len(part) == samples:
                rows |= set(bad_rows(part))
    for name, tensor in {**{f"parameter {k}": p for k, p in wrt.items()}, **(others or {})}.items():
        # A buffer may be a mask, with infinities on purpose.
        bad = int((tensor.isnan() if name.startswith("buffer ") else ~tensor.isfinite()).sum())
        if bad:
            holders.append((name, bad))
    stage, shown, cause = examine(loss, list(wrt.values()), modules=modules, samples=samples, twice=twice)
    if not stage:
        return None
    where = sorted(rows or cause.rows)
    chosen = where if index is None else index[torch.tensor(where, dtype=torch.long, device=index.device)].tolist()
    return Failure(
        level=level,
        step=step,
        batch=number,
        data=data,
        stage=stage,
        value=shown,
        holders=tuple(holders),
        samples=tuple(chosen),
        indexed=index is not None,
        cause=cause,
    )


def trace_inner(
    objective: Objective, batch: Sequence[Any] | None, key: int, noise: int, step: int, *, late: bool = False
) -> Failure:
    """An inner step taken again. Buffers are as they were afterwards; nothing else changes.

    Args:
        objective: at whose live point.
        batch: of the step.
        key: of the objective's noise.
        noise: of the global random state.
        step: its number, which is also the batch's.
        late: the parameters have been updated since.
    """
    layout = Layout.of(objective.params, "params")
    before = [(b, b.detach().clone()) for b in _buffers(objective)]
    try:
        with preserved_rng(layout.device, noise), torch.enable_grad():
            found = trace(
                lambda: objective.training_loss(batch, key),
                objective.params,
                batch,
                level="inner",
                step=step,
                number=step,
                **_told(objective),
            )
    finally:
        with torch.no_grad():
            for live, held in before:
                live.copy_(held)
    if found is None or late:
        return blamed("inner", step, found)
    return found


def blamed(level: Level, step: int, found: Failure | None) -> Failure:
    """What is left of a trace after the parameters were updated: what the batch itself holds.

    Args:
        level, step: of the failure.
        found: by the trace.
    """
    if found is None:
        return Failure(level, step, step, "train_data", "loss or gradient", "", late=True)
    own = tuple(h for h in found.holders if not h[0].startswith(("parameter ", "buffer ", "hyperparameter ")))
    samples = found.samples if own else ()
    return replace(found, stage="loss or gradient", holders=own, samples=samples, cause=Cause(), late=True)


def trace_outer(
    objective: Objective,
    batch: Sequence[Any] | None,
    val: Sequence[Any] | None,
    key: int,
    noise: int,
    *,
    step: int,
    number: int | None,
    level: Level = "outer",
) -> Failure | None:
    """Both losses of an outer step, their gradients and a product with the Hessian, taken again by plain autograd.

    Args:
        objective: at whose point.
        batch, val: of the two losses.
        key: of the losses' noise.
        noise: of the global random state.
        step: number of the outer step; of the validation batch, too.
        number: of the training batch.
        level: of the record.
    """
    inner, outer = objective.losses(key)
    device = Layout.of(objective.params, "params").device
    w, h = leaves(objective.params), leaves(objective.hparams)
    with preserved_rng(device, noise), twice_differentiable(device):
        for data, loss, given in (("train_data", inner, batch), ("val_data", outer, val)):
            found = trace(
                lambda loss=loss, given=given: loss(w, h, *(given or ())),  # type: ignore[misc]
                w,
                given,
                level=level,
                step=step,
                number=number if data == "train_data" else step,
                data=data,
                twice=data == "train_data",
                **_told(objective),
            )
            if found is not None:
                return found
    return None


def _told(objective: Objective) -> dict[str, Any]:
    """What an objective knows about names."""
    others = {f"hyperparameter {k}": h for k, h in objective.hparams.items()}
    if not isinstance(objective, ModelObjective):
        return {"others": others}
    others |= {f"buffer {k}": b for k, b in objective.model.named_buffers()}
    return {"others": others, "names": ARGUMENTS, "modules": {"model": objective.model, "family": objective.family}}


def _buffers(objective: Objective) -> list[Tensor]:
    return list(objective.model.buffers()) if isinstance(objective, ModelObjective) else []


def _is_index(part: Any, first: Any) -> bool:
    return (
        isinstance(part, Tensor)
        and isinstance(first, Tensor)
        and part.ndim == 1
        and part.shape == first.shape[:1]
        and not part.is_floating_point()
        and part.dtype != torch.bool
    )
