"""The loop of ``BilevelProblem.solve``: inner steps, outer steps, checkpoints and signals between them."""

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from hypergrad.batches import Drawing
from hypergrad.checkpoint.folder import Checkpoint, Checkpoints
from hypergrad.checkpoint.parts import restore, training_state
from hypergrad.checkpoint.saving import Saving
from hypergrad.distributed import barrier, gather, is_writer, world_size
from hypergrad.errors import CheckpointWarning, InexactWarning, InvalidInputError, NonFiniteError, RankError
from hypergrad.failures import Failure
from hypergrad.files import Pathlike, held
from hypergrad.interruption import graceful, poll
from hypergrad.messages import warn
from hypergrad.progress import Progress
from hypergrad.records import record_of_row
from hypergrad.result import StepRecord
from hypergrad.solve_identity import batch_digest, check_ranks_alike, solve_identity
from hypergrad.solve_parts import solve_parts
from hypergrad.stepper import HyperStepper
from hypergrad.tree import TensorDict

Callback = Callable[[StepRecord], None]

#: What to do with checkpoints that are there: go on if they are of this run; refuse them; go on whatever they are.
Resume = Literal["auto", "never", "force"]

#: Of the state that is saved.
STATE_VERSION = 1


@dataclass(frozen=True)
class BilevelResult:
    """What ``solve`` returns, also when it was interrupted.

    Attributes:
        params: the inner variables, detached copies.
        hparams: the hyperparameters (raw), detached copies.
        history: one record an outer step, with those before a resume; ``rows()`` for a table or a data frame.
        status: "finished", or "interrupted" after Ctrl-C or another signal.
        preflight: the discarded outer step before the first: its seconds and memory.
        failures: steps that were left out because something was not finite, the newest thousand.
        signal: the number of the signal that interrupted; None when finished.
        checkpoint: the folder from which this very result can be resumed; None without checkpoints, or where it could
            not be written, and on other ranks than the first.
    """

    params: TensorDict
    hparams: TensorDict
    history: list[StepRecord] = field(repr=False)
    status: Literal["finished", "interrupted"]
    preflight: StepRecord = field(repr=False)
    signal: int | None = None
    checkpoint: Path | None = None
    failures: tuple[Failure, ...] = field(default=(), repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """The history as flat dictionaries of plain values."""
        return [record.row() for record in self.history]


@dataclass(kw_only=True)
class Run:
    """A run of ``solve``: what it is made of, and how far it has come.

    The stepper counts the inner steps, and knows whether an outer step is pending.

    Attributes:
        train, val: draw the batches.
        inner: the inner optimizer.
        scheduler: of the inner optimizer, or None.
        outer_steps, total: outer and inner steps in all.
        identity: settings, data and versions; the same run has the same.
    """

    stepper: HyperStepper
    train: Drawing
    val: Drawing
    inner: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    outer_steps: int
    total: int
    callbacks: Sequence[Callback]
    progress: bool
    history: list[StepRecord] = field(default_factory=list)
    preflight: StepRecord | None = None
    _between: bool = True  # whether the tensors are those between two inner steps

    def go(self, checkpoint: Pathlike | None = None, *, every: float = 300.0, resume: Resume = "auto") -> BilevelResult:
        """Begin, or go on from a checkpoint, and return what there is at the end or at a signal.

        Args:
            checkpoint: the folder of the checkpoints; None for none.
            every: seconds between two of them.
            resume: see :data:`Resume`.

        Raises:
            InvalidInputError: an argument cannot be used, or the checkpoints are of another run.
            CheckpointError: all checkpoints are damaged.
        """
        if resume not in get_args(Resume):
            raise InvalidInputError(f"resume must be one of {get_args(Resume)}; got {resume!r}.")
        self._agree()
        if checkpoint is None:
            # Ranks that a Ctrl-C breaks off anywhere would wait for each other: they stop together.
            with nullcontext() if world_size() == 1 else graceful():
                return self._result(None, None)
        store = Checkpoints(checkpoint, kind="solve", version=STATE_VERSION, identity=self._identity())
        saving = Saving(store, every)
        with _alone(store.path), graceful():
            if resume == "never" and not store.empty():
                raise InvalidInputError(
                    f"{store.path} has checkpoints, and resume='never'. Name a new folder, or resume='auto'."
                )
            found = store.load(force=resume == "force")
            # All ranks have read before the first one writes.
            steps = [row[0] for row in gather([-1 if found is None else found.step])]
            if len(set(steps)) > 1:
                raise RankError(
                    f"The ranks find checkpoints of different steps in {store.path} ({steps}; -1 for none). Give a "
                    "folder that all machines share."
                )
            if found is not None:
                self._load(found, force=resume == "force")
            result = self._result(saving, found)
            barrier()  # nobody leaves before the last checkpoint is written
            return result

    def _result(self, saving: Saving | None, found: Checkpoint | None) -> BilevelResult:
        stepper = self.stepper
        if self.preflight is None:
            self.preflight = stepper.preflight(self.train(0), self.val(0))
        path = None if found is None else found.path
        if saving is not None and found is None:
            # What cannot be saved is found out now, and a run that is killed early begins with the same seeds.
            path = saving.save(self._state, step=0, strict=True)
        status: Literal["finished", "interrupted"] = "finished"
        number, before = None, (stepper.inner_step, stepper.pending)
        try:
            talks = self.progress and is_writer()
            with Progress(self.total, "solve", enabled=talks, begun=stepper.inner_step) as shown:
                self._loop(saving, shown)
        except KeyboardInterrupt as error:
            status, number = "interrupted", int(getattr(error, "signal", signal.SIGINT))
        except Exception as error:
            self._keep(saving, error)
            raise
        if saving is not None and (stepper.inner_step, stepper.pending) != before:
            # Where an exception came from elsewhere amid a step, the checkpoint before is the one to go on from.
            whole = self._between or stepper.pending
            path = saving.save(self._state, step=stepper.inner_step) if whole else None
        return BilevelResult(
            params={k: v.detach().clone() for k, v in stepper.objective.params.items()},
            hparams={k: v.detach().clone() for k, v in stepper.objective.hparams.items()},
            history=list(self.history),
            status=status,
            preflight=self.preflight,
            signal=number,
            checkpoint=path,
            failures=tuple(stepper.guard.failures),
        )

    def _keep(self, saving: Saving | None, error: Exception) -> None:
        """Save what an exception would lose, where there is a state to go on from, and say so in its notes."""
        stepper = self.stepper
        # The other ranks may not have it, and would not be there to save with.
        if saving is None or world_size() > 1 or not (self._between or stepper.pending):
            return
        try:
            path = saving.save(self._state, step=stepper.inner_step)
        except NonFiniteError:  # found only now, in a step that was taken: the checkpoint before holds
            return
        if path is not None:
            error.add_note(f"The state before the failed step, after {stepper.inner_step} inner steps, is in {path}.")

    def _loop(self, saving: Saving | None, shown: Progress) -> None:
        stepper = self.stepper
        while stepper.inner_step < self.total:
            pending = stepper.pending
            if pending:  # its inner step was taken before the signal
                batch = self.train.last
            else:
                poll()
                if saving is not None and saving.due():
                    saving.save(self._state, step=stepper.inner_step)
                batch = self._drawn(self.train, stepper.inner_step)
                self.inner.zero_grad()
                loss = stepper.loss(batch)
                loss.backward()
                stepper.reduce_gradients(batch)
                taken = stepper.accepts(loss, batch)
                self._between = False
                if taken:
                    self.inner.step()
                self._schedule(taken=taken)
            record = stepper.step(batch, self._again if pending else self._fresh)
            if record is not None:
                self.history.append(record)
            self._between = True
            if record is not None:
                for callback in self.callbacks:
                    callback(record)
            note = f"validation loss {self.history[-1].outer_loss:.4g}" if self.history else ""
            shown.update(stepper.inner_step, note)

    def _fresh(self) -> Sequence[Any] | None:
        return self._drawn(self.val, self.stepper.outer_step)

    def _again(self) -> Sequence[Any] | None:
        return self._drawn(self.val, self.stepper.outer_step, again=True)

    def _drawn(self, data: Drawing, t: int, *, again: bool = False) -> Sequence[Any] | None:
        """Batch t; where a step failed after it was drawn, the same again."""
        try:
            return data.again(t) if t or again else data(t)
        except Exception as error:
            error.add_note(f"This was batch {t} of {data.name}.")
            raise

    def _schedule(self, *, taken: bool) -> None:
        """The scheduler follows the steps' numbers, also of one that was left out."""
        if self.scheduler is None:
            return
        with warnings.catch_warnings():
            if not taken:  # torch would say that the optimizer has not been called yet
                warnings.simplefilter("ignore", UserWarning)
            self.scheduler.step()

    def _state(self) -> dict[str, Any]:
        draws = {"train": self.train, "val": self.val}
        return {
            **training_state(**solve_parts(self.stepper, self.inner, self.scheduler)),
            "data": {k: {**d.state_dict(), "last": batch_digest(d.last)} for k, d in draws.items()},
            "history": [record.row() for record in self.history],
            "preflight": None if self.preflight is None else self.preflight.row(),
            "outer_steps": self.outer_steps,
            "ranks": world_size(),
        }

    def _load(self, found: Checkpoint, *, force: bool) -> None:
        state = found.state
        for damage in found.skipped:
            warn(f"Passed over a damaged checkpoint: {damage} Going on from {found.path}.", CheckpointWarning)
        if self.outer_steps < state["outer_steps"] and not force:
            raise InvalidInputError(
                f"{found.path} belongs to a run of outer_steps={state['outer_steps']}; it may become longer, but "
                f"outer_steps is {self.outer_steps}. Give at least what it had."
            )
        if state["ranks"] != world_size():
            warn(
                f"{found.path} was saved with {state['ranks']} ranks, and there are {world_size()} now. The run goes "
                "on with the same batches, cut differently: equal to rounding, except for dropout's noise and for "
                "what BatchNorm sees of a batch.",
                InexactWarning,
            )
        restore(state, **solve_parts(self.stepper, self.inner, self.scheduler))
        self.history = [record_of_row(row) for row in state["history"]]
        self.preflight = record_of_row(state["preflight"])
        if self.stepper.inner_step >= self.total:
            return
        for name, draw in (("train", self.train), ("val", self.val)):
            draw.load_state_dict(state["data"][name])
            # Of the first rank, which has saved it; with another number of ranks its shard is another one.
            same = is_writer() and state["ranks"] == world_size()
            if same and batch_digest(draw.last) != state["data"][name]["last"]:
                warn(
                    f"{name}_data does not repeat its order: drawn again, the last batch before the checkpoint is "
                    "another one. The run goes on with other batches than it would have had. KeyedBatches, lists and "
                    "DataLoaders repeat theirs.",
                    InexactWarning,
                )

    def _agree(self) -> None:
        """Refuse ranks that were given different settings, or different data of which each would take its part."""
        if world_size() > 1:
            check_ranks_alike(self._identity(), train=self.train, val=self.val)

    def _identity(self) -> dict[str, Any]:
        return solve_identity(self.stepper, self.inner, self.scheduler, train=self.train, val=self.val)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold it against other processes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"Cannot make the folder {folder} for checkpoints ({error.strerror}). Choose another one."
        ) from error
    if is_writer():
        with held(folder):
            yield
    else:
        yield
