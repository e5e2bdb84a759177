"""The outer step of Algorithm 1 in anyone's training loop."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hypergrad import estimators
from hypergrad.checkpoint import digest
from hypergrad.distributed import alone, differing, world_size
from hypergrad.errors import InexactWarning, InvalidInputError, NonFiniteError, SolverWarning
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.implicit import OnFailure
from hypergrad.failures.failure import Failure
from hypergrad.failures.guard import HALVINGS, Guard, OnNonFinite
from hypergrad.failures.halving import with_alpha
from hypergrad.failures.inner_steps import InnerSteps
from hypergrad.failures.tracing import trace_inner, trace_outer
from hypergrad.keys import derive, preserved_rng
from hypergrad.memory import peak_memory
from hypergrad.messages import warn
from hypergrad.objective import ModelObjective, Objective
from hypergrad.optimizers import OptimizerLike, resolve
from hypergrad.reductions import MeanOverRanks, mean_gradients
from hypergrad.result import Hypergradient, StepRecord
from hypergrad.shards import check_equal, check_joint, placed, rank_key, statistics
from hypergrad.solvers.base import Solver, Status
from hypergrad.solvers.second_moments import STATE_KEY, SecondMoments, second_moments
from hypergrad.tree import Layout, check_like

Batch = Sequence[Any] | None

#: Of :meth:`HyperStepper.state_dict`.
STATE_VERSION = 3

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
        self.estimator = _estimator(estimator, solver=solver, damping=damping, residual=residual, on_failure=on_failure)
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
        self._moments_of = inner_optimizer if _wants_moments(self.estimator) else None
        # What cannot be had is refused now, and not after the warm-up.
        if self._moments_of is not None:
            second_moments(self._moments_of, objective.params)
        elif _wants_moments(self.estimator):
            raise InvalidInputError(
                "The solver's preconditioner 'adam' needs the second moments of the inner optimizer: give that as "
                "inner_optimizer=, or use preconditioner='hutchinson' or 'nystrom'."
            )
        self._inner_steps = InnerSteps(self.guard, self._layout.device, self._traced)
        self._shared: tuple[Batch, MeanOverRanks] | None = None  # the last batch and its shares

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
        key = derive(self.seed, "inner", self.inner_step)
        batch = placed(self.objective, batch, self._shares(batch))
        if self._losses == 1 and isinstance(self.objective, ModelObjective):
            self._inner_steps.begin(self.objective.model.buffers())
        with preserved_rng(self._layout.device, rank_key(key)):
            return self.objective.training_loss(batch, key)

    def reduce_gradients(self, batch: Batch = None) -> None:
        """Between ``backward()`` and the optimizer's step: average the parameters' ``.grad`` over the ranks.

        Each rank counts by the samples of its ``batch``, the one whose loss was differentiated. The running statistics
        of BatchNorm are averaged, too. In place, and nothing at all where there is one rank; leave it out where
        DistributedDataParallel has reduced the gradients already.

        Raises:
            RankError: some ranks have samples and others not.
        """
        mean_gradients(self.objective.params, statistics(self.objective), self._shares(batch))

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
            self._shared = None
            return None
        start = time.perf_counter()
        try:
            self._inner_steps.settle()
            record, result = self._outer(_drawn(batch), _drawn(val), start)
        except BaseException:
            self.pending = True
            raise
        finally:
            self._shared = None
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
                return self._left_out(start)
            self.guard.handle(self._traced_outer(batch, val), str(error))
            raise
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        record = self._record(result, start)
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
        if state.get("version") == 1:  # which kept no broken-off outer step
            state = {**state, "version": 2, "pending": False}
        if state.get("version") == 2:  # which left nothing out
            state = {**state, "version": STATE_VERSION, "left_out": Guard().state_dict()}
        wanted = {"inner_step", "outer_step", "pending", "seed", "hparams", "outer_optimizer", "x", "solver_state"}
        wanted.add("left_out")
        if state.get("version") != STATE_VERSION or not wanted <= set(state):
            raise InvalidInputError(
                f"This state has version {state.get('version')!r} and lacks {sorted(wanted - set(state))}; this "
                f"hypergrad reads version {STATE_VERSION}."
            )
        state = copy.deepcopy(dict(state))
        hparams = self.objective.hparams
        check_like(state["hparams"], Layout.of(hparams, "hparams"), "hparams of the state")
        x = _moved(state["x"], self._layout.device)
        if x is not None and x.shape != (self._layout.size,):
            raise InvalidInputError(f"x of the state has shape {tuple(x.shape)}; the model has ({self._layout.size},).")
        with torch.no_grad():
            for name, tensor in hparams.items():
                tensor.copy_(state["hparams"][name])
        self.outer_optimizer.load_state_dict(state["outer_optimizer"])
        self.inner_step, self.outer_step, self.seed = state["inner_step"], state["outer_step"], state["seed"]
        self.pending = state["pending"]
        self.guard.load_state_dict(state["left_out"])
        self._x, self._solver_state = x, dict(_moved(state["solver_state"], self._layout.device))

    def _outer(self, batch: Batch, val: Batch, start: float) -> tuple[StepRecord, Hypergradient | None]:
        """The hypergradient and its record, or only a record where the outer step is left out."""
        halvings = 0
        try:
            if self.guard.policy == "halve":
                result, halvings = self._halved(batch, val)
            else:
                result = self._estimate(batch, val)
        except NonFiniteError as error:
            self.guard.handle(self._traced_outer(batch, val), str(error))
            return self._left_out(start), None
        record = replace(self._record(result, start), halvings=halvings)
        failed = result.solution is not None and result.solution.status.failed
        if failed or math.isfinite(record.grad_norm):
            self.guard.taken("outer")
            return record, result
        said = f"The hypergradient is not finite (norm {record.grad_norm})."
        self.guard.handle(self._traced_outer(batch, val), said)
        return replace(record, left_out=True), None

    def _halved(self, batch: Batch, val: Batch) -> tuple[Hypergradient, int]:
        """The hypergradient with the largest of alpha, alpha / 2, ... whose solve neither diverges nor overflows."""
        for halvings in range(HALVINGS + 1):
            quiet = with_alpha(self.estimator, 0.5**halvings)
            if quiet is None:
                break
            result = self._estimate(batch, val, quiet)
            if result.solution is None or not result.solution.status.failed:
                return result, halvings
            if result.solution.status not in (Status.DIVERGED, Status.NONFINITE):
                break
        # It did not help: the estimator as it is, so that on_failure says what it has to say.
        return self._estimate(batch, val), 0

    def _left_out(self, start: float) -> StepRecord:
        nan = math.nan
        seconds = time.perf_counter() - start
        return StepRecord(self.inner_step, self.outer_step, nan, nan, None, None, 0, nan, nan, seconds, left_out=True)

    def _traced(self, step: int, batch: Batch, late: bool) -> Failure:
        key = derive(self.seed, "inner", step)
        batch = placed(self.objective, batch, self._shares(batch))
        with alone():
            return trace_inner(self.objective, batch, key, rank_key(key), step, late=late)

    def _traced_outer(self, batch: Batch, val: Batch) -> Failure:
        key = derive(self.seed, "outer", self.inner_step)
        step, number = self.outer_step, self.inner_step
        batch = placed(self.objective, batch, self._shares(batch))
        noise = rank_key(key)
        with alone():
            found = trace_outer(self.objective, batch, val, key, noise, step=step, number=number)
        return found or Failure("outer", step, number, "train_data", "hypergradient", "")

    def _estimate(self, batch: Batch, val: Batch, estimator: Estimator | None = None) -> Hypergradient:
        self.objective.check_ready()
        key = derive(self.seed, "outer", self.inner_step)
        inner, outer = self.objective.losses(key)
        state = dict(self._solver_state)
        if self._moments_of is not None:
            state[STATE_KEY] = second_moments(self._moments_of, self.objective.params)
        ranks = self._shares(batch)
        check_equal(self.objective, (self.inner_step, self.outer_step, self.seed))
        self._average_statistics(ranks)
        batch = placed(self.objective, batch, ranks)
        with preserved_rng(self._layout.device, rank_key(key)):
            return (estimator or self.estimator).estimate(
                inner,
                outer,
                self.objective.params,
                self.objective.hparams,
                inner_batch=batch,
                outer_batch=val,
                x0=self._x if self.warm_start else None,
                state=state,
            )

    def _shares(self, batch: Batch) -> MeanOverRanks:
        """Of a batch, counted once a step."""
        if world_size() == 1:
            return MeanOverRanks()
        # By the object, and forgotten at each step: so all ranks count, or none does.
        if self._shared is None or self._shared[0] is not batch:
            self._shared = (batch, MeanOverRanks.of(batch))
        return self._shared[1]

    def _average_statistics(self, ranks: MeanOverRanks) -> None:
        """Where a loop without reduce_gradients (with DistributedDataParallel) has left them different."""
        held = statistics(self.objective)
        if held and world_size() > 1 and differing({"statistics": digest(*held)}):
            mean_gradients({}, held, ranks)

    def _record(self, result: Hypergradient, start: float) -> StepRecord:
        solution = result.solution
        residual = None if solution is None else solution.residual
        norm = torch.cat([g.reshape(-1).double() for g in result.grads.values()]).norm()
        numbers = [result.inner_loss, result.outer_loss, result.stationarity, norm]
        if residual is not None:
            numbers.append(residual)
        inner, outer, stationarity, grad_norm, *rest = torch.stack([n.double() for n in numbers]).tolist()
        return StepRecord(
            inner_step=self.inner_step,
            outer_step=self.outer_step,
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


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors, however nested, on the device: a checkpoint holds them on the CPU."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def _alpha(state: Mapping[str, Any]) -> float | None:
    alpha = state.get("alpha")
    return float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None


def _wants_moments(estimator: Any) -> bool:
    """Whether the solver of the estimator, or of the one that it wraps, has the preconditioner "adam"."""
    while hasattr(estimator, "inner"):
        estimator = estimator.inner
    return isinstance(getattr(getattr(estimator, "solver", None), "preconditioner", None), SecondMoments)


def _drawn(batch: Batch | Callable[[], Batch]) -> Batch:
    return batch() if callable(batch) else batch


def _estimator(estimator: str | Estimator, **options: Any) -> Estimator:
    """An estimator by name gets the options it has; one that it lacks must be at its default."""
    defaults = {"solver": "neumann", "damping": 0.0, "residual": False, "on_failure": "warn"}
    if not isinstance(estimator, str):
        refused = [k for k in ("solver", "damping", "residual") if options[k] != defaults[k]]
        if refused:
            raise InvalidInputError(
                f"{refused} were given beside the estimator object {estimator!r}; give them to the object."
            )
        return estimators.get(estimator)
    known = estimators.options_of(estimator)
    refused = [k for k in ("solver", "damping", "residual") if k not in known and options[k] != defaults[k]]
    if refused:
        raise InvalidInputError(f"The estimator {estimator!r} has no options {refused}; it has {known}.")
    return estimators.get(estimator, **{k: v for k, v in options.items() if k in known})
