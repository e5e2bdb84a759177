"""The search for parameters at which an objective is lowest, over any number of attempts, workers and interruptions."""

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from hypergrad.baselines.attempt import Finished, SearchFailedError, SearchResult, check_note
from hypergrad.baselines.bookkeeping import Book, Plan, create_book, load_book
from hypergrad.baselines.ledger import best_of
from hypergrad.baselines.pool import work_in_processes
from hypergrad.baselines.proposals import Method, get_method
from hypergrad.baselines.space import Space, check_params, check_space, distributions
from hypergrad.baselines.storages import absolute, is_sqlite
from hypergrad.baselines.working import Objective, work
from hypergrad.errors import InvalidInputError
from hypergrad.optional import require
from hypergrad.progress import Progress


def search(
    objective: Objective,
    space: Space,
    *,
    method: str | Method = "tpe",
    trials: int | None = None,
    seconds: float | None = None,
    storage: str | None = None,
    name: str = "search",
    seed: int = 0,
    workers: int = 1,
    pruning: bool = False,
    resume: bool = False,
    retries: int = 0,
    progress: bool = True,
    on_attempt: Callable[[Finished], None] | None = None,
) -> SearchResult:
    """Minimise an objective over a space, with Optuna.

    The attempts are cells, numbered from 0. A cell is done when it is complete (or pruned); a failed one is kept with
    its error, and runs again in the next call with ``resume=True``, as does one whose process was killed. Any number
    of calls, on any number of machines, may work on one study at the same time with ``resume=True``: each cell is
    completed once.

    Args:
        objective: called with a dictionary of parameters and an :class:`~hypergrad.baselines.Attempt`; returns the
            value. For more than one worker it must be picklable (a function or object of a module), and the calling
            script needs the usual ``if __name__ == "__main__":``. An exception fails the attempt, not the search.
        space: parameters by name.
        method: ``"grid"`` (all combinations, in an order shuffled by the seed), ``"random"``, ``"tpe"``, one that was
            registered, or an object such as ``Tpe(startup=5)``. Grid and random propose by seed and number alone, TPE
            by these and by what the attempts found so far.
        trials: the total number of cells, over all calls. None means all of a grid; elsewhere no bound but the
            seconds or, where neither is given on resume, as many as before.
        seconds: a budget: no attempt starts once those that ended took so long together, over all workers and calls.
            The last ones may exceed it, as none is cut off. With or without ``trials``.
        storage: None keeps the study in memory; ``"journal:PATH"`` in a file of Optuna's journal format, for processes
            of one machine; ``"postgresql://USER@HOST/DATABASE"`` for many machines; ``"sqlite:///PATH"`` for one
            worker. Optuna's dashboard opens all but the first.
        name: of the study in the storage.
        seed: of the proposals and of each attempt's own ``seed``.
        workers: processes, each with one torch thread; 1 works in this process, with the threads it has.
        pruning: give attempts up by Optuna's median rule, after five complete ones: the best value that was reported
            is worse than the median of the others' at the same step.
        resume: go on with the study of that name where there is one.
        retries: how often a cell that failed by an exception, or whose process died on this machine, is tried again
            before the call ends; after that it is failed, with the reason of its last attempt. What hypergrad itself
            refuses (a loss that is not finite, a bad argument) would be refused again, and is not.
        progress: show progress on stderr.
        on_attempt: called in this process with each attempt of this call that has ended.

    Returns:
        All attempts so far, the best, and what is missing.

    Raises:
        InvalidInputError: an argument cannot be used, the study exists and ``resume`` is False, or it was made with
            another space, method or seed.
        SearchFailedError: every attempt failed, with the first failure, or a worker cannot work.
        MissingLibraryError: Optuna, or the driver of PostgreSQL, is not installed.
        KeyboardInterrupt: passed on, after the workers were ended; what they were at is missing.

    Example:
        >>> from hypergrad.baselines import Integer, Real, search
        >>> def objective(params, attempt):
        ...     attempt.note("what", "an example")
        ...     return (params["x"] - 0.3) ** 2 + params["n"]
        >>> space = {"x": Real(0, 1), "n": Integer(0, 2)}
        >>> result = search(objective, space, method="random", trials=20, progress=False)
        >>> len(result.attempts), result.missing, result.best.params["n"]
        (20, (), 0)
    """
    require("optuna", "A search", "search")
    if not callable(objective):
        raise InvalidInputError(f"The objective is called with parameters and an attempt; got {objective!r}.")
    proposer = get_method(method)
    shown = method if isinstance(method, str) else repr(method)
    plan = Plan(absolute(storage), name, dict(space), proposer, shown, seed, trials, seconds, pruning, retries)
    plan = _checked(plan, workers, resume)
    failures = []
    with closing(create_book(plan, resume=resume)) as book:
        plan = _bounded(plan, book)
        book.prepare(plan)
        with _Shown(plan, book, progress) as status:
            # In this process, an objective need not be picklable.
            one = work if workers == 1 else functools.partial(work_in_processes, workers=workers)
            going = True
            while going:
                with closing(one(objective, plan, book)) as ended:
                    for attempt in ended:
                        if attempt.state == "failed":
                            failures.append(attempt)
                        status.update()
                        if on_attempt is not None:
                            on_attempt(attempt)
                # The last worker may have died over its cell.
                limit = math.inf if plan.trials is None else plan.trials
                going = workers > 1 and plan.retries > 0 and book.retry(plan, limit)
        result = book.result(name, storage, plan.trials)
    if failures and all(a.state == "failed" for a in result.attempts):
        raise SearchFailedError(
            f"All {len(result.attempts)} attempts of the search {name!r} failed. The first, with the parameters "
            f"{failures[0].params}: {failures[0].error}"
        )
    return result


