"""The study of a search: opened, checked against what it was, and written to so that every cell is decided once."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypergrad.baselines.attempt import CELL, SearchResult
from hypergrad.baselines.ledger import ASIDE, CLAIM, ERROR, HEARTBEAT, SECONDS, Ledger, best_of
from hypergrad.baselines.processes import is_dead
from hypergrad.baselines.proposals import History, Method
from hypergrad.baselines.space import Space, distributions, space_to_json
from hypergrad.baselines.storages import close_storage, hidden, open_storage, quiet
from hypergrad.errors import InvalidInputError, UnknownNameError
from hypergrad.files import short
from hypergrad.optional import require

#: User attributes of the study: what it is, and how many cells were asked for.
_PLAN, _TOTAL = "search:plan", "search:trials"
#: Seconds that a claim may stand without the claimer's name; it is written right after, so a dead process made it.
_NAMING = 2.0


@dataclass(frozen=True)
class Plan:
    """Everything that a worker must know of a search, beside the objective. Picklable.

    Attributes:
        storage, name: where the study is.
        space, method, seed: what is proposed; see :meth:`identity`.
        method_name: the method's name, or its representation where an object was given.
        trials: total number of cells; None where only the seconds bound it.
        seconds: no attempt starts once the attempts took that long together.
        pruning: whether the median pruner is asked.
        retries: how often a cell that failed is tried again by the same call.
    """

    storage: str | None
    name: str
    space: Space
    method: Method
    method_name: str
    seed: int
    trials: int | None
    seconds: float | None
    pruning: bool
    retries: int = 0

    def identity(self) -> dict[str, Any]:
        """What must not change when the search is resumed."""
        return {"method": self.method_name, "seed": self.seed, "space": space_to_json(self.space)}

    def fixed(self, cell: int) -> dict[str, Any] | None:
        """The cell's parameters, where they do not depend on what other attempts find."""
        return None if self.method.learns else self.method.propose(self.space, self.seed, cell, History())


class Book:
    """A study that is open.

    Args:
        storage: an object of Optuna.
        study: likewise.
        place: of the storage, for messages.
    """

    def __init__(self, storage: Any, study: Any, place: str = "The storage") -> None:
        self.place = place
        self.storage = storage
        self.study = study
        self._states = require("optuna", "A search", "search").trial.TrialState

    def close(self) -> None:
        """Close the connections to a database."""
        close_storage(self.storage)

    def read(self) -> Ledger:
        """The study as it is now."""
        try:
            return Ledger(self.study.get_trials(deepcopy=False))
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.place}: {error}") from error
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            # Optuna takes what is in a journal at its word.
            raise InvalidInputError(
                f"{self.place} is damaged: Optuna cannot read it ({type(error).__name__}: {error}). Begin anew in "
                "another one."
            ) from error

    def add_cell(self, cell: int, plan: Plan) -> None:
        """A WAITING trial for a cell."""
        optuna, params = require("optuna", "A search", "search"), plan.fixed(cell)
        self.study.add_trial(
            optuna.trial.create_trial(
                state=self._states.WAITING,
                params=params or {},
                distributions=distributions(plan.space) if params else {},
                user_attrs={CELL: cell},
            )
        )

    def set_aside_doubles(self) -> None:
        """End the trials of cells that others stand for. Whoever adds cells calls it afterwards."""
        for trial in self.read().doubles():
            self.end(trial, "FAIL", {ASIDE: True, ERROR: "another command made the same cell; its trial counts"})

    def claim(self, trial: Any) -> bool:
        """Take a WAITING trial; False where someone else has. The storage decides."""
        optuna = require("optuna", "A search", "search")
        try:
            return bool(self.storage.set_trial_state_values(trial._trial_id, state=self._states.RUNNING))
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def attribute(self, trial: Any, key: str, value: Any) -> None:
        """Write a user attribute of a trial that has not ended."""
        self.storage.set_trial_user_attr(trial._trial_id, key, value)

    def end(self, trial: Any, state: str, attributes: Mapping[str, Any], value: float | None = None) -> bool:
        """Give a trial its final state; False where it has one already, for its claim was taken from it."""
        optuna = require("optuna", "A search", "search")
        try:
            for key, content in attributes.items():
                self.attribute(trial, key, content)
            values = None if value is None else [value]
            self.storage.set_trial_state_values(trial._trial_id, state=self._states[state], values=values)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def bury_dead(self) -> None:
        """End the trials whose processes are gone; a moment is waited where a claim has no name yet."""
        deadline = time.monotonic() + _NAMING
        while (nameless := [t for t in self.read().running() if CLAIM not in t.user_attrs]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.1)
        for trial in nameless:
            self.end(trial, "FAIL", {ERROR: "its process died when it had just taken it"})
        for trial in self.read().running():
            if CLAIM in trial.user_attrs and is_dead(trial.user_attrs[CLAIM], _heartbeat(trial)):
                self.bury(trial, "its process died")

    def bury(self, trial: Any, error: str) -> None:
        """End a trial whose process is gone. It took as long as from its claim to its last sign of life."""
        began = float(trial.user_attrs[CLAIM].get("time", 0.0))
        self.end(trial, "FAIL", {SECONDS: max(0.0, _heartbeat(trial) - began), ERROR: error})

    def check_same_space(self, space: Space) -> None:
        """Refuse parameters that the search does not have like this.

        Raises:
            InvalidInputError: the study is no search of ours, or a parameter differs.
        """
        held = self.study.user_attrs.get(_PLAN, {}).get("space", {})
        for name, wanted in space_to_json(space).items():
            if held.get(name) != wanted:
                raise InvalidInputError(
                    f"The search {self.study.study_name!r} has the parameter {name!r} as {held.get(name, 'absent')}, "
                    f"not {wanted}. Give the search's own space."
                )

    def total(self) -> int:
        """How many cells were asked for, at most, over all calls."""
        held = self.study.user_attrs.get(_TOTAL, 0)
        if type(held) is not int or not 0 <= held < 1 << 31:
            raise InvalidInputError(
                f"{self.place}: {_TOTAL} of the study must be a number of cells; got {short(held)}."
            )
        return held

    def prepare(self, plan: Plan) -> None:
        """Before the first claim: bury the dead, and make a trial for each cell that needs one."""
        self.bury_dead()
        if plan.trials is not None and plan.trials > self.total():
            self.study.set_user_attr(_TOTAL, plan.trials)
        ledger = self.read()
        for cell in ledger.open_cells(ledger.next_cell() if plan.trials is None else plan.trials):
            self.add_cell(cell, plan)
        self.set_aside_doubles()

    def retry(self, plan: Plan, limit: float) -> bool:
        """Make trials for cells whose process died, or that failed and may be tried again; whether there are any."""
        self.bury_dead()
        cells = self.read().retriable(plan.retries, limit)
        for cell in cells:
            self.add_cell(cell, plan)
        self.set_aside_doubles()
        return bool(cells)

    def result(self, name: str, storage: str | None, trials: int | None = None) -> SearchResult:
        """What has been found so far; the cells missing of ``trials``, or of as many as were asked for."""
        ledger = self.read()
        attempts = ledger.attempts()
        total = trials if trials is not None else max(self.total(), ledger.next_cell())
        missing, seconds = ledger.missing(total), ledger.seconds()
        return SearchResult(name, storage, attempts, best_of(attempts), missing, seconds)


