"""The outer step of Algorithm 1 in anyone's training loop."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InexactWarning, InvalidInputError, NonFiniteError, SolverWarning
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.choosing import chosen, wants_second_moments
from hypergrad.estimators.implicit import OnFailure
from hypergrad.failures.failure import Failure
from hypergrad.failures.guard import Guard, OnNonFinite
from hypergrad.failures.halving import halved
from hypergrad.failures.inner_steps import InnerSteps
from hypergrad.keyed_objective import Batch, KeyedObjective, Place
from hypergrad.memory import peak_memory
from hypergrad.messages import warn
from hypergrad.objective import ModelObjective, Objective
from hypergrad.optimizers import OptimizerLike, resolve
from hypergrad.records import record_left_out, record_of
from hypergrad.reductions import mean_gradients
from hypergrad.result import Hypergradient, StepRecord
from hypergrad.shards import check_joint, statistics
from hypergrad.solvers.base import Solver
from hypergrad.solvers.second_moments import second_moments
from hypergrad.stepper_state import STATE_VERSION, checked_state
from hypergrad.tree import Layout

#: So many losses without a step are no accumulated gradient any more, but a loop that forgot the step.
MANY_LOSSES = 100


class HyperStepper:
    """Tunes hyperparameters inside a training loop that stays the user's own.

    ::

        for batch in loader:
            optimizer.zero_grad()
            stepper.loss(batch).backward()
            optimizer.step()
            stepper.step(batch, lambda: next(validation))

    ``step`` does nothing but count, except every ``every``-th call after ``warmup`` calls: then it computes a
    hypergradient and takes one step of the outer optimizer. The model's buffers, ``.grad``, train/eval flags and
    torch's global random state are afterwards as they were.

    Args:
        objective: from :class:`~hypergrad.BilevelProblem` (use ``problem.stepper(...)``), or one of its own.
        outer_optimizer: a factory (``functools.partial(torch.optim.Adam, lr=1e-2)``) or an instance over the
            objective's ``hparams``.
        solver: a registered solver's name, or a solver object.
        every: inner steps between two outer steps (the paper's s).
        warmup: inner steps before the first of them.
        damping: added to the diagonal of the inner Hessian.
        residual: compute the solve's true residual each time, at the price of one product.
        warm_start: start each solve from the last solution.
        estimator: a registered estimator's name, which gets ``solver``, ``damping``, ``residual`` and ``on_failure``
            where it has these options; or an estimator object, which has its own.
        on_failure: what a failed solve does: "raise", "warn" or "ignore".
        inner_optimizer: of the inner variables; only a solver with ``preconditioner="adam"`` looks at it, for its
            second moments.
        on_nonfinite: what a NaN or an infinity does in a loss, a gradient or a hypergradient: "raise"; "skip" leaves
            the step out (after ten in a row of one level it raises); "halve" does as "skip", and tries a solve that
            diverged again with half its ``alpha``, up to five times. What a failed solve leaves is ``on_failure``'s.
        seed: of the noise; equal seeds and steps give equal noise.

    Attributes:
        inner_step: calls of ``step`` that have ended.
        outer_step: outer steps taken.
        guard: counts and records what was left out, see :class:`hypergrad.failures.guard.Guard`.
        pending: an outer step was broken off by a signal or an error, after its inner step was taken. Call ``step``
            with the same batches before the next inner step; ``state_dict`` keeps it.

    Raises:
        InvalidInputError: an argument cannot be used; the message says why.
        UnsupportedModelError: several ranks of ``torch.distributed`` are running, and the estimator or the family
            cannot be used with them.
    """

    def __init__(
        self,
        objective: Objective,
        outer_optimizer: OptimizerLike,
        solver: str | Solver = "neumann",
        *,
        every: int = 60,
        warmup: int = 0,
        damping: float = 0.0,
        residual: bool = False,
        warm_start: bool = False,
        estimator: str | Estimator = "implicit",
        on_failure: OnFailure = "warn",
        inner_optimizer: torch.optim.Optimizer | None = None,
        on_nonfinite: OnNonFinite = "raise",
        seed: int = 0,
    ) -> None:
        for name, value, least in (("every", every, 1), ("warmup", warmup, 0)):
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{name} counts inner steps: an integer of at least {least}; got {value!r}.")
        self.objective = objective
        self.estimator = chosen(estimator, solver=solver, damping=damping, residual=residual, on_failure=on_failure)
        check_joint(objective, self.estimator)
        self.outer_optimizer = resolve(outer_optimizer, objective.hparams, "outer_optimizer")
        self.every = every
        self.warmup = warmup
        self.warm_start = warm_start
        self.seed = seed
        self.inner_step = 0
        self.outer_step = 0
        self.pending = False
        self.guard = Guard(on_nonfinite)
        self._layout = Layout.of(objective.params, "params")
        self._x: Tensor | None = None  # (P,), the last solution, for a warm start
        self._solver_state: Mapping[str, Any] = {}
        self._losses = 0  # since the last step
        moments_of = inner_optimizer if wants_second_moments(self.estimator) else None
        # What cannot be had is refused now, and not after the warm-up.
        if moments_of is not None:
            second_moments(moments_of, objective.params)
        elif wants_second_moments(self.estimator):
            raise InvalidInputError(
                "The solver's preconditioner 'adam' needs the second moments of the inner optimizer: give that as "
                "inner_optimizer=, or use preconditioner='hutchinson' or 'nystrom'."
            )
        self._keyed = KeyedObjective(objective, moments_of)
        self._inner_steps = InnerSteps(self.guard, self._layout.device, self._traced)

    def loss(self, batch: Batch = None) -> Tensor:
        """The training loss at the current parameters and hyperparameters, 0-d, with a graph to the parameters only.

        Noise, of the family and inside the model (dropout), is keyed by the inner step, which :meth:`step` counts: call
        it after each optimizer step, also where no outer step will ever be due, or every loss draws the same noise.
        Several losses before one step (accumulated gradients) share theirs. The global random state is left alone.

        Warns:
            InexactWarning: after a hundred losses without a step.
        """
        self.objective.check_ready()
        self._losses += 1
        if self._losses == MANY_LOSSES:
            warn(
                f"{MANY_LOSSES} losses were taken since the last call of step(), so all of them drew the same noise "
                f"(inner step {self.inner_step}). Call stepper.step(batch, val) after each optimizer step.",
                InexactWarning,
            )
        if self._losses == 1 and isinstance(self.objective, ModelObjective):
            self._inner_steps.begin(self.objective.model.buffers())
        return self._keyed.training_loss(self._place(), batch)

    def reduce_gradients(self, batch: Batch = None) -> None:
        """Between ``backward()`` and the optimizer's step: average the parameters' ``.grad`` over the ranks.

        Each rank counts by the samples of its ``batch``, the one whose loss was differentiated. The running statistics
        of BatchNorm are averaged, too. In place, and nothing at all where there is one rank; leave it out where
        DistributedDataParallel has reduced the gradients already.

        Raises:
            RankError: some ranks have samples and others not.
        """
        mean_gradients(self.objective.params, statistics(self.objective), self._keyed.shares(batch))

    def accepts(self, loss: Tensor, batch: Batch = None) -> bool:
        """Between ``backward()`` and the optimizer's step: whether loss and gradients are finite, and it may be taken.

        ::

            loss = stepper.loss(batch)
            loss.backward()
            if stepper.accepts(loss, batch):
                optimizer.step()

        Where they are not, the step is traced to its samples and its operation, and ``on_nonfinite`` decides. A step
        that is left out leaves buffers (BatchNorm's) as they were before it, and no ``.grad``; call :meth:`step` as
        always. With ``on_nonfinite="raise"`` on a GPU the host does not wait: the error comes some steps later, at the
        latest with the next outer step or :meth:`state_dict`, and then names the step but not the operation.

        Args:
            loss: from :meth:`loss`.
            batch: that it was given.

        Raises:
            NonFiniteError: with ``on_nonfinite="raise"``, or after ten steps in a row that were left out.
        """
        return self._inner_steps.accepts(self.inner_step, batch, loss, self.objective.params.values())

    def due(self) -> bool:
        """Whether the next :meth:`step` will take an outer step."""
        after = self.inner_step + 1 - self.warmup
        return after > 0 and after % self.every == 0

    def step(
        self, batch: Batch | Callable[[], Batch] = None, val: Batch | Callable[[], Batch] = None
    ) -> StepRecord | None:
        """Count an inner step; when one is due, take an outer step.

        Args:
            batch: a training batch for the inner loss: that of the inner step just taken, or a larger one for a quieter
                hypergradient.
            val: a validation batch.
                Either may be a function that draws the batch, called only when it is needed.

        Returns:
            The record of the outer step, or None when none was due.

        Raises:
            NonFiniteError: a loss or its gradient is not finite; hyperparameters are as before.
            SolverError: the solve failed and ``on_failure="raise"``; hyperparameters are as before.
            Stopped: a signal came within :func:`hypergrad.interruption.graceful`; nothing is changed but ``pending``.
        """
        self._losses = 0
        self.pending = False
        if not self.due():
            self.inner_step += 1
            self._keyed.forget_shares()
            return None
        start = time.perf_counter()
        try:
            self._inner_steps.settle()
            record, result = self._outer(_drawn(batch), _drawn(val), start)
        except BaseException:
            self.pending = True
            raise
        finally:
            self._keyed.forget_shares()
        self.inner_step += 1
        self.outer_step += 1
        record = replace(record, inner_step=self.inner_step, outer_step=self.outer_step)
        if result is None:
            return record
        if math.isfinite(record.grad_norm):
            for name, tensor in self.objective.hparams.items():
                tensor.grad = result.grads[name].to(tensor.dtype)
            self.outer_optimizer.step()
            if result.solution is not None:
                self._x = result.solution.x
                self._solver_state = result.solution.state
        else:
            self._x, self._solver_state = None, {}
            warn(
                f"Outer step {self.outer_step}: the hypergradient is not finite (norm {record.grad_norm}), so the "
                "hyperparameters were left as they are. A smaller alpha, or alpha='auto', or damping may help.",
                SolverWarning,
            )
            record = replace(record, left_out=True)
        return record

    def hypergradient(self, batch: Batch = None, val: Batch = None) -> Hypergradient:
        """The hypergradient that an outer step taken now would use; nothing changes."""
        return self._estimate(batch, val)

    def preflight(
        self, batch: Batch | Callable[[], Batch] = None, val: Batch | Callable[[], Batch] = None
    ) -> StepRecord:
        """One discarded outer step now: its errors, seconds and memory, before hours of warm-up.

        Nothing changes: neither hyperparameters nor optimizer, counters nor solver state. On CPU the step is taken
        twice, because counting memory slows it down.
        """
        batch, val = _drawn(batch), _drawn(val)
        device = self._layout.device
        start = time.perf_counter()
        try:
            result = self._estimate(batch, val)
        except NonFiniteError as error:
            if self.guard.policy != "raise":
                return record_left_out(inner_step=self.inner_step, outer_step=self.outer_step, start=start)
            self.guard.handle(self._traced_outer(batch, val), str(error))
            raise
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        record = record_of(result, inner_step=self.inner_step, outer_step=self.outer_step, start=start)
        del result
        with peak_memory(device) as peak:
            self._estimate(batch, val)
        return replace(record, memory=peak.bytes)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on besides the model: copies of tensors, and plain values.

        Raises:
            NonFiniteError: an earlier inner step was not finite, and the GPU found out only now.
        """
        self._inner_steps.settle()
        state = {
            "version": STATE_VERSION,
            "inner_step": self.inner_step,
            "outer_step": self.outer_step,
            "pending": self.pending,
            "seed": self.seed,
            "hparams": {k: v.detach() for k, v in self.objective.hparams.items()},
            "outer_optimizer": self.outer_optimizer.state_dict(),
            "x": self._x,
            "solver_state": dict(self._solver_state),
            "left_out": self.guard.state_dict(),
        }
        return copy.deepcopy(state)  # an optimizer's own state_dict aliases its live tensors

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, bit for bit.

        Raises:
            InvalidInputError: another version, missing entries, or hyperparameters of another shape; nothing is
                changed then.
        """
        hparams = self.objective.hparams
        state = checked_state(state, self._layout, hparams)
        with torch.no_grad():
            for name, tensor in hparams.items():
                tensor.copy_(state["hparams"][name])
        self.outer_optimizer.load_state_dict(state["outer_optimizer"])
        self.inner_step, self.outer_step, self.seed = state["inner_step"], state["outer_step"], state["seed"]
        self.pending = state["pending"]
        self.guard.load_state_dict(state["left_out"])
        self._x, self._solver_state = state["x"], state["solver_state"]

    def _outer(self, batch: Batch, val: Batch, start: float) -> tuple[StepRecord, Hypergradient | None]:
        """The hypergradient and its record, or only a record where the outer step is left out."""
        halvings = 0
        try:
            if self.guard.policy == "halve":
                result, halvings = halved(self.estimator, lambda used: self._estimate(batch, val, used))
            else:
                result = self._estimate(batch, val)
        except NonFiniteError as error:
            self.guard.handle(self._traced_outer(batch, val), str(error))
            return record_left_out(inner_step=self.inner_step, outer_step=self.outer_step, start=start), None
        record = record_of(result, inner_step=self.inner_step, outer_step=self.outer_step, start=start)
        record = replace(record, halvings=halvings)
        failed = result.solution is not None and result.solution.status.failed
        if failed or math.isfinite(record.grad_norm):
            self.guard.taken("outer")
            return record, result
        said = f"The hypergradient is not finite (norm {record.grad_norm})."
        self.guard.handle(self._traced_outer(batch, val), said)
        return replace(record, left_out=True), None

    def _estimate(self, batch: Batch, val: Batch, estimator: Estimator | None = None) -> Hypergradient:
        return self._keyed.hypergradient(
            self._place(),
            estimator or self.estimator,
            batch,
            val,
            x0=self._x if self.warm_start else None,
            state=self._solver_state,
        )

    def _place(self) -> Place:
        return Place(self.inner_step, self.outer_step, self.seed)

    def _traced(self, step: int, batch: Batch, late: bool) -> Failure:
        return self._keyed.trace_inner(self._place(), step, batch, late=late)

    def _traced_outer(self, batch: Batch, val: Batch) -> Failure:
        return self._keyed.trace_outer(self._place(), batch, val)


def _drawn(batch: Batch | Callable[[], Batch]) -> Batch:
    return batch() if callable(batch) else batch
