"""What one run, or one search, contributes: the run that counts, and the cost of everything that was spent on it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hypergrad.errors import InvalidInputError
from hypergrad.files import Field
from hypergrad.report.sources import Source, read_object, read_optional
from hypergrad.report.values import Attempt, Cost
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.run import Recorded, read_run

#: Beside a run of a comparison or a benchmark: why it broke down, and what the study noted.
_FAILURE, _NOTES = "failure.json", ("cell.json", "benchmark.json")


@dataclass(frozen=True)
class Entry:
    """A method with a seed.

    Attributes:
        path: of the run's or the search's folder.
        kind: ``run`` or ``search``.
        name: of the method or of the search, or what a comparison called it.
        seed: of the run.
        config: every setting, with the defaults filled in.
        identity: the settings of the method or of the search, by which two entries are of the same method.
        run: the one that counts, of a search its best attempt; None where there is none yet.
        state: ``finished``, ``unfinished``, or ``failed`` (the loss was not finite any more).
        remark: why it is not finished.
        cost: of everything, all attempts of a search together; None unless it is finished.
        attempts: of a search.
        statuses: of the policy's solves.
        commit: of the code; None where it was not recorded.
        environment: hardware, versions and command.
    """

    path: Path
    kind: str
    name: str
    seed: int
    config: dict[str, Any] = field(repr=False)
    identity: dict[str, Any] = field(repr=False)
    run: Recorded | None = field(repr=False)
    state: str
    remark: str
    cost: Cost | None
    attempts: tuple[Attempt, ...] = ()
    statuses: dict[str, int] = field(default_factory=dict)
    commit: str | None = None
    environment: dict[str, Any] = field(default_factory=dict, repr=False)

    def result(self, *names: str) -> Any:
        """A member of the counting run's result, by the way to it; None where it is null or was not recorded."""
        value: Any = None if self.run is None else self.run.result
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_entry(source: Source) -> Entry:
    """Read a run's or a search's folder.

    Raises:
        InvalidInputError: a file is broken, or holds what no run has recorded; the message names it.
    """
    return _searched(source.path) if source.kind == "search" else _run(source.path)


def _run(path: Path) -> Entry:
    run = read_run(path)
    config = _complete(path / "config.json", run.config)
    failure, note = read_optional(path / _FAILURE), _note(path)
    state, remark, cost = "finished", "", None
    if failure is not None:
        state, remark = "failed", str(failure.get("error", "its loss was not finite"))
    elif run.result is None:
        state, remark = "unfinished", f"{len(run.epochs)} of {config['epochs']} epochs"
    else:
        cost = _cost(run)
    return Entry(
        path=path,
        kind="run",
        name=str(note.get("row") or config["method"]["name"]),
        seed=config["seed"],
        config=config,
        identity=config["method"],
        run=run,
        state=state,
        remark=remark,
        cost=cost,
        statuses=_statuses(run),
        commit=note.get("commit") or run.environment.get("commit"),
        environment=run.environment,
    )


def _searched(path: Path) -> Entry:
    plan = read_object(path / "search.json")
    whole = Field(str(path / "search.json"), "", plan)
    config = _complete(path / "search.json", whole.member("config").value)
    result, note = read_optional(path / "result.json"), _note(path)
    attempts = _attempts(path, result) if result is not None else ()
    best = _best(path, result)
    state, remark = "finished", ""
    if result is None:
        done = sum(1 for _ in path.glob("trials/[0-9][0-9][0-9][0-9]/result.json"))
        asked = plan.get("trials")
        state, remark = "unfinished", f"{done} attempts are done" if asked is None else f"{done} of {asked} attempts"
    elif result.get("best") is None:
        state, remark = "failed", "no attempt of the search is complete"
    elif best is None:
        state, remark = "unfinished", f"the folder of its best attempt, number {result['best']}, is not here"
    own = {} if best is None else best.environment
    return Entry(
        path=path,
        kind="search",
        name=str(note.get("row") or whole.member("search").text()),
        seed=config["seed"],
        config=config,
        # Not the space, which may be drawn by the seed, nor a budget in seconds, which is another run's.
        identity={name: plan.get(name) for name in ("search", "options", "method", "trials", "pruning")},
        run=best,
        state=state,
        remark=remark,
        cost=None if best is None or result is None else _search_cost(path, attempts, best, result),
        attempts=attempts,
        statuses={} if best is None else _statuses(best),
        commit=note.get("commit") or own.get("commit"),
        environment=own,
    )