def create_book(plan: Plan, *, resume: bool) -> Book:
    """Open the plan's study, and make it where there is none.

    Raises:
        InvalidInputError: there is one of that name and ``resume`` is False; or it is another search's.
    """
    with quiet():
        storage = open_storage(plan.storage, create=True)
        try:
            return Book(storage, _study(plan, storage, resume), hidden(plan.storage))
        except BaseException:
            close_storage(storage)
            raise


def _study(plan: Plan, storage: Any, resume: bool) -> Any:
    optuna = require("optuna", "A search", "search")
    where = f"{plan.name!r} in {hidden(plan.storage)}"
    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        study = optuna.create_study(storage=storage, study_name=plan.name, direction="minimize")
        study.set_user_attr(_PLAN, plan.identity())
        return study
    if not resume:
        raise InvalidInputError(f"There is a search {where} already. resume=True continues it; or give another name.")
    study = optuna.load_study(storage=storage, study_name=plan.name)
    held, wanted = study.user_attrs.get(_PLAN), plan.identity()
    if held is None:
        if study.get_trials(deepcopy=False):
            raise InvalidInputError(f"The study {where} was not made by hypergrad. Give another name.")
        # Another command makes it at this moment, or ended while it did.
        study.set_user_attr(_PLAN, wanted)
    elif held != wanted:
        what, before, now = _difference(held, wanted)
        raise InvalidInputError(
            f"The search {where} was begun with {what} {before}, not {now}. Resume it with that, or give another name."
        )
    return study


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first field that differs, and both values; of spaces, the first parameter."""
    for field in ("method", "seed"):
        if held.get(field) != wanted[field]:
            return f"the {field}", repr(held.get(field)), repr(wanted[field])
    before, now = held.get("space", {}), wanted["space"]
    name = next(n for n in [*before, *now] if before.get(n) != now.get(n))
    return f"the parameter {name!r}", before.get(name, "absent"), now.get(name, "absent")


def load_book(storage: str | None, name: str) -> Book:
    """Open a study that must be there.

    Raises:
        UnknownNameError: there is no such study in the storage.
        InvalidInputError: there is no storage, or it is damaged.
    """
    optuna = require("optuna", "A search", "search")
    if storage is None:
        raise InvalidInputError("A search in memory cannot be read later. Give the storage where it is kept.")
    with quiet():
        opened = open_storage(storage, create=False)
        try:
            names = [study.study_name for study in opened.get_all_studies()]
            if name not in names:
                found = ", ".join(map(repr, names)) or "none"
                raise UnknownNameError(f"There is no search {name!r} in {hidden(storage)}. Found: {found}.")
            return Book(opened, optuna.load_study(storage=opened, study_name=name), hidden(storage))
        except BaseException:
            close_storage(opened)
            raise


def _heartbeat(trial: Any) -> float:
    claimed = trial.user_attrs[CLAIM].get("time", 0.0)
    return float(trial.user_attrs.get(HEARTBEAT, claimed))
