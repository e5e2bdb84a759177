"""What a run of ``solve`` is: settings, data and versions. A checkpoint is gone on from by the same run only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.batches import Drawing, KeyedBatches
from hypergrad.checkpoint.identity import code_identity, described, digest
from hypergrad.distributed import agree
from hypergrad.stepper import HyperStepper
from hypergrad.tree import Layout


def solve_identity(
    stepper: HyperStepper,
    inner: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    *,
    train: Drawing,
    val: Drawing,
) -> dict[str, Any]:
    """Everything that the bits of a run's result depend on, as plain values.

    Args:
        stepper: of the run, as it was made.
        inner: the inner optimizer.
        scheduler: of the inner optimizer, or None.
        train, val: draw the batches.
    """
    objective = stepper.objective
    layout = Layout.of(objective.params, "params")
    shapes = {
        level: {k: f"{str(v.dtype).removeprefix('torch.')} {tuple(v.shape)}" for k, v in tensors.items()}
        for level, tensors in (("params", objective.params), ("hparams", objective.hparams))
    }
    return {
        **shapes,
        "device": layout.device.type,
        "estimator": _without(described(stepper.estimator), "on_failure"),  # which changes no number
        "every": stepper.every,
        "warmup": stepper.warmup,
        "warm_start": stepper.warm_start,
        "seed": stepper.seed,
        "inner_optimizer": described(inner),
        "outer_optimizer": described(stepper.outer_optimizer),
        "scheduler": described(scheduler),
        "train_data": _data_identity(train.data),
        "val_data": _data_identity(val.data),
        "code": code_identity(),
    }


def check_ranks_alike(identity: Mapping[str, Any], *, train: Drawing, val: Drawing) -> None:
    """Refuse ranks that were given different settings, or different data of which each would take its part.

    Args:
        identity: of the run, on this rank.
        train, val: draw the batches; data that each rank has for itself may differ.

    Raises:
        RankError: says on which ranks.
    """
    own = {f"{k}_data": None for k, d in (("train", train), ("val", val)) if not d.shared}
    text = json.dumps({**identity, **own}, sort_keys=True, default=str)
    remedy = (
        "Give every rank the same: what is drawn at random beforehand, as a split of the data is, needs the same "
        "seed on all of them."
    )
    what = "settings or data"
    agree({what: hashlib.sha256(text.encode()).hexdigest()}, {what: remedy})


def batch_digest(batch: Sequence[Any] | None) -> str:
    """SHA-256 of a batch's tensors, however nested."""
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    return digest(*tensors)


def _without(settings: Any, name: str) -> Any:
    return {k: v for k, v in settings.items() if k != name} if isinstance(settings, dict) else settings


def _data_identity(data: Any) -> dict[str, Any] | None:
    if data is None:
        return None
    kind = type(data).__qualname__
    if isinstance(data, KeyedBatches):
        order = {"batch_size": data.batch_size, "seed": data.seed, "index": data.with_index}
        return {"class": kind, "sha256": digest(*data.tensors), **order}
    try:
        return {"class": kind, "batches": len(data)}
    except TypeError:  # an iterable without a length
        return {"class": kind}
