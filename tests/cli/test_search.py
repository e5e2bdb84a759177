"""``hypergrad search``: what it prints and leaves, how it goes on after a stop, and what it refuses."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hypergrad import baselines
from hypergrad.cli import main
from hypergrad.cli.searching import search_parser
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.run import RunDirectory, read_run
from hypergrad.vision.searching import read_searched, search_names

pytest.importorskip("optuna")

TINY = ["--data.train-size", "60", "--data.test-size", "40", "--epochs", "1", "--batch-size", "20"]
RANDOM = ["search", "--search", "randaugment-random", *TINY]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished search of two attempts, and a run of MADAO by the same settings."""
    path = tmp_path_factory.mktemp("folders")
    assert main([*RANDOM, "--trials", "2", "--output", str(path / "s"), "--quiet"]) == 0
    run = ["train", *TINY, "--method.every", "2", "--output", str(path / "run"), "--quiet", "--no-pictures"]
    assert main(run) == 0
    return path / "s", path / "run"


def test_the_list_names_every_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == search_names()
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines[1:])


PAGE = Path(__file__).parents[2] / "docs" / "search.md"
COMMANDS = re.findall(r"^hypergrad (search .*)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_is_accepted(line: str) -> None:
    parsed = search_parser()[0].parse_args(shlex.split(line, comments=True)[1:])
    assert parsed.list or parsed.resume or parsed.search in search_names()


def test_the_page_names_every_search() -> None:
    assert sorted(re.findall(r"^\| `(.*?)` \|", PAGE.read_text(), re.MULTILINE)) == search_names()


def test_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RANDOM, "--trials", "2"]) == 0
    out, err = capsys.readouterr()
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("digits-randaugment-random-")
    searched = read_searched(folder)
    lines = out.splitlines()
    for row, line in zip(searched.attempts, lines[1:3], strict=True):
        assert line.split()[0] == str(row["number"]) and f"{row['value']:.2f} %" in line
        numbers = row["params"]
        assert (
            f"num_operations {numbers['num_operations']}, magnitude {numbers['magnitude']}  " in line
            and line.endswith("complete")
        )
    said = dict(re.split(r"  +", line, maxsplit=1) for line in lines[4:])
    best = searched.best.result
    assert said["validation error"] == f"{best['val']['error']:.2f} %"
    assert said["test error"] == f"{best['test']['error']:.2f} %"
    assert said["best"].startswith(f"attempt {searched.result['best']}: ")
    assert said["cost"] == f"2 attempts, {searched.result['seconds']:.1f} s, {searched.result['passes']:.0f} passes"
    assert said["folder"] == str(folder)
    assert said["dashboard"] == f"optuna-dashboard {folder}/journal.log" and (folder / "journal.log").is_file()
    assert said["use it"] == f"hypergrad predict {folder}/trials/000{searched.result['best']} IMAGE..."
    assert "2/2 trainings" in err
    # The method is what the search sets; everything else is shared.
    configs = [TrainConfig(**read_run(folder / row["run"]).config) for row in searched.attempts]
    assert {c.method.name for c in configs} == {"randaugment"} and {c.epochs for c in configs} == {1}


