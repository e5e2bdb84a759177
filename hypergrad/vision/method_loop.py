"""The steps of a run, each with what its method does then: an outer step, or a share of an interval."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.distributed import alone, from_first, world_size
from hypergrad.errors import InvalidInputError
from hypergrad.interruption import Stopped, poll
from hypergrad.keys import derive
from hypergrad.objective import ModelObjective
from hypergrad.reductions import poll_together
from hypergrad.result import StepRecord
from hypergrad.stepper import HyperStepper
from hypergrad.vision import policies
from hypergrad.vision.config import Fixed, Madao, OhlAutoAugment, TrainConfig
from hypergrad.vision.inner_loop import InnerLoop, cut
from hypergrad.vision.ohl import Online, OnlineRecord
from hypergrad.vision.policy_search import Found, find_policy, searches_first
from hypergrad.vision.resuming import found_of_text, found_text
from hypergrad.vision.splits import Splits


class MethodLoop(InnerLoop):
    """The inner loop with what learns beside it.

    Args:
        config: of the run.
        splits: what it runs on.
        found: by an earlier search of this run, with its seconds; None where the method has none, or is to search now.

    Attributes:
        stepper: of MADAO, else None.
        online: of OHL-Auto-Aug, else None.
        policy: what augments; None for the standard augmentation alone.
        found, search_seconds: what a search before the training left.
        step: inner steps that are done, outer steps included.
        pending: loss of a further inner step whose outer step was broken off; None where there is none.

    Raises:
        InvalidInputError, UnknownNameError: the configuration does not fit the data or the machine.
    """

    def __init__(self, config: TrainConfig, splits: Splits, found: tuple[Found, float] | None = None) -> None:
        super().__init__(config, splits)
        self.stepper: HyperStepper | None = None
        self.online: Online | None = None
        self.found: Found | None = None if found is None else found[0]
        self.search_seconds = 0.0 if found is None else found[1]
        self.policy = self._policy()
        self.augmentation = self.policy
        self.step = 0
        self.pending: Tensor | None = None

    def _policy(self) -> Policy | FixedPolicy | None:
        """What augments; for MADAO the stepper beside it, after a search its result."""
        method, channels = self.config.method, self.splits.channels
        if isinstance(method, Madao | Fixed):
            family = policies.learned_policy(method, channels).to(self.device)
            if isinstance(method, Madao):
                self.stepper = self._stepper(method, family)
            return family.policy
        if isinstance(method, OhlAutoAugment):
            self.online = self._online(method)
            return self.online.policy
        if searches_first(method.name):
            if self.found is None:
                start = time.perf_counter()
                self.found = self._search()
                self.search_seconds = time.perf_counter() - start
            return self.found.policy.to(self.device)
        policy = policies.given_policy(method)
        return None if policy is None else policy.to(self.device)

    def _search(self) -> Found:
        """A policy; where there are several ranks each searches the same by itself, and the first one's is taken."""
        if world_size() == 1:
            return find_policy(self.config, self.splits, self.device)
        text = ""
        # A signal breaks off each rank's search by itself; then all of them stop here.
        with alone(), contextlib.suppress(Stopped):
            text = found_text(find_policy(self.config, self.splits, self.device))
        poll_together()
        return found_of_text(from_first(text))

    def _stepper(self, method: Madao, family: Any) -> HyperStepper:
        members = [family] if self.after is None else [family, policies.Applied(self.after)]
        objective = ModelObjective(self.network, members, weight_decay=self.config.weight_decay)
        val_order = self.splits.val.order(
            method.val_batch_size or self.config.batch_size, derive(self.config.seed, "val-order")
        )
        self.val_order = cut(val_order, "validation images of an outer step")
        self.outer_order = None
        if method.outer_batch_size is not None:
            order = self.splits.train.order(method.outer_batch_size, derive(self.config.seed, "outer-order"))
            self.outer_order = cut(order, "method.outer_batch_size")
        stepper = HyperStepper(
            objective,
            policies.policy_optimizer(method),
            every=method.every,
            warmup=int(method.warmup * self.steps),
            estimator=policies.estimator(method, self.config.lr, derive(self.config.seed, "control")),
            on_nonfinite=self.config.on_nonfinite,
            seed=derive(self.config.seed, "policy"),
        )
        stepper.guard = self.guard
        return stepper

    def _online(self, method: OhlAutoAugment) -> Online:
        if method.every > self.steps:
            raise InvalidInputError(
                f"method.every={method.every} is larger than the {self.steps} inner steps of the run ({self.per_epoch} "
                "an epoch), so there is no interval of that length. Give a smaller one, or more epochs."
            )
        self.reward_order = None
        if method.reward_images is not None:
            self.reward_order = self.splits.val.order(method.reward_images, derive(self.config.seed, "reward-order"))
        policy = policies.starting_policy(method, self.splits.channels).to(self.device)
        return Online(
            policy,
            policies.policy_optimizer(method)(policy.parameters()),
            trajectories=method.trajectories,
            every=method.every,
            draws=method.draws,
            spread=method.spread,
            seed=derive(self.config.seed, "policy"),
        )

    def _strides(
        self, steps: range, optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[int, Tensor, StepRecord | OnlineRecord | None]]:
        """The steps one by one, or interval by interval: the step reached, the sum of the losses, and the update."""
        if self.online is None:
            for step in range(max(steps.start, self.step), steps.stop):
                self._between()
                self._set_lr(step, optimizer)
                records: list[StepRecord] = []
                loss = self._step(step, optimizer, records)
                yield step + 1, loss, records[0] if records else None
            return

        def advance(step: int, augmentation: FixedPolicy) -> Tensor:
            self._between()
            self.augmentation = augmentation
            self._set_lr(step, optimizer)
            return self._step(step, optimizer, [])

        for interval in self.online.intervals(steps):
            if interval.stop <= self.step:
                continue  # before an interruption
            record, loss = self.online.run(interval, self.network, optimizer, advance, self._reward)
            yield interval.stop, loss, record

    def _between(self) -> None:
        """Called between two steps, where the run may be stopped.

        Raises:
            Stopped: a signal has come.
        """
        poll()

    def _reward(self) -> float:
        """Accuracy on validation images, the same ones for all trajectories of an interval, in [0, 1]."""
        assert self.online is not None
        part = self.splits.val
        if self.reward_order is not None:
            (positions,) = self.reward_order.batch(self.online.outer_step)
            part = replace(part, rows=part.rows[positions])
        error = self._evaluate(part).error
        self.passes += len(part) / self.config.batch_size / 3  # forward only
        return 1 - error / 100

    def _step(self, step: int, optimizer: torch.optim.Optimizer, records: list[StepRecord]) -> Tensor:
        """One inner step, and an outer step where one is due; the cross-entropy, 0-d, without a graph."""
        if self.stepper is None:
            return self._inner_step(step, optimizer)[0]
        if self.pending is None:
            self.pending, batch = self._inner_step(step, optimizer)
        else:  # the inner step was taken before an interruption, and its outer step was not
            batch = self._drawn(step)
        update = self.stepper.outer_step
        record = self.stepper.step(lambda: self._outer_batch(update, batch), lambda: self._val_batch(update))
        if record is not None:
            records.append(record)
            self.passes += self._outer_passes(record)
        loss, self.pending = self.pending, None
        return loss

    def _set_lr(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.config.lr * self._lr_factor(step)

    def _outer_passes(self, record: StepRecord) -> float:
        """The two gradients, the products and the mixed derivative, in passes over a training batch."""
        method = self.config.method
        assert isinstance(method, Madao)
        inner = (method.outer_batch_size or self.config.batch_size) / self.config.batch_size
        outer = (method.val_batch_size or self.config.batch_size) / self.config.batch_size
        return outer + (2 + record.matvecs) * inner

    def _outer_batch(self, update: int, last: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        poll()
        self.looks.settle()
        if self.outer_order is None:
            return last
        (positions,) = self.outer_order.batch(update)
        return self._prepared(self.splits.train, positions, derive(self.config.seed, "outer-crop", update))

    def _val_batch(self, update: int) -> tuple[Tensor, Tensor]:
        (positions,) = self.val_order.batch(update)
        images, targets = self.splits.val.draw(positions)
        return self._central(self._as_floats(images.to(self.device))), targets.to(self.device)