def _complete(file: Path, config: Any) -> dict[str, Any]:
    """Every setting, so that a setting which came later has the default that the code had before."""
    try:
        complete: dict[str, Any] = TrainConfig.model_validate(config).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(
            f"{file}: {place or 'the content'}: {first['msg']}. It was not written by this version of hypergrad; leave "
            "the folder out."
        ) from error
    return complete


def _note(path: Path) -> dict[str, Any]:
    return next((note for name in _NOTES if (note := read_optional(path / name)) is not None), {})


def _statuses(run: Recorded) -> dict[str, int]:
    return dict(sorted(Counter(str(u["status"]) for u in run.updates if u.get("status") is not None).items()))


def _cost(run: Recorded) -> Cost:
    result = Field(str(run.path / "result.json"), "", run.result)
    optional = {name: _number(result, name) for name in ("search_seconds", "cpu_seconds", "passes", "search_passes")}
    return Cost(
        seconds=result.member("seconds").number(0),
        search_seconds=optional["search_seconds"] or 0.0,
        cpu_seconds=optional["cpu_seconds"],
        passes=optional["passes"],
        search_passes=(optional["search_passes"] or 0.0) if optional["passes"] is not None else None,
    )


def _number(result: Field, name: str) -> float | None:
    """None where an earlier version did not record it."""
    return result.member(name).number(0) if result.value.get(name) is not None else None


def _attempts(path: Path, result: dict[str, Any]) -> tuple[Attempt, ...]:
    found = []
    listed = Field(str(path / "result.json"), "", result).member("attempts")
    for one in listed.items() if listed.value else []:
        value = one.member("value").value
        params = one.member("params")
        if params.value is not None and not isinstance(params.value, dict):
            raise params.error("an object with the values by name, or null")
        found.append(
            Attempt(
                number=one.member("number").integer(0),
                state=one.member("state").text(),
                value=None if value is None else one.member("value").number(),
                seconds=one.member("seconds").number(0),
                params=dict(params.value or {}),
                best=one.member("number").value == result.get("best"),
            )
        )
    return tuple(found)


def _best(path: Path, result: dict[str, Any] | None) -> Recorded | None:
    """The counting run; None where there is none, or where another machine has it."""
    if result is None or result.get("best") is None:
        return None
    file = str(path / "result.json")
    for attempt in Field(file, "", result).member("attempts").items():
        if attempt.member("number").value == result["best"]:
            folder = attempt.member("run").value
            if folder is not None and (".." in Path(attempt.member("run").text()).parts or Path(folder).is_absolute()):
                raise attempt.member("run").error("a folder within the search's")
            return None if folder is None else read_run(path / folder)
    raise InvalidInputError(f"{file}: best is {result['best']!r}, and there is no attempt of that number. Search anew.")


def _search_cost(path: Path, attempts: tuple[Attempt, ...], best: Recorded, result: dict[str, Any]) -> Cost:
    """Of all attempts: the counting run's training, and everything else as the cost of the search."""
    own = _cost(best)
    seconds, cpu = 0.0, 0.0
    measured = True
    for attempt, listed in zip(attempts, result["attempts"], strict=True):
        folder = path / str(listed["run"]) if listed.get("run") else None
        if folder is not None and (folder / "result.json").is_file():
            cost = _cost(read_run(folder))
            seconds += cost.seconds + cost.search_seconds
            cpu += cost.cpu_seconds or 0.0
            measured = measured and cost.cpu_seconds is not None
        else:  # pruned or failed: it leaves no result, and its time was noted by the search
            seconds += attempt.seconds
            measured = False
    passes = Field(str(path / "result.json"), "", result)
    total = _number(passes, "passes")
    return Cost(
        seconds=own.seconds,
        search_seconds=seconds - own.seconds,
        cpu_seconds=cpu if measured else None,
        passes=own.passes,
        search_passes=None if total is None or own.passes is None else total - own.passes,
    )