def read_search(storage: str, name: str) -> SearchResult:
    """What a search has found so far. Nothing is written; it may be running.

    Raises:
        InvalidInputError: there is no such storage, or no such study in it.
    """
    with closing(load_book(absolute(storage), name)) as book:
        return book.result(name, storage)


def record(
    storage: str,
    name: str,
    params: Mapping[str, Any],
    value: float,
    *,
    space: Space,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Add a result that was found otherwise, such as by hypergradients, to a study, so that a dashboard shows both.

    It is never counted as an attempt, and neither TPE nor the pruner learns from it.

    Args:
        storage: as in :func:`search`.
        name: of a study that exists.
        params: some or all parameters of the space.
        value: comparable with the attempts' values.
        space: of the search.
        notes: kept with the result; say where it comes from.

    Raises:
        InvalidInputError: there is no such study, a parameter is not in the space or not as the search has it, or the
            value is not finite.
    """
    optuna = require("optuna", "A search", "search")
    check_space(space)
    check_params(params, space, complete=False)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise InvalidInputError(f"The value of a result is a finite number; got {value!r}.")
    for key, content in (notes or {}).items():
        check_note(key, content)
    used = {parameter: d for parameter, d in distributions(space).items() if parameter in params}
    trial = optuna.trial.create_trial(
        value=float(value), params=dict(params), distributions=used, user_attrs=dict(notes or {})
    )
    with closing(load_book(absolute(storage), name)) as book:
        book.check_same_space({parameter: space[parameter] for parameter in params})
        book.study.add_trial(trial)


def _checked(plan: Plan, workers: int, resume: bool) -> Plan:
    """The plan, if it can be carried out; a grid's number of cells filled in."""
    check_space(plan.space)
    if not isinstance(plan.name, str) or not plan.name:
        raise InvalidInputError(f"A search's name is a non-empty string; got {plan.name!r}.")
    counts = (("trials", plan.trials, 1), ("workers", workers, 1), ("seed", plan.seed, 0), ("retries", plan.retries, 0))
    for label, number, low in counts:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < low):
            raise InvalidInputError(f"{label} must be an integer of at least {low}; got {number!r}.")
    if plan.seconds is not None and not (isinstance(plan.seconds, int | float) and plan.seconds > 0):
        raise InvalidInputError(f"seconds must be positive; got {plan.seconds!r}.")
    cells = plan.method.cells(plan.space)
    if cells is not None and plan.trials is not None and plan.trials > cells:
        raise InvalidInputError(f"trials={plan.trials}, but there are only {cells} different cells. Leave trials out.")
    if plan.storage is None and (workers > 1 or resume):
        asked = f"workers={workers}" if workers > 1 else "resume=True"
        raise InvalidInputError(f'{asked} needs a study that is kept. Give storage="journal:PATH".')
    if is_sqlite(plan.storage) and workers > 1:
        raise InvalidInputError(
            f'workers={workers} cannot share an SQLite file safely. Give "journal:PATH" or a PostgreSQL URL, or '
            "workers=1."
        )
    if plan.trials is None and plan.seconds is None and cells is None and not resume:
        raise InvalidInputError(f"A search by {plan.method_name!r} has no end of its own. Give trials or seconds.")
    return replace(plan, trials=cells) if plan.trials is None and cells is not None else plan


def _bounded(plan: Plan, book: Book) -> Plan:
    """On resume, as many trials as were asked for before."""
    if plan.trials is None and plan.seconds is None:
        if not book.total():
            raise InvalidInputError(f"The search {plan.name!r} has no end so far. Give trials or seconds.")
        return replace(plan, trials=book.total())
    return plan


class _Shown:
    """Progress in cells, or in seconds where only these bound the search."""

    def __init__(self, plan: Plan, book: Book, enabled: bool) -> None:
        self._plan, self._book = plan, book
        total = plan.trials if plan.trials is not None else round(plan.seconds or 0)
        title = f"search {plan.name!r}" + ("" if plan.trials is not None else " (seconds)")
        self._enabled = enabled
        self._total = total
        self._progress = Progress(total, title, enabled=enabled)

    def __enter__(self) -> "_Shown":
        self._progress.__enter__()
        return self

    def update(self) -> None:
        """Read the study, which others may work on too, and show how far it is."""
        if not self._enabled:
            return
        ledger = self._book.read()
        attempts = ledger.attempts()
        best = best_of(attempts)
        done = len(attempts) if self._plan.trials is not None else round(ledger.seconds())
        failed = sum(a.state == "failed" for a in attempts)
        notes = ["" if best is None else f"best {best.value:.6g}", f"{failed} failed" if failed else ""]
        self._progress.update(min(done, self._total), ", ".join(filter(None, notes)))

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)
