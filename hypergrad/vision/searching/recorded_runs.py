"""Runs that were found otherwise, beside a search's attempts: the hypergradient's own result on Optuna's dashboard."""

import json
from pathlib import Path
from typing import Any

from hypergrad import baselines
from hypergrad.errors import InvalidInputError
from hypergrad.files import Field, Pathlike, read_json, write_atomically
from hypergrad.vision.config import Standard, TrainConfig
from hypergrad.vision.run import Recorded, read_run
from hypergrad.vision.searching.attempt_run import measured
from hypergrad.vision.searching.differences import first_difference
from hypergrad.vision.searching.plan import SCHEMA, Plan, read_plan

_FILE = "recorded.json"
#: Settings that change where and how fast a run is, but not what it is compared on.
_FREE = ("recipe", "device", "threads", "compile", "channels_last", "eval_batch_size", "method")


def record_run(search: Pathlike, run: Pathlike) -> dict[str, Any]:
    """Record a finished run as a complete trial of a search's study; it never counts as an attempt.

    A learned policy is a point of the search ``tpe``: pi, over its largest value in the stage, are the selection
    weights. The trial's notes hold the run's folder, method, cost and test error.

    Args:
        search: a search's folder, with at least one attempt begun.
        run: the run's folder.

    Returns:
        What was recorded: ``run``, ``method``, ``value`` (the validation error in percent) and the cost.

    Raises:
        InvalidInputError: the run is not finished, it is recorded already, it was trained on other data, another
            network or for other epochs than the search's attempts, or its policy is no point of the search's space.
    """
    folder = Path(search).absolute()
    plan = read_plan(folder)
    found = read_run(Path(run))
    check_comparable(plan, folder, found)
    held = read_recorded(folder)
    if is_recorded(folder, run):
        raise InvalidInputError(f"{run} is recorded in {search} already.")
    assert found.result is not None
    method = found.config["method"]["name"]
    value = float(found.result["val"]["error"])
    row = {"run": _name(run), "method": method, "value": value, **measured(found.result)}
    baselines.record(
        plan.url(folder),
        plan.study,
        plan.settled.parameters(found),
        value,
        space=plan.settled.space(plan.seed),
        notes={key: note for key, note in row.items() if key != "value"},
    )
    write_atomically(folder / _FILE, json.dumps({"schema": SCHEMA, "runs": [*held, row]}, indent=2) + "\n")
    return row


def read_recorded(folder: Path) -> list[dict[str, Any]]:
    """What was recorded beside the attempts of the search in ``folder``."""
    if not (folder / _FILE).is_file():
        return []
    return [row.value for row in read_json(folder / _FILE).member("runs").items()]


def is_recorded(folder: Path, run: Pathlike) -> bool:
    """Whether the run is recorded beside the attempts of the search in ``folder``."""
    return any(row["run"] == _name(run) for row in read_recorded(folder))


def _name(run: Pathlike) -> str:
    return str(Path(run).absolute())


def check_comparable(plan: Plan, folder: Path, run: Recorded) -> None:
    """Check that a run is finished, a point of the search's space, and differs from its attempts by the method alone.

    Raises:
        InvalidInputError: it is not; the message says why.
    """
    if run.result is None:
        raise InvalidInputError(f"{run.path} is not finished: it has no result.json. Wait for it, or train it again.")
    measures = Field(str(run.path / "result.json"), "", run.result)
    for name in ("seconds", "search_seconds", "passes", "search_passes"):
        measures.member(name).number(0)
    measures.member("val").member("error").number(0, 100)
    measures.member("test")
    try:
        held = TrainConfig.model_validate(run.config).model_copy(update={"method": Standard()})
    except ValueError as error:
        raise InvalidInputError(
            f"{run.path / 'config.json'} is no configuration of a run: {' '.join(str(error).split())}. Train it again."
        ) from error
    differing = first_difference(_compared(plan.config), _compared(held))
    if differing is not None:
        key, wanted, got = differing
        raise InvalidInputError(
            f"{run.path} cannot be compared with the search in {folder}: {key} is {got!r} there, and {wanted!r} in the "
            "search. Train it with the search's settings."
        )
    plan.settled.parameters(run)


def _compared(config: TrainConfig) -> dict[str, Any]:
    content = config.model_dump(mode="json", exclude=set(_FREE))
    # Where the files lie, and how many processes read them.
    del content["data"]["root"], content["data"]["workers"]
    return content
