"""The training loop that every method shares: inner steps, what the method does between them, and the records."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.distributed import barrier, is_writer, world_size
from hypergrad.errors import HypergradWarning, NonFiniteError, RankError
from hypergrad.failures import Failure
from hypergrad.interruption import Stopped, graceful
from hypergrad.keys import derive
from hypergrad.messages import warn
from hypergrad.progress import Progress
from hypergrad.result import StepRecord
from hypergrad.vision.agreeing import check_networks, loaded_alike
from hypergrad.vision.clock import Clock
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.epoch_records import epoch_of, note, write_epoch
from hypergrad.vision.evaluation import Evaluation
from hypergrad.vision.inner_loop import resolve_device
from hypergrad.vision.method_loop import MethodLoop
from hypergrad.vision.ohl import OnlineRecord
from hypergrad.vision.outcome import Epoch, TrainResult
from hypergrad.vision.policies import selection_entropy
from hypergrad.vision.resuming import Saver, check_fit, found_again, found_state, record_of, record_state
from hypergrad.vision.run import RunDirectory
from hypergrad.vision.run_identity import run_identity
from hypergrad.vision.splits import Splits, make_splits

__all__ = ["Epoch", "TrainResult", "selection_entropy", "train"]


def train(
    config: TrainConfig,
    *,
    run: Callable[[], RunDirectory] | None = None,
    saver: Saver | None = None,
    dataset: Dataset | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_update: Callable[[StepRecord, Policy], None] | None = None,
) -> TrainResult:
    """Train one network by one method.

    Where ``torch.distributed`` runs, all its ranks call this alike: each computes on its part of every batch, and the
    first one alone writes and shows progress. Callbacks are called on each.

    Args:
        config: everything that decides the result.
        run: makes the folder that records it, called when nothing is left to be refused; None records nothing.
        saver: makes checkpoints, and has the one to go on from; needs ``run``. SIGINT and SIGTERM then stop the run
            where a checkpoint can be made, and make it. None: no checkpoints, and Ctrl-C does what it does elsewhere.
        dataset: in place of the one that the configuration names.
        progress: show progress on stderr.
        on_epoch: called after each pass; after one that was passed before an interruption, perhaps again.
        on_update: called after each outer step of MADAO, with its record and the policy as it is then; the policy
            stays the one that is trained, and must not be changed.

    Raises:
        InvalidInputError, UnknownNameError: the configuration does not fit the data; the message says where.
        NonFiniteError: the training loss is no longer finite.
        OtherRunError: the checkpoint is another run's, or damaged.
        Stopped: a signal came. A checkpoint was made, unless the search before the training was broken off, or there
            was a warning that it could not be made.
    """
    splits = make_splits(config.data, derive(config.seed, "data"), dataset)
    with contextlib.nullcontext() if saver is None else graceful():
        trainer = _Trainer(config, splits, run, saver)
        return trainer.run(progress, on_epoch, on_update)


class _Trainer(MethodLoop):
    """The state of one run.

    Attributes:
        losses: sum over the steps of the epoch that has begun.
        left_before: inner steps that had been left out when that epoch began.
        updates: of the policy, in that epoch.
        history: of the epochs that are done.
        clock: of the training, without evaluation and checkpoints; ``since`` is with them.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        run: Callable[[], RunDirectory] | None,
        saver: Saver | None = None,
    ) -> None:
        # The identity names the number of threads, which the configuration sets.
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.saver = saver
        state = None
        if saver is not None:
            state = loaded_alike(saver, run_identity(config, splits, resolve_device(config.device)))
        held = None if state is None else state["found"]
        super().__init__(config, splits, None if held is None else (found_again(held), held["seconds"]))
        self.sgd = self.optimizer()
        self.losses = torch.zeros((), device=self.device)
        self.updates: list[StepRecord | OnlineRecord] = []
        self.history: list[Epoch] = []
        self.clock, self.since = Clock(), Clock()
        self.val: Evaluation | None = None
        self.left_before = 0
        self.directory = None if run is None or not is_writer() else run()
        self.guard.listener = self._failed
        if state is not None:
            self._restore(state)
        check_networks(tensor for _, tensor in self._tensors())

    def run(
        self,
        progress: bool,
        on_epoch: Callable[[Epoch], None] | None,
        on_update: Callable[[StepRecord, Policy], None] | None,
    ) -> TrainResult:
        config, progress = self.config, progress and is_writer()
        if progress and self.weights is not None:
            print(self.weights, file=sys.stderr)
        self.network.train()
        self.clock.start()
        self.since.start()
        try:
            if self.saver is not None and self.found is not None and self.saver.loaded is None:
                self._save()  # what was searched for is not searched for again
            with Progress(self.steps, f"train {config.method.name}", enabled=progress) as shown:
                while len(self.history) < config.epochs:
                    self._train_epoch(shown, on_update)
                    self._end_epoch(on_epoch)
                shown.update(self.steps, note(config.epochs, config.epochs, self.history))
            self.clock.stop()
            val = self._evaluate(self.splits.val) if self.val is None else self.val  # None: before an interruption
            test = None if self.splits.test is None else self._evaluate(self.splits.test)
        except Stopped:
            self._save()
            barrier()  # a rank that has ended makes torchrun end the one that writes
            raise
        except Exception as error:
            # Of whatever went wrong between two steps, or before one was taken, nothing is lost.
            late = getattr(getattr(error, "failure", None), "late", False)
            if self.whole and not late and not isinstance(error, RankError) and self._save():
                error.add_note(f"A checkpoint was made, after {self.step} inner steps.")
            raise
        self.network.eval()
        return TrainResult(
            model=self.network,
            policy=self.policy,
            history=self.history,
            val=val,
            test=test,
            seconds=self.clock.wall,
            cpu_seconds=self.clock.cpu,
            search_seconds=self.search_seconds,
            passes=self.passes,
            search_passes=0.0 if self.found is None else self.found.passes,
            search_notes={} if self.found is None else self.found.notes,
            weights=self.weights,
            config=config,
            splits=self.splits,
        )

    def _train_epoch(self, shown: Progress, on_update: Callable[[StepRecord, Policy], None] | None) -> None:
        """The steps of the epoch that are left."""
        epoch = len(self.history) + 1
        for done, loss, update in self._strides(range((epoch - 1) * self.per_epoch, epoch * self.per_epoch), self.sgd):
            self.losses += loss
            if update is not None:
                self.updates.append(update)
            self.step = done
            if on_update is not None and isinstance(update, StepRecord):
                assert isinstance(self.policy, Policy)
                on_update(update, self.policy)
            if done < self.steps:
                shown.update(done, note(epoch, self.config.epochs, self.history))

    def _end_epoch(self, on_epoch: Callable[[Epoch], None] | None) -> None:
        """Evaluate, record, and make a checkpoint if one is due."""
        self.looks.settle()
        epoch, train_loss = len(self.history) + 1, self._mean_loss()
        if not math.isfinite(train_loss) and self.guard.policy == "raise":
            raise NonFiniteError(
                f"The training loss is {train_loss} in epoch {epoch}. A lower lr ({self.config.lr} now), a warm-up "
                "(warmup_epochs) or precision='float32' may help."
            )
        check_networks(tensor for _, tensor in self._tensors())
        with self.clock.paused():
            self.val = self._evaluate(self.splits.val)
        self.history.append(self._epoch(epoch, train_loss, self.val))
        if self.directory is not None:
            write_epoch(self.directory, self.history[-1], learned=self._learned(), updates=self.updates)
        self.losses, self.updates = torch.zeros((), device=self.device), []
        self.left_before = self.guard.left_out["inner"]
        if on_epoch is not None:
            on_epoch(self.history[-1])
        if self.saver is not None and self.saver.due(end_of_epoch=True):
            self._save()

    def _mean_loss(self) -> float:
        """Over the inner steps of the epoch that were taken; NaN without one."""
        trajectories = 1 if self.online is None else self.online.trajectories
        taken = self.per_epoch - (self.guard.left_out["inner"] - self.left_before) / trajectories
        return float(self.losses) / taken if taken > 0 else math.nan

    def _between(self) -> None:
        """Everything is in :meth:`state`: stop here if asked to, or make a checkpoint if one is due."""
        super()._between()
        if self.saver is not None and self.saver.due():
            self._save()

    def _save(self) -> bool:
        """Make a checkpoint; whether there is one."""
        if self.saver is None or not is_writer():
            return False
        self.looks.settle()
        with self.clock.paused():
            try:
                state = self.state()
            except OSError as error:  # of the metrics, whose end is part of it
                warn(
                    f"No checkpoint could be made at step {self.step} ({error}). The training goes on.",
                    HypergradWarning,
                )
                return False
            return self.saver.save(state, step=self.step)

    def _failed(self, failure: Failure) -> None:
        """Record a step that is not finite."""
        if self.directory is None:
            return
        step = failure.step if failure.level == "inner" else self.step
        names = ("batch_size", "precision", "weight_decay", "momentum", "seed", "on_nonfinite")
        settings = {name: getattr(self.config, name) for name in names}
        rate = self.config.lr * self._lr_factor(step)
        self.directory.save_failure(
            failure, {**settings, "lr": rate, "inner_step": step, "method": self.config.method.name}
        )

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on besides what :func:`run_identity` names."""
        assert self.directory is not None
        learner = self.stepper or self.online
        return {
            "method": self.config.method.name,
            "ranks": world_size(),
            "step": self.step,
            "pending": self.pending,
            "network": dict(self._tensors()),
            "optimizer": self.sgd.state_dict(),
            "learner": None if learner is None else learner.state_dict(),
            "found": None if self.found is None else found_state(self.found, self.search_seconds),
            "passes": self.passes,
            "losses": self.losses,
            "left_out": self.guard.state_dict(),
            "left_before": self.left_before,
            "updates": [record_state(update) for update in self.updates],
            "history": [asdict(epoch) for epoch in self.history],
            "per_epoch": self.per_epoch,
            "clock": self.clock.state_dict(),
            "since": self.since.state_dict(),
            "metrics": self.directory.position(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            OtherRunError: it does not fit, which only a forced one can.
        """
        tensors = dict(self._tensors())
        check_fit(state, {name: t.shape for name, t in tensors.items()}, self.per_epoch, self.config)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state["network"][name])
        self.sgd.load_state_dict(state["optimizer"])
        learner = self.stepper or self.online
        if learner is not None:
            learner.load_state_dict(state["learner"])
        self.guard.load_state_dict(state["left_out"])
        self.left_before = state["left_before"]
        self.step, self.passes = state["step"], state["passes"]
        self.pending = None if state["pending"] is None else state["pending"].to(self.device)
        self.losses = state["losses"].to(self.device)
        self.updates = [record_of(record) for record in state["updates"]]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.clock, self.since = Clock(**state["clock"]), Clock(**state["since"])
        if self.directory is not None:
            self.directory.rewind(state["metrics"], len(self.history))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers, also those that a state_dict of the network would leave out."""
        yield from self.network.named_parameters()
        yield from self.network.named_buffers()

    def _learned(self) -> Policy | FixedPolicy | None:
        """The policy, where one is learned in this training."""
        return None if self.stepper is None and self.online is None else self.policy

    def _epoch(self, epoch: int, train_loss: float, val: Evaluation) -> Epoch:
        learner = self.stepper or self.online
        return epoch_of(
            epoch,
            step=epoch * self.per_epoch,
            train_loss=train_loss,
            val=val,
            lr=self.config.lr * self._lr_factor(epoch * self.per_epoch - 1),
            learned=self._learned(),
            outer_steps=0 if learner is None else learner.outer_step,
            updates=self.updates,
            seconds=self.since.wall,
        )
