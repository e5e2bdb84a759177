"""What is done and what is missing, read from a study's trials.

A *cell* is a number from 0 on; a trial belongs to the cell that its user attribute ``cell`` names. A cell is decided
when one of its trials is COMPLETE or PRUNED. Of the trials that have not failed the one with the lowest number counts:
where two commands made the same cell at once, the storage has ordered them, and everyone who sees the second sees the
first as well. Trials without the attribute (results found otherwise) are nobody's cell.
"""

import math
from collections.abc import Sequence
from typing import Any

from hypergrad.baselines.attempt import CELL, RESERVED, Finished, State
from hypergrad.errors import InvalidInputError
from hypergrad.files import short

#: User attributes of the search itself.
CLAIM, HEARTBEAT, SECONDS, ERROR, ASIDE, FINAL = (
    RESERVED + key for key in ("claim", "heartbeat", "seconds", "error", "set aside", "final")
)
_STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class Ledger:
    """A reading of a study.

    Args:
        trials: all of them, as Optuna's ``FrozenTrial``.

    Raises:
        InvalidInputError: a trial holds what no search writes: the storage was damaged, or written to by hand.
    """

    def __init__(self, trials: Sequence[Any]) -> None:
        self._cells: dict[int, list[Any]] = {}
        self.recorded = 0
        for trial in sorted(trials, key=lambda t: t.number):
            _check(trial)
            if CELL in trial.user_attrs:
                self._cells.setdefault(int(trial.user_attrs[CELL]), []).append(trial)
            else:
                self.recorded += 1

    def next_cell(self) -> int:
        """The first number above all cells that there are."""
        return max(self._cells, default=-1) + 1

    def counting(self, cell: int) -> Any:
        """The trial that counts for a cell; None where there is none, or all failed."""
        return next((t for t in self._cells.get(cell, []) if t.state.name != "FAIL"), None)

    def running(self) -> list[Any]:
        """Every RUNNING trial of a cell."""
        return [t for trials in self._cells.values() for t in trials if t.state.name == "RUNNING"]

    def waiting(self, limit: float = math.inf) -> list[Any]:
        """The trials that can be claimed, by cell, below a limit."""
        counting = [self.counting(cell) for cell in sorted(self._cells) if cell < limit]
        return [t for t in counting if t is not None and t.state.name == "WAITING"]

    def doubles(self) -> list[Any]:
        """WAITING trials of cells for which another trial counts."""
        return [
            t
            for cell, trials in self._cells.items()
            for t in trials
            if t.state.name == "WAITING" and t is not self.counting(cell)
        ]

    def open_cells(self, total: int) -> list[int]:
        """The cells below ``total`` that no trial stands for: not begun, or failed."""
        return [cell for cell in range(total) if self.counting(cell) is None]

    def retriable(self, retries: int, limit: float = math.inf) -> list[int]:
        """The cells below a limit whose trials all failed, at most ``retries`` times, and might end otherwise."""
        found = []
        for cell, trials in sorted(self._cells.items()):
            tries = [t for t in trials if ASIDE not in t.user_attrs]
            last = tries[-1] if tries else None
            if cell < limit and self.counting(cell) is None and last is not None and FINAL not in last.user_attrs:
                found += [cell] if len(tries) <= retries else []
        return found

    def missing(self, total: int) -> tuple[int, ...]:
        """The cells below ``total`` that are not decided."""
        decided = {a.number for a in self.attempts() if a.state != "failed"}
        return tuple(cell for cell in range(total) if cell not in decided)

    def attempts(self) -> tuple[Finished, ...]:
        """What has ended, one a cell, by cell: what counts; else what failed last."""
        ended = []
        for cell in sorted(self._cells):
            trial = self.counting(cell)
            if trial is None:
                failed = [t for t in self._cells[cell] if ASIDE not in t.user_attrs]
                trial = failed[-1] if failed else None
            if trial is not None and trial.state.is_finished():
                ended.append(finished(trial))
        return tuple(ended)

    def seconds(self) -> float:
        """Of the attempts, summed."""
        return math.fsum(a.seconds for a in self.attempts())


def _check(trial: Any) -> None:
    attributes = trial.user_attrs
    if CELL not in attributes:
        return
    claim = attributes.get(CLAIM, {})
    numbers = [attributes.get(SECONDS, 0), attributes.get(HEARTBEAT, 0), *trial.intermediate_values.values()]
    if isinstance(claim, dict):
        numbers += [claim.get("time", 0), claim.get("pid", 0)]
    counts = [attributes[CELL], *trial.intermediate_values]
    right = (
        isinstance(claim, dict)
        and all(type(n) is int and 0 <= n < 1 << 31 for n in counts)
        and all(type(n) in (int, float) and (abs(n) < 1e300 or n != n) for n in numbers)
        and (
            trial.state.name != "COMPLETE"
            or (trial.values is not None and [type(v) for v in trial.values] in ([float], [int]))
        )
    )
    if not right:
        raise InvalidInputError(
            f"Trial {trial.number} of the study holds what no search writes: {short(attributes, 200)}. The storage was "
            "damaged, or written to by hand: begin anew in another one."
        )


def finished(trial: Any) -> Finished:
    """A trial that has ended, in our terms."""
    attributes, state = trial.user_attrs, _STATES[trial.state.name]
    return Finished(
        number=int(attributes[CELL]),
        params=dict(trial.params),
        value=float(trial.value) if state == "complete" else None,
        state=state,
        seconds=float(attributes.get(SECONDS, 0.0)),
        notes={k: v for k, v in attributes.items() if k != CELL and not k.startswith(RESERVED)},
        error=attributes.get(ERROR) if state == "failed" else None,
        reports=dict(sorted(trial.intermediate_values.items())),
    )


def best_of(attempts: Sequence[Finished]) -> Finished | None:
    """The complete attempt of the lowest value; of equal ones that of the lowest number."""
    complete = [a for a in attempts if a.value is not None]
    return min(complete, key=lambda a: (a.value, a.number), default=None)
