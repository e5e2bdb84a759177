"""What a worker does: claim a cell, try its parameters, write down what came of it, until nothing is left to claim."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from hypergrad.baselines.attempt import CELL, Attempt, Finished, Pruned
from hypergrad.baselines.bookkeeping import Book, Plan
from hypergrad.baselines.ledger import CLAIM, ERROR, FINAL, HEARTBEAT, SECONDS, finished
from hypergrad.baselines.processes import HEARTBEAT as INTERVAL
from hypergrad.baselines.processes import own_claim
from hypergrad.baselines.proposals import History
from hypergrad.baselines.space import check_params
from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.keys import derive
from hypergrad.optional import require

#: What is searched for: parameters and attempt to a value, which is minimised.
Objective = Callable[[dict[str, Any], Attempt], float]


def work(objective: Objective, plan: Plan, book: Book) -> Generator[Finished, None, None]:
    """Try one cell after the other, and yield what came of each.

    An exception of the objective is the end of its attempt, not of the search. Ctrl-C ends both.
    """
    taken = require("optuna", "A search", "search").exceptions.UpdateFinishedTrialError
    while (trial := _claim(plan, book)) is not None:
        try:
            book.attribute(trial, CLAIM, {**own_claim(), "time": time.time()})
            ended = _run(objective, plan, book, book.storage.get_trial(trial._trial_id))
        except taken:  # declared dead, after a stall, and the cell is someone else's now
            continue
        except BaseException as error:
            # This process may live on, in a notebook; its trial must not look alive with it.
            with contextlib.suppress(Exception):
                book.end(trial, "FAIL", {ERROR: f"interrupted ({type(error).__name__})"})
            raise
        if ended is not None:
            yield ended


def _claim(plan: Plan, book: Book) -> Any:
    """A trial that is ours to run; None where nothing is left, or the time is up."""
    limit = math.inf if plan.trials is None else plan.trials
    while True:
        ledger = book.read()
        if plan.seconds is not None and ledger.seconds() >= plan.seconds:
            return None
        waiting = ledger.waiting(limit)
        if not waiting and plan.retries and book.retry(plan, limit):
            continue
        if not waiting:
            cell, cells = ledger.next_cell(), plan.method.cells(plan.space)
            if plan.trials is not None or (cells is not None and cell >= cells):
                return None
            book.add_cell(cell, plan)
            book.set_aside_doubles()
        elif book.claim(waiting[0]):
            return waiting[0]


def _run(objective: Objective, plan: Plan, book: Book, trial: Any) -> Finished | None:
    """Run one attempt; None where it was declared dead while it ran, and another stands for its cell."""
    cell = int(trial.user_attrs[CELL])
    params = dict(trial.params) or _propose(plan, book, trial, cell)
    prune = _pruner(plan, book, trial)
    attempt = Attempt(
        cell,
        derive(plan.seed, cell),
        on_report=prune,
        on_note=lambda key, value: book.attribute(trial, key, value),
    )
    value, error, state, final = None, None, "FAIL", False
    started = time.perf_counter()
    with _heartbeats(book, trial):
        try:
            value, state = _checked(objective({name: params[name] for name in plan.space}, attempt)), "COMPLETE"
        except Pruned:
            state = "PRUNED"
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            # What we refuse knowingly would be refused again; a full disk is none of these.
            final = isinstance(failure, HypergradError) and not isinstance(failure, OSError)
        seconds = time.perf_counter() - started
    notes: dict[str, Any] = {SECONDS: seconds} if error is None else {SECONDS: seconds, ERROR: error}
    if final:
        notes[FINAL] = True
    if not book.end(trial, state, notes, value):
        return None
    return finished(book.storage.get_trial(trial._trial_id))


def _propose(plan: Plan, book: Book, trial: Any, cell: int) -> dict[str, Any]:
    """Parameters that depend on what earlier cells found; written down before they are tried.

    Later cells are left out: a cell that runs again after others have gone on is proposed as it was.
    """
    ledger = book.read()
    running = [t for t in ledger.running() if t.user_attrs[CELL] < cell and t.params.keys() == plan.space.keys()]
    history = History(
        ended=tuple(a for a in ledger.attempts() if a.state != "failed" and a.number < cell),
        running=tuple(dict(t.params) for t in running),
    )
    params = plan.method.propose(plan.space, plan.seed, cell, history)
    check_params(params, plan.space)
    for name, parameter in plan.space.items():
        distribution = parameter.distribution()
        internal = distribution.to_internal_repr(params[name])
        book.storage.set_trial_param(trial._trial_id, name, internal, distribution)
    return params


def _pruner(plan: Plan, book: Book, trial: Any) -> Callable[[int, float], bool]:
    """Keeps the reports, and asks the pruner where the search prunes."""
    optuna = require("optuna", "A search", "search")

    def report(step: int, value: float) -> bool:
        book.storage.set_trial_intermediate_value(trial._trial_id, step, value)
        if not plan.pruning:
            return False
        # The pruner waits for five complete trials, and would count those that were recorded from elsewhere.
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5 + book.read().recorded)
        return bool(pruner.prune(book.study, book.storage.get_trial(trial._trial_id)))

    return report


def _checked(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"the objective returned {value!r}; a number is needed") from None
    if not math.isfinite(number):
        raise InvalidInputError(f"the objective returned {number}; a finite number is needed")
    return number


@contextlib.contextmanager
def _heartbeats(book: Book, trial: Any) -> Iterator[None]:
    """A sign of life every few seconds while an attempt runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(INTERVAL):
            # A database that is away for a moment must not end the attempt; if it stays away, its last write will.
            with contextlib.suppress(Exception):
                book.attribute(trial, HEARTBEAT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