def test_a_run_beside_it_and_a_budget_like_its(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = folders[1]
    words = ["search", "--search", "tpe", "--config", str(run / "config.json"), "--as-long-as", str(run)]
    assert main([*words, "--with-run", str(run), "--output", "s"]) == 0
    searched = read_searched("s")
    assert searched.plan["seconds"] == read_run(run).result["wall_seconds"]
    assert searched.result["seconds"] >= searched.plan["seconds"]
    assert sum(row["seconds"] for row in searched.attempts[:-1]) < searched.plan["seconds"]
    out = capsys.readouterr().out
    error = read_run(run).result["val"]["error"]
    assert f"recorded beside   {run} (madao): validation error {error:.2f} %" in out
    shown = r"\w+ 0\.\d\d \(p 0\.\d\d, mu 0\.\d\d\)"
    assert re.search(rf"^ +0  {shown}; {shown} ", out, re.MULTILINE)


def test_resume_needs_no_settings_and_a_larger_total_extends(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(folders[0])
    monkeypatch.setenv("HYPERGRAD_EPOCHS", "7")  # nothing is taken from it
    before = Path(folder, "result.json").read_bytes()
    assert main(["search", "--resume", folder, "--quiet"]) == 0
    assert capsys.readouterr() == (f"{folder}\n", "")
    assert Path(folder, "result.json").read_bytes() == before
    # What is repeated as it was is accepted.
    assert main([*RANDOM, "--trials", "2", "--output", folder, "--resume", folder, "--quiet"]) == 0
    assert main(["search", "--resume", folder, "--trials", "3", "--quiet"]) == 0
    searched = read_searched(folder)
    assert searched.result["complete"] == 3 and len(read_run(Path(folder) / "trials/0002").epochs) == 1


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    append = RunDirectory.append

    def stopped(self: RunDirectory, line: dict[str, object]) -> None:
        if self.path.name == "0001":
            raise KeyboardInterrupt
        append(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append", stopped)
        assert main([*RANDOM, "--trials", "3", "--output", "s", "--quiet"]) == 130
    said = "hypergrad: interrupted; s holds 1 of 3 attempts; go on with: hypergrad search --resume s\n"
    assert capsys.readouterr() == ("", said)
    # What is proposed can be done.
    assert main(said.partition("with: hypergrad ")[2].split()) == 0
    assert read_searched("s").result["complete"] == 3


def test_ctrl_c_before_anything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hypergrad.vision.searching.running.train", stop)
    assert main([*RANDOM, "--trials", "1", "--output", "s", "--quiet"]) == 130
    assert capsys.readouterr().err == "hypergrad: interrupted; nothing was written\n"
    assert not Path("s").exists()


def test_missing_attempts_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    finish = RunDirectory.finish

    def full(self: RunDirectory, result: dict[str, object]) -> None:
        if self.path.name == "0000":
            raise OSError(28, "No space left on device")
        finish(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "finish", full)
        assert main([*RANDOM, "--trials", "2", "--output", "s"]) == 1
    out, err = capsys.readouterr()
    assert "failed" in out and "No space left on device" in err and err.endswith("hypergrad search --resume s\n")
    assert main(["search", "--resume", "s", "--quiet"]) == 0


def test_another_command_is_at_the_rest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    search = baselines.search

    def left_some(*arguments: Any, **options: Any) -> baselines.SearchResult:
        return replace(search(*arguments, **{**options, "trials": 1}), missing=(1,))

    with monkeypatch.context() as patch:
        patch.setattr(baselines, "search", left_some)
        assert main([*RANDOM, "--trials", "2", "--output", "s", "--quiet"]) == 0
    assert "another command is at the attempts that are left" in capsys.readouterr().err
    assert read_searched("s").result is None
    assert main(["search", "--resume", "s", "--quiet"]) == 0
    assert read_searched("s").result["complete"] == 2


def test_a_search_in_which_everything_breaks_down(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "--search", "randaugment", *TINY, "--epochs", "2", "--lr", "1e30", "--output", "s", "--quiet"]
    assert main(words) == 2
    assert "the loss is " in capsys.readouterr().err


def killed(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """End the process by SIGKILL as soon as it is ready for that."""
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None and ready()
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_kill_9_and_resume() -> None:
    """With two workers; those end with the command. Then every attempt is complete exactly once."""
    options = ["--search-option", "bins=4", "--epochs", "3", "--output", "s", "--workers", "2", "--quiet"]
    command = [sys.executable, "-m", "hypergrad", "search", "--search", "randaugment-grid", *TINY, *options]
    finished = lambda: list(Path("s").glob("trials/*/result.json"))  # noqa: E731
    with subprocess.Popen(command) as process:
        killed(process, lambda: bool(finished()))
    assert not Path("s/result.json").exists()
    assert main(["search", "--resume", "s", "--quiet"]) == 0
    searched = read_searched("s")
    assert [(row["number"], row["state"]) for row in searched.attempts] == [(n, "complete") for n in range(4)]
    assert sorted(row["params"]["magnitude"] for row in searched.attempts) == [0, 1, 2, 3]
    for row in searched.attempts:
        assert read_run(Path("s") / row["run"]).result["val"]["error"] == row["value"]
    # As if nothing had happened.
    plain = [*command[3:], "--output", "plain", "--workers", "1"]
    assert main(plain) == 0
    assert [row["value"] for row in read_searched("plain").attempts] == [row["value"] for row in searched.attempts]


TABLE = {
    "search": "Give --search NAME or --resume DIR. There are: randaugment, randaugment-grid,",
    "search --search randaugmnt": "Unknown search 'randaugmnt'. Did you mean 'randaugment'?",
    "search --search randaugment --method madao": "A method was given (from the command line): the search sets how",
    "search --search randaugment --method.every 3": "A method was given (from the command line)",
    "search --search randaugment-random": "needs a budget: give trials (trainings in total) or seconds",
    "search --search randaugment --trials 0": "trials must be an integer of at least 1; got 0",
    "search --search randaugment --trials x": "argument --trials: invalid int value: 'x'",
    "search --search randaugment --trials 31": "only 30 different cells",
    "search --search randaugment --seconds -1": "seconds must be positive; got -1.0",
    "search --search randaugment --seconds 3 --as-long-as {run}": "--seconds and --as-long-as both set the time",
    "search --search randaugment --as-long-as nowhere": "nowhere is no run of hypergrad",
    "search --search randaugment --config {run}/config.json --with-run {run}": "only a run by randaugment",
    "search --search tpe --seconds 9 --config {run}/config.json --lr 3 --with-run {run}": "lr is 0.05 there",
    "search --search randaugment --workers 0": "workers must be an integer of at least 1; got 0",
    "search --search randaugment --search-option bins": "--search-option 'bins' cannot be read. Write KEY=VALUE",
    "search --search randaugment --search-option bin=3": "has no option 'bin' (got bin=3). Did you mean 'bins'?",
    "search --search randaugment --search-option bins=1": "bins must be an integer of at least 2; got 1",
    "search --search randaugment --epochs 0": "epochs: must be greater than or equal to 1; got '0'",
    "search --search randaugment --data mnist": "The data set 'mnist' needs a root",
    "search --search randaugment --recipe cppu": "Unknown recipe 'cppu'",
    "search --search randaugment --storage mongo://h": "got 'mongo://h'",
    "search --search randaugment --storage postgresql://u:pass@h/d": "Give postgresql://u@h/d, and the password in",
    "search --search randaugment --output {s}": "holds a search already. Continue it with resume=True (--resume",
    "search --search randaugment --output {run}": "exists and is not an empty folder",
    "search --resume nowhere": "nowhere is no search of hypergrad: it has no search.json",
    "search --resume {s} --epochs 3": "epochs was 1 when the search in {s} was begun, and is 3 now",
    "search --resume {s} --lr nix": "lr: must be a valid number",
    "search --resume {s} --search tpe": "--search was 'randaugment-random' when the search in",
    "search --resume {s} --search-seed 3": "--search-seed was 0 when",
    "search --resume {s} --pruning": "--pruning was False when",
    "search --resume {s} --search-option bins=9": "--search-option was RandomMagnitudes(most_operations=3, bins=30)",
    "search --resume {s} --storage journal:here": "--storage was 'journal:journal.log' when",
    "search --resume {s} --method madao": "A method was given",
    "search --resume {s} --output elsewhere": "a resumed search stays in its folder",
    "search --resume {s} --trials 1": "trials=1 is less than the",
    "search --resume {s} --seconds 3": "begun without a limit of seconds",
}


@pytest.mark.parametrize("line", TABLE)
def test_bad_input(line: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = {"s": folders[0], "run": folders[1]}
    before = sorted(folders[0].rglob("*"))
    assert main([*line.format(**names).split(), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert TABLE[line].format(**names) in err and not out
    assert all(text.startswith("hypergrad: error: ") for text in err.splitlines())
    assert not list(Path().iterdir()) and sorted(folders[0].rglob("*")) == before


def test_a_method_in_the_environment_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGRAD_METHOD__NAME", "madao")
    assert main(["search", "--search", "randaugment"]) == 2
    assert "A method was given (from the environment)" in capsys.readouterr().err


def test_a_recipe_and_a_file_lend_their_settings_without_their_method(folders: tuple[Path, Path]) -> None:
    content = json.loads((folders[1] / "config.json").read_text())
    assert content["method"]["name"] == "madao"
    Path("file.json").write_text(json.dumps(content))
    words = ["search", "--search", "randaugment", "--recipe", "cpu", "--config", "file.json", "--lr", "0.04"]
    assert main([*words, "--output", "s", "--quiet", "--trials", "1"]) == 0
    held = TrainConfig(**read_searched("s").plan["config"])
    wanted = TrainConfig(**{**content, "recipe": "cpu", "threads": 1, "lr": 0.04, "method": {"name": "standard"}})
    assert held.model_copy(update={"threads": 1}) == wanted
