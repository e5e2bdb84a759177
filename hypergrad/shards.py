"""What a rank of ``torch.distributed`` does with its shard of a batch in a training loop."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergrad.checkpoint import digest
from hypergrad.distributed import agree, rank, world_size
from hypergrad.errors import UnsupportedModelError
from hypergrad.estimators.base import Estimator
from hypergrad.keys import derive
from hypergrad.objective import ModelObjective, Objective
from hypergrad.reductions import MeanOverRanks


def rank_key(key: int) -> int:
    """The key of this rank's own noise (dropout); the first one's is that of a single process."""
    return key if rank() == 0 else derive(key, "rank", rank())


def placed(objective: Objective, batch: Sequence[Any] | None, ranks: MeanOverRanks) -> Sequence[Any] | None:
    """The shard with the samples' places in the whole batch as indices, where it has none.

    A family's noise goes by the index: so the shards draw what the whole batch would, and not all the same.
    """
    if ranks.single or batch is None or not isinstance(objective, ModelObjective) or objective.family.needs_index:
        return batch
    if len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        return batch
    return (*batch, torch.arange(ranks.offset, ranks.offset + len(batch[0]), device=batch[0].device))


def statistics(objective: Objective) -> list[Tensor]:
    """The running means and variances of BatchNorm layers.

    They are linear in the batches' statistics, so that their mean over the ranks may be taken at any time.
    """
    if not isinstance(objective, ModelObjective):
        return []
    return running_statistics(objective.model)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Those of :func:`statistics`, of a network."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [b for m in layers for b in (m.running_mean, m.running_var) if b is not None]


def check_joint(objective: Objective, estimator: Estimator) -> None:
    """Refuse what would not be the hypergradient of the whole batch when there are several ranks.

    Raises:
        UnsupportedModelError: says what it is.
    """
    if world_size() == 1:
        return
    if not getattr(estimator, "over_ranks", False):
        raise UnsupportedModelError(
            f"torch.distributed runs with {world_size()} ranks, and {type(estimator).__name__} does not say that it "
            "reduces over them: each would take another outer step. Run in a single process, or reduce in its "
            "estimate() with hypergrad.reductions.MeanOverRanks and set over_ranks = True on the class."
        )
    if isinstance(objective, ModelObjective):
        for m in objective.family.modules():
            if getattr(m, "group_size", 1) != 1:
                raise UnsupportedModelError(
                    f"torch.distributed runs with {world_size()} ranks, and images in groups of {m.group_size} share a "
                    f"pick of the {type(m).__name__}; groups are counted within a shard. Use group_size=1."
                )


def check_equal(objective: Objective, counters: Sequence[int]) -> None:
    """Refuse an outer step of ranks that are not at the same point.

    Raises:
        RankError: says what differs, on which ranks, and the remedy.
    """
    if world_size() == 1:
        return
    agree(
        {
            "counters": digest(torch.tensor(list(counters))),
            "hyperparameters": digest(*objective.hparams.values()),
            "parameters": digest(*objective.params.values()),
        },
        {
            "counters": "Call stepper.step() on every rank after each inner step, with the same seed.",
            "hyperparameters": "Build them alike on every rank (same seed), or load the same state.",
            "parameters": (
                "Build the model alike on every rank (torch.manual_seed before), and in a loop of your own reduce its "
                "gradients: loss.backward(); stepper.reduce_gradients(batch); optimizer.step()."
            ),
        },
    )
