"""The bilevel problem as a value, and ``solve``: a short loop over the stepper."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad.batches import Drawing
from hypergrad.diagnostics.diagnosis import Diagnosis
from hypergrad.diagnostics.examining import SOLVERS, diagnose
from hypergrad.distributed import alone
from hypergrad.errors import InvalidInputError
from hypergrad.estimators.base import Estimator, Loss
from hypergrad.estimators.implicit import OnFailure
from hypergrad.estimators.unroll import Unrolled
from hypergrad.failures import OnNonFinite
from hypergrad.families.base import HyperparameterFamily
from hypergrad.files import Pathlike
from hypergrad.objective import FunctionObjective, ModelObjective, Objective
from hypergrad.optimizers import OptimizerLike, check_weight_decay, resolve
from hypergrad.result import Hypergradient
from hypergrad.solvers.base import Solver
from hypergrad.solving import BilevelResult, Callback, Resume, Run
from hypergrad.stepper import HyperStepper
from hypergrad.tree import TensorDict

Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


class BilevelProblem:
    """``min over h of g(w*(h), h)`` with ``w*(h)`` a minimiser of ``f(w, h)``.

    Args:
        inner_loss: f, pure: ``inner_loss(params, hparams, *batch) -> scalar``; the batch is there exactly when
            ``train_data`` is.
        outer_loss: g, likewise with ``val_data``.
        params: starting point of ``w``, a dict of tensors; cloned.
        hparams: starting point of ``h``, a dict of tensors; cloned.
        train_data: batches for f: :class:`~hypergrad.KeyedBatches`, a DataLoader, a list of tuples; or None.
        val_data: batches for g, likewise.

    Raises:
        InvalidInputError: an argument cannot be used; the message says why.

    Example:
        The best decay of a one-dimensional ridge regression, ``w*(h) = 3 / (1 + exp(h))``, for the target 1:

        >>> import functools, torch, hypergrad
        >>> problem = hypergrad.BilevelProblem(
        ...     inner_loss=lambda w, h: 0.5 * (w["w"] - 3) ** 2 + 0.5 * h["log_decay"].exp() * w["w"] ** 2,
        ...     outer_loss=lambda w, h: 0.5 * (w["w"] - 1) ** 2,
        ...     params={"w": torch.tensor(0.0)},
        ...     hparams={"log_decay": torch.tensor(0.0)},
        ... )
        >>> result = problem.solve(
        ...     "cg", outer_steps=100, inner_steps=10, progress=False,
        ...     inner_optimizer=functools.partial(torch.optim.SGD, lr=0.3),
        ...     outer_optimizer=functools.partial(torch.optim.Adam, lr=0.1),
        ... )
        >>> round(float(result.hparams["log_decay"].exp()), 1)
        2.0
    """

    def __init__(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        train_data: Iterable[Any] | None = None,
        val_data: Iterable[Any] | None = None,
    ) -> None:
        self._bind(FunctionObjective(inner_loss, outer_loss, params, hparams), train_data, val_data)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        family: HyperparameterFamily | Sequence[HyperparameterFamily],
        *,
        train_data: Iterable[Any] | None = None,
        val_data: Iterable[Any] | None = None,
        loss: Callable[..., Tensor] = F.cross_entropy,
        weight_decay: float = 0.0,
    ) -> "BilevelProblem":
        """The problem of tuning ``family`` while training ``model``; both are used in place.

        Args:
            model: any ``nn.Module``; its parameters that require grad are the inner variables.
            family: what is tuned: a hyperparameter family, or a sequence of them, composed in order.
            train_data: batches ``(inputs, targets[, index])``.
            val_data: batches ``(inputs, targets)``.
            loss: per-sample losses of ``(outputs, targets)``.
            weight_decay: part of the training loss, ``weight_decay / 2 ||w||^2``; not for the optimizer.
        """
        problem = cls.__new__(cls)
        problem._bind(ModelObjective(model, family, loss=loss, weight_decay=weight_decay), train_data, val_data)
        return problem

    def _bind(self, objective: Objective, train_data: Iterable[Any] | None, val_data: Iterable[Any] | None) -> None:
        self.objective = objective
        self._train = Drawing(train_data, "train_data")
        self._val = Drawing(val_data, "val_data")

    @property
    def params(self) -> TensorDict:
        """The live inner variables."""
        return self.objective.params

    @property
    def hparams(self) -> TensorDict:
        """The live hyperparameters (raw)."""
        return self.objective.hparams

    def first_batches(self) -> tuple[Sequence[Any] | None, Sequence[Any] | None]:
        """The first training and the first validation batch; None where there is no data."""
        return self._train(0), self._val(0)

    def hypergradient(
        self,
        solver: str | Solver = "neumann",
        *,
        batch: Sequence[Any] | None = None,
        val: Sequence[Any] | None = None,
        damping: float = 0.0,
        residual: bool = False,
        estimator: str | Estimator = "implicit",
        on_failure: OnFailure = "warn",
        seed: int = 0,
    ) -> Hypergradient:
        """The hypergradient at the current point, at the first batches of the data unless given; see ``solve``."""
        stepper = self.stepper(
            torch.optim.SGD,
            solver,
            damping=damping,
            residual=residual,
            estimator=estimator,
            on_failure=on_failure,
            seed=seed,
        )
        train, valid = self.first_batches()
        return stepper.hypergradient(train if batch is None else batch, valid if val is None else val)

    def diagnose(
        self,
        *,
        batch: Sequence[Any] | None = None,
        val: Sequence[Any] | None = None,
        solvers: Sequence[str | Solver] = SOLVERS,
        alpha: float | None = None,
        damping: float = 0.0,
        batches: int = 8,
        max_hvps: int = 40,
        seed: int = 0,
    ) -> Diagnosis:
        """Whether the hypergradient at the current point can be trusted, and what to change; nothing changes.

        Args:
            batch, val: the first pair of batches, on which curvature and solvers are measured; None: those of the data.
            solvers, alpha, damping, batches, max_hvps, seed: see :func:`hypergrad.diagnostics.diagnose`.

        Returns:
            A :class:`~hypergrad.diagnostics.Diagnosis`: print it, or ask for its findings.
        """
        with alone():  # every rank that asks, on the whole batches
            return diagnose(
                self.objective,
                _led_by(batch, self._train),
                _led_by(val, self._val),
                solvers=solvers,
                alpha=alpha,
                damping=damping,
                batches=batches,
                max_hvps=max_hvps,
                seed=seed,
            )

    def stepper(
        self,
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
    ) -> HyperStepper:
        """A :class:`~hypergrad.HyperStepper` on this problem, for a training loop of one's own."""
        return HyperStepper(
            self.objective,
            outer_optimizer,
            solver,
            every=every,
            warmup=warmup,
            damping=damping,
            residual=residual,
            warm_start=warm_start,
            estimator=estimator,
            on_failure=on_failure,
            inner_optimizer=inner_optimizer,
            on_nonfinite=on_nonfinite,
            seed=seed,
        )

    def solve(
        self,
        solver: str | Solver = "neumann",
        *,
        outer_steps: int,
        inner_optimizer: OptimizerLike,
        outer_optimizer: OptimizerLike,
        inner_steps: int = 60,
        warmup_steps: int = 0,
        estimator: str | Estimator = "implicit",
        scheduler: Scheduler | None = None,
        damping: float = 0.0,
        residual: bool = False,
        warm_start: bool = False,
        on_failure: OnFailure = "warn",
        on_nonfinite: OnNonFinite = "raise",
        seed: int = 0,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: Pathlike | None = None,
        checkpoint_every: float = 300.0,
        resume: Resume = "auto",
    ) -> BilevelResult:
        """Train the inner variables, with one outer step every ``inner_steps`` after ``warmup_steps``.

        A discarded outer step comes first, so that what would fail after the warm-up fails at once. Ctrl-C ends the
        run and returns what it has, with ``status="interrupted"``. With ``checkpoint`` a run that was killed at any
        instant goes on, when it is called again, to the same bits (on one thread count); SIGTERM is then taken as
        Ctrl-C is, both wait for the end of an inner step or of a Hessian product, and a second one ends the process.

        Args:
            solver: a registered solver's name, or a solver object.
            outer_steps: how many, at least 1.
            inner_optimizer: a factory, or an instance over ``params``; without weight decay (it belongs to f).
            outer_optimizer: a factory, or an instance over ``hparams``.
            inner_steps: between two outer steps (the paper's s).
            warmup_steps: inner steps before that.
            estimator: "implicit", "unrolled" (through one step of the inner optimizer), another registered name, or an
                estimator object.
            scheduler: makes a learning-rate scheduler of the inner optimizer, stepped after every inner step.
            damping, residual, warm_start, on_failure, on_nonfinite, seed: see :class:`~hypergrad.HyperStepper`.
            progress: show progress on stderr.
            callbacks: called with each outer step's record; after a kill again for those since the last checkpoint.
            checkpoint: a folder of its own for the state of this run (:mod:`hypergrad.checkpoint`); None for none.
            checkpoint_every: seconds between two checkpoints, more where saving would take over 2 % of the time; 0 to
                save after every inner step. The run also saves at its start, at a signal and at its end.
            resume: "auto" begins, or goes on where ``checkpoint`` holds this very run, which may have become longer
                (``outer_steps``); "never" refuses a folder that holds checkpoints; "force" goes on although settings,
                data or versions have changed.

        Returns:
            A :class:`~hypergrad.BilevelResult`. The problem's own tensors hold the same values.

        Raises:
            NonFiniteError: a loss or a gradient is NaN or infinite, see ``on_nonfinite``; with ``checkpoint`` the state
                before that step is saved (unless a GPU found out too late), and the run can go on with another policy.
            InvalidInputError: an argument cannot be used, or the checkpoints are those of another run, with the
                difference.
            CheckpointError: there are checkpoints, and all are damaged.
            Stopped: a signal came before the first step; nothing had been done.

        Warns:
            CheckpointWarning: a checkpoint could not be saved, or a damaged one was passed over.
            InexactWarning: resumed data does not repeat its order.
        """
        for name, value, least in (("outer_steps", outer_steps, 1), ("inner_steps", inner_steps, 1)):
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{name} must be an integer of at least {least}; got {value!r}.")
        inner = resolve(inner_optimizer, self.params, "inner_optimizer")
        check_weight_decay(inner, self._decay_remedy())
        if estimator == "unrolled":
            estimator = Unrolled(steps=1, optimizer=inner)
        stepper = self.stepper(
            outer_optimizer,
            solver,
            every=inner_steps,
            warmup=warmup_steps,
            damping=damping,
            residual=residual,
            warm_start=warm_start,
            estimator=estimator,
            on_failure=on_failure,
            inner_optimizer=inner,
            on_nonfinite=on_nonfinite,
            seed=seed,
        )
        run = Run(
            stepper=stepper,
            train=self._train,
            val=self._val,
            inner=inner,
            scheduler=None if scheduler is None else scheduler(inner),
            outer_steps=outer_steps,
            total=warmup_steps + outer_steps * inner_steps,
            callbacks=callbacks,
            progress=progress,
        )
        return run.go(checkpoint, every=checkpoint_every, resume=resume)

    def _decay_remedy(self) -> str:
        if isinstance(self.objective, ModelObjective):
            return "give weight_decay= to BilevelProblem.for_model, or tune it with families.get('weight_decay', ...)"
        return "add it to inner_loss, 0.5 * decay * sum of squares"


def _led_by(
    first: Sequence[Any] | None, draw: Callable[[int], Sequence[Any] | None]
) -> Callable[[int], Sequence[Any] | None]:
    """``draw`` with a batch of one's own in front; without data, that batch alone, again and again."""
    if first is None:
        return draw

    def led(t: int) -> Sequence[Any] | None:
        drawn = None if t == 0 else draw(t - 1)
        return first if drawn is None else drawn

    return led
