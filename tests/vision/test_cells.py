"""Cells that are runs: what is computed, what is used again, what is moved aside, and what is refused."""

import argparse
import dataclasses
import itertools
import json
import signal
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hypergrad import interruption
from hypergrad.errors import InvalidInputError
from hypergrad.interruption import Stopped
from hypergrad.vision import cells as module
from hypergrad.vision.cell_folder import run_cell
from hypergrad.vision.cells import Cell, cell_path, failure, is_finished, note, parse_seeds, run_cells
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.training import train
from hypergrad.vision.workers import Event

TINY: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 40, "validation": 30, "test_size": 50},
    "epochs": 2,
    "batch_size": 20,
}


def _cell(row: str = "standard", seed: int = 0, **changes: Any) -> Cell:
    return Cell(row, seed, TrainConfig(**{**TINY, "method": {"name": "standard"}, "seed": seed, **changes}))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells are computed in this process; the rows that were."""
    computed: list[str] = []

    def compute(missing: Sequence[Cell], output: Path, workers: int, extra: Any) -> Generator[Event, None, None]:
        for number, cell in enumerate(missing):
            yield Event("start", number)
            run_cell(cell, output, extra)
            computed.append(cell.row)
            yield Event("end", number)
            yield Event("tick")

    monkeypatch.setattr(module, "_compute", compute)
    return computed


def test_workers_compute_what_one_process_computes_and_tell_what_fails(tmp_path: Path) -> None:
    good, failing = _cell(), _cell("breaks down", lr=1e12, momentum=0.0, nesterov=False)
    refused = _cell("refused", batch_size=41)
    with pytest.raises(InvalidInputError, match=r"^refused, seed 0: batch_size=41 is larger"):
        run_cells([good, failing, refused], tmp_path, workers=1, quiet=True)
    assert is_finished(tmp_path, good) and is_finished(tmp_path, failing) and not is_finished(tmp_path, refused)
    runs = run_cells([good, failing], tmp_path, workers=1, quiet=True)
    expected = train(good.config, progress=False)
    result = runs["standard", 0].result
    assert result is not None and expected.test is not None
    assert result["test"]["error"] == expected.test.error
    assert [line["train_loss"] for line in runs["standard", 0].epochs] == [e.train_loss for e in expected.history]
    assert failure(runs["standard", 0]) is None
    assert runs["breaks down", 0].result is None
    assert "the loss is nan" in str(failure(runs["breaks down", 0])) and note(runs["breaks down", 0])["seconds"] > 0


def test_a_finished_cell_is_used_again_and_another_configuration_is_not(tmp_path: Path, here: list[str]) -> None:
    run_cells([_cell("a"), _cell("b")], tmp_path, workers=1, quiet=True)
    assert here == ["a", "b"]
    before = (tmp_path / "seed0" / "a" / "metrics.jsonl").read_bytes()
    run_cells([_cell("a"), _cell("b", lr=0.01), _cell("c")], tmp_path, workers=1, quiet=True)
    assert here == ["a", "b", "b", "c"]
    assert (tmp_path / "seed0" / "a" / "metrics.jsonl").read_bytes() == before
    aside = json.loads((tmp_path / "seed0" / "b~1" / "config.json").read_text())
    assert aside["lr"] == 0.05 and (tmp_path / "seed0" / "b~1" / "result.json").is_file()
    run_cells([_cell("b")], tmp_path, workers=1, quiet=True)
    assert sorted(p.name for p in (tmp_path / "seed0").iterdir()) == ["a", "b", "b~1", "b~2", "c"]


@pytest.mark.parametrize("damage", ["no result", "broken result", "another schema"])
def test_an_unfinished_run_is_run_again_in_its_place_and_a_broken_one_aside(
    tmp_path: Path, here: list[str], damage: str
) -> None:
    (first,) = run_cells([_cell()], tmp_path, workers=1, quiet=True).values()
    file = first.path / "result.json"
    if damage == "no result":
        file.unlink()
    else:
        file.write_text("{" if damage == "broken result" else '{"schema": 0}')
    (again,) = run_cells([_cell()], tmp_path, workers=1, quiet=True).values()
    clocks = {name: again.result[name] for name in ("seconds", "cpu_seconds", "wall_seconds")}
    assert again.result == first.result | clocks
    aside = tmp_path / "seed0" / "standard~1" / "config.json"
    assert aside.is_file() == (damage != "no result") and here == ["standard", "standard"]


def test_a_cell_that_was_interrupted_goes_on_from_its_checkpoint(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = run_cells([_cell()], tmp_path / "whole", workers=1, quiet=True).values()
    polls = itertools.count()
    monkeypatch.setattr(interruption, "asked", lambda: signal.SIGTERM if next(polls) >= 3 else None)
    with pytest.raises(Stopped):
        run_cells([_cell()], tmp_path, workers=1, quiet=True)
    monkeypatch.setattr(interruption, "asked", lambda: None)
    (again,) = run_cells([_cell()], tmp_path, workers=1, quiet=True).values()
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert again.environment["resumed"][0]["step"] == 2  # and the evaluation between was done again
    assert [p.name for p in (tmp_path / "seed0").iterdir()] == ["standard"]


def test_a_checkpoint_of_other_code_is_moved_aside(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = itertools.count()
    monkeypatch.setattr(interruption, "asked", lambda: signal.SIGTERM if next(polls) >= 3 else None)
    with pytest.raises(Stopped):
        run_cells([_cell()], tmp_path, workers=1, quiet=True)
    monkeypatch.setattr(interruption, "asked", lambda: None)
    monkeypatch.setattr("hypergrad.vision.run_identity.code_identity", lambda: {"hypergrad": "9"})
    (again,) = run_cells([_cell()], tmp_path, workers=1, quiet=True).values()
    assert "resumed" not in again.environment
    assert (tmp_path / "seed0" / "standard~1" / "checkpoints").is_dir()


def test_a_run_that_was_ended_while_its_folder_was_made_is_no_obstacle(tmp_path: Path, here: list[str]) -> None:
    (tmp_path / "seed0" / "standard" / "policies").mkdir(parents=True)
    (tmp_path / "seed0" / "standard" / ".hypergrad-0123.tmp").touch()
    (tmp_path / "seed1" / "standard").mkdir(parents=True)  # empty: nothing to move
    run_cells([_cell(), _cell(seed=1)], tmp_path, workers=1, quiet=True)
    assert here == ["standard", "standard"] and not (tmp_path / "seed1" / "standard~1").exists()


def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, here: list[str]) -> None:
    thesis = tmp_path / "seed0" / "standard" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    with pytest.raises(InvalidInputError, match=r"is in the place of a run, and is none \(it has no config.json\)"):
        run_cells([_cell()], tmp_path, workers=1, quiet=True)
    assert thesis.read_text() == "mine" and here == []


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([_cell("a b"), _cell("a_b")], r"'a b' and 'a_b' of seed 0 would share the folder"),
        ([_cell(), _cell()], r"'standard' and 'standard' of seed 0 would share"),
        ([Cell("a", 1, _cell().config)], r"'a' of seed 1 has a configuration of seed 0"),
    ],
)
def test_cells_that_cannot_be(tmp_path: Path, cells: list[Cell], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        run_cells(cells, tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_named_by_seed_and_row(tmp_path: Path) -> None:
    assert cell_path(tmp_path, _cell("wrn-28-2 madao: s=60", seed=3)) == tmp_path / "seed3" / "wrn-28-2_madao_s=60"


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("5,2", (5, 2)), ("7,", (7,)), ("0,1", (0, 1)), ("1", (0,))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1,1", "a", "1,-2", "1.5", ","])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a count"):
        parse_seeds(text)


def _search_cell(**changes: Any) -> Cell:
    return Cell("two random runs", 0, _cell(**changes).config, search="randaugment")


def test_a_search_is_a_cell_and_the_run_that_counts_is_its_result(tmp_path: Path, here: list[str]) -> None:
    (run,) = run_cells([_search_cell()], tmp_path, workers=1, quiet=True).values()
    folder = tmp_path / "seed0" / "two_random_runs"
    result = json.loads((folder / "result.json").read_text())
    errors = {row["run"]: row["value"] for row in result["attempts"]}
    assert len(errors) == 2 and run.path == folder / min(errors, key=errors.get)
    assert is_finished(tmp_path, _search_cell())
    assert not is_finished(tmp_path, _search_cell(lr=0.01)) and not is_finished(tmp_path, _cell("two random runs"))
    assert json.loads((folder / "cell.json").read_text())["row"] == "two random runs"
    assert not is_finished(tmp_path, dataclasses.replace(_search_cell(), trials=3))
    assert not is_finished(tmp_path, dataclasses.replace(_search_cell(), options={"num_operations": 1}))


def test_an_unfinished_search_is_continued_and_another_one_moved_aside(tmp_path: Path, here: list[str]) -> None:
    folder = tmp_path / "seed0" / "two_random_runs"
    run_cells([_search_cell()], tmp_path, workers=1, quiet=True)
    (folder / "result.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    assert not is_finished(tmp_path, _search_cell())
    run_cells([_search_cell()], tmp_path, workers=1, quiet=True)
    assert is_finished(tmp_path, _search_cell())
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")} == kept and len(kept) == 2
    run_cells([_search_cell(lr=0.01)], tmp_path, workers=1, quiet=True)
    assert (folder.with_name("two_random_runs~1") / "result.json").is_file() and len(here) == 3


def test_a_search_of_which_no_attempt_ends_is_a_failure(tmp_path: Path, here: list[str]) -> None:
    cell = _search_cell(lr=1e12, momentum=0.0, nesterov=False)
    assert run_cells([cell], tmp_path, workers=1, quiet=True) == {}
    assert is_finished(tmp_path, cell)
    assert "the loss is nan" in (tmp_path / "seed0" / "two_random_runs" / "failure.json").read_text()


def test_the_deadline_stops_what_runs_and_keeps_what_is_finished(tmp_path: Path, here: list[str]) -> None:
    readings = iter([0.0, 1.0, 2.0, 3.0, 4.0, 9.0])  # the start, then one an event; the sixth event is past 8
    cells = [_cell("a"), _cell("b"), _cell("c")]
    runs = run_cells(cells, tmp_path, workers=1, quiet=True, deadline=8.0, clock=lambda: next(readings))
    assert list(runs) == [("a", 0), ("b", 0)] and here == ["a", "b"]
    assert [is_finished(tmp_path, cell) for cell in cells] == [True, True, False]


def test_progress_says_when_it_ends(tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_cells([_cell("a"), _cell("b")], tmp_path, workers=1, predicted=[60.0, 60.0])
    out, err = capsys.readouterr()
    assert out == f"2 cells, 0 finished before: {tmp_path}\n"
    assert "[1/2] seed 0  a: test error " in err and "[2/2] seed 0  b" in err
    assert err.splitlines()[-1].startswith("thousandths of the time: 1000/1000")
