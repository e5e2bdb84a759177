"""Attempts of a search that fail or are killed go on from their checkpoints, at most so many times."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hypergrad.baselines import Attempt, Integer, search
from hypergrad.baselines.bookkeeping import load_book
from hypergrad.baselines.ledger import CLAIM
from hypergrad.baselines.storages import absolute
from hypergrad.errors import HypergradError, InvalidInputError, NonFiniteError
from hypergrad.vision import resuming
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import read_run
from hypergrad.vision.searching import read_searched, search_and_record
from tests.vision._counted import STEPS

ROOT = Path(__file__).parents[2]


def test_a_killed_attempt_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", str(tmp_path / "steps"))
    folder, run = tmp_path / "search", tmp_path / "search" / "trials" / "0000"
    line = [sys.executable, "-m", "tests.vision._counted", str(folder)]
    process = subprocess.Popen(line, cwd=ROOT)
    try:
        end = time.monotonic() + 120
        while not (run / "checkpoints" / "latest.json").is_file() and time.monotonic() < end:
            time.sleep(0.01)
        with closing(load_book(absolute(f"journal:{folder / 'journal.log'}"), "randaugment")) as book:
            (trial,) = [t for t in book.read().running() if t.user_attrs["cell"] == 0]
        killed = trial.user_attrs[CLAIM]["pid"]
        os.kill(killed, signal.SIGKILL)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
    steps = (tmp_path / "steps").read_text().split()
    before = steps.count(str(killed))
    assert 4 <= before < STEPS
    # All of both trainings, and again at most what came after the last checkpoint: an epoch, and one that was not due.
    assert 2 * STEPS <= len(steps) <= 2 * STEPS + 12
    assert sorted(p.name for p in (folder / "trials").iterdir()) == ["0000", "0001"]  # nothing was begun anew
    searched = read_searched(folder)
    assert searched.result["complete"] == 2 and searched.attempts[0]["state"] == "complete"
    again = train_and_record(TrainConfig.model_validate(read_run(run).config), tmp_path / "again", progress=False)
    tensors, whole = load_file(run / "model.safetensors"), again.model.state_dict()
    assert all(tensors[name].equal(whole[name]) for name in whole)


def test_a_failed_attempt_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "GUESS", 0.0)
    monkeypatch.setattr(resuming, "SHARE", 1e9)
    monkeypatch.setenv("STEPS", str(tmp_path / "steps"))
    failed, report = [], Attempt.report

    def full(attempt: Attempt, step: int, value: float) -> None:
        if step == 4 and attempt.number == 0 and len(failed) < 2:
            failed.append(step)
            raise OSError("no space left")
        report(attempt, step, value)

    monkeypatch.setattr(Attempt, "report", full)
    config = TrainConfig(
        model={"name": "tests.vision._counted:Net"}, data={"train_size": 32, "test_size": 20, "validation": 20},
        epochs=6, batch_size=16, threads=1, nesterov=False,
    )  # fmt: skip
    searched = search_and_record(config, "randaugment", tmp_path / "search", progress=False)
    assert failed == [4, 4] and [a["state"] for a in searched.attempts] == ["complete"] * 2
    steps = len((tmp_path / "steps").read_text().split())
    assert 24 <= steps <= 24 + 4, "at most an epoch a failure is taken again"
    with closing(load_book(absolute(f"journal:{tmp_path / 'search' / 'journal.log'}"), "randaugment")) as book:
        trials = [t for t in book.study.get_trials() if t.user_attrs["cell"] == 0]
    assert [t.state.name for t in trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert sorted(trials[-1].intermediate_values) == [1, 2, 3, 4, 5, 6], "the study has the whole curve"


SPACE = {"n": Integer(0, 2)}


def failing(error: Exception, tries: list[int], until: int = 10**6):
    def objective(params: dict, attempt: Attempt) -> float:
        if attempt.number == 1:
            tries.append(1)
            if len(tries) <= until:
                raise error
        return 1.0

    return objective


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_failed_cell_is_tried_so_many_times(tmp_path: Path, retries: int) -> None:
    tries: list[int] = []
    storage = f"journal:{tmp_path / 'journal.log'}"
    result = search(
        failing(OSError("disk"), tries), SPACE, method="grid", storage=storage, retries=retries, progress=False
    )
    assert len(tries) == 1 + retries
    assert result.missing == (1,) and result.attempts[1].error == "OSError: disk"
    with contextlib.suppress(HypergradError):
        search(
            failing(OSError("disk"), tries), SPACE, method="grid", storage=storage, retries=retries, resume=True,
            progress=False,
        )  # fmt: skip
    assert len(tries) == 2 + retries, "who asks again gets one more"


def test_a_cell_that_ends_well_is_not_tried_again() -> None:
    tries: list[int] = []
    result = search(failing(OSError("disk"), tries, 1), SPACE, method="grid", retries=5, progress=False)
    assert len(tries) == 2 and result.missing == ()


@pytest.mark.parametrize("error", [NonFiniteError("nan"), InvalidInputError("no")])
def test_what_would_fail_again_is_not_tried_again(error: Exception) -> None:
    tries: list[int] = []
    result = search(failing(error, tries), SPACE, method="grid", retries=3, progress=False)
    assert len(tries) == 1 and result.missing == (1,)


def test_retries_are_a_count() -> None:
    with pytest.raises(InvalidInputError, match="retries must be an integer of at least 0; got -1"):
        search(lambda p, a: 0.0, SPACE, method="grid", retries=-1, progress=False)
