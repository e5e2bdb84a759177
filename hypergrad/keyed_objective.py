"""An objective at a step of a training: its noise goes by the step, and each rank has its shard of the batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hypergrad.checkpoint import digest
from hypergrad.distributed import alone, differing, world_size
from hypergrad.estimators.base import Estimator
from hypergrad.failures.failure import Failure
from hypergrad.failures.tracing import trace_inner, trace_outer
from hypergrad.keys import derive, preserved_rng
from hypergrad.objective import Objective
from hypergrad.reductions import MeanOverRanks, mean_gradients
from hypergrad.result import Hypergradient
from hypergrad.shards import check_equal, placed, rank_key, statistics
from hypergrad.solvers.second_moments import STATE_KEY, second_moments
from hypergrad.tree import Layout

Batch = Sequence[Any] | None


@dataclass(frozen=True)
class Place:
    """How far a training has come; its noise goes by that.

    Attributes:
        inner_step, outer_step: steps that are done.
        seed: of the noise.
    """

    inner_step: int
    outer_step: int
    seed: int

    def key(self, level: Literal["inner", "outer"]) -> int:
        """Of the noise in a training loss, or in a hypergradient."""
        return derive(self.seed, level, self.inner_step)


class KeyedObjective:
    """Losses and hypergradients of an objective at a place, on this rank's shard of each batch.

    The global random state is left as it was.

    Args:
        objective: what is evaluated.
        moments_of: the inner optimizer whose second moments the solver is given; None where it wants none.
    """

    def __init__(self, objective: Objective, moments_of: torch.optim.Optimizer | None = None) -> None:
        self._objective = objective
        self._moments_of = moments_of
        self._device = Layout.of(objective.params, "params").device
        self._shared: tuple[Batch, MeanOverRanks] | None = None  # the last batch and its shares

    def shares(self, batch: Batch) -> MeanOverRanks:
        """Of a batch, counted once a step."""
        if world_size() == 1:
            return MeanOverRanks()
        # By the object, and forgotten at each step: so all ranks count, or none does.
        if self._shared is None or self._shared[0] is not batch:
            self._shared = (batch, MeanOverRanks.of(batch))
        return self._shared[1]

    def forget_shares(self) -> None:
        """A step has ended."""
        self._shared = None

    def training_loss(self, at: Place, batch: Batch) -> Tensor:
        """The training loss, 0-d, with a graph to the parameters only."""
        key = at.key("inner")
        batch = placed(self._objective, batch, self.shares(batch))
        with preserved_rng(self._device, rank_key(key)):
            return self._objective.training_loss(batch, key)

    def hypergradient(
        self,
        at: Place,
        estimator: Estimator,
        batch: Batch,
        val: Batch,
        *,
        x0: Tensor | None,
        state: Mapping[str, Any],
    ) -> Hypergradient:
        """The estimator's hypergradient, of all ranks together.

        Args:
            at: the place; the same on all ranks.
            estimator: forms it.
            batch, val: for the inner and for the outer loss.
            x0: shape (P,), where the solve starts; None for its own start.
            state: of the solver.

        Raises:
            RankError: the ranks are not at the same place.
            NonFiniteError, SolverError: see :meth:`hypergrad.HyperStepper.step`.
        """
        objective = self._objective
        objective.check_ready()
        key = at.key("outer")
        inner, outer = objective.losses(key)
        state = dict(state)
        if self._moments_of is not None:
            state[STATE_KEY] = second_moments(self._moments_of, objective.params)
        ranks = self.shares(batch)
        check_equal(objective, (at.inner_step, at.outer_step, at.seed))
        self._average_statistics(ranks)
        batch = placed(objective, batch, ranks)
        with preserved_rng(self._device, rank_key(key)):
            return estimator.estimate(
                inner,
                outer,
                objective.params,
                objective.hparams,
                inner_batch=batch,
                outer_batch=val,
                x0=x0,
                state=state,
            )

    def trace_inner(self, at: Place, step: int, batch: Batch, *, late: bool) -> Failure:
        """Where an inner step's numbers stopped being finite.

        Args:
            at: the place; of it only the seed counts.
            step: number of the inner step.
            batch: that it was taken on.
            late: the parameters have been updated by it.
        """
        key = replace(at, inner_step=step).key("inner")
        batch = placed(self._objective, batch, self.shares(batch))
        noise = rank_key(key)  # this rank's own, not that of a rank alone
        with alone():
            return trace_inner(self._objective, batch, key, noise, step, late=late)

    def trace_outer(self, at: Place, batch: Batch, val: Batch) -> Failure:
        """Where a hypergradient's numbers stopped being finite."""
        key = at.key("outer")
        step, number = at.outer_step, at.inner_step
        batch = placed(self._objective, batch, self.shares(batch))
        noise = rank_key(key)  # of this rank: alone, it would be that of the first one
        with alone():
            found = trace_outer(self._objective, batch, val, key, noise, step=step, number=number)
        return found or Failure("outer", step, number, "train_data", "hypergradient", "")

    def _average_statistics(self, ranks: MeanOverRanks) -> None:
        """Where a loop without reduce_gradients (with DistributedDataParallel) has left them different."""
        held = statistics(self._objective)
        if held and world_size() > 1 and differing({"statistics": digest(*held)}):
            mean_gradients({}, held, ranks)
