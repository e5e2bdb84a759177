"""`hypergrad train --resume`, in this process and in real ones that are killed."""

import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypergrad import interruption
from hypergrad.cli import main
from hypergrad.vision.run import read_run

ROOT = Path(__file__).parents[2]
TINY = [
    "--data.train-size",
    "64",
    "--data.test-size",
    "40",
    "--epochs",
    "2",
    "--method.every",
    "2",
    "--batch-size",
    "16",
]
QUIET = ["--quiet", "--no-pictures"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypergrad.vision.run._commit", lambda: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *TINY, *QUIET, "--output", str(path)]) == 0
    return path


def same(a: Path, b: Path) -> bool:
    return all(
        (a / n).read_bytes() == (b / n).read_bytes() for n in ("model.safetensors", "policy.json", "config.json")
    )


def stopped(monkeypatch: pytest.MonkeyPatch, polls: int, *arguments: str) -> int:
    """The status of a command that finds a signal at its poll of that number."""
    count = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(interruption, "asked", lambda: signal.SIGTERM if next(count) >= polls else None)
        return main([*arguments])


def test_what_is_printed_goes_on(whole: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(monkeypatch, 3, "train", *TINY, "--no-pictures", "--output", "my run") == 75
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        "hypergrad: interrupted; a checkpoint is in my run, after 0 epochs; "
        "go on with: hypergrad train --resume 'my run'"
    )
    command = shlex.split(told.partition("go on with: hypergrad ")[2])
    assert main([*command, "--no-pictures"]) == 0
    assert "hypergrad: going on with the run in my run from its newest checkpoint" in capsys.readouterr().err
    assert same(Path("my run"), whole)
    assert main([*command, "--no-pictures"]) == 0
    assert capsys.readouterr().err == "hypergrad: the run in my run is finished; there is nothing to train\n"


def test_one_command_begins_and_goes_on(whole: Path, monkeypatch) -> None:
    command = ["train", *TINY, *QUIET, "--output", "a", "--resume"]
    assert stopped(monkeypatch, 3, *command) == 75
    assert stopped(monkeypatch, 3, *command) == 75
    assert main(command) == 0 and main(command) == 0
    assert same(Path("a"), whole) and len(read_run("a").environment["resumed"]) == 2
    assert not Path("a/checkpoints").exists()


def test_the_checkpoints_are_kept_if_asked_for() -> None:
    arguments = ["--keep-checkpoints", "--checkpoint-minutes", "0"]
    assert main(["train", *TINY, *QUIET, "--output", "a", *arguments]) == 0
    assert len(list(Path("a/checkpoints").glob("0*"))) == 2


def test_a_search_that_is_broken_off_leaves_nothing(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    method = ["--method", "faster-autoaugment", "--method.search-epochs", "1", "--method.subset", "32"]
    status = stopped(monkeypatch, 1, "train", *TINY[:6], *method, "--quiet", "--output", "a")
    assert status == 130 and not Path("a").exists()
    assert capsys.readouterr().err == "hypergrad: interrupted; nothing was written\n"


def test_settings_beside_resume(whole: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(monkeypatch, 3, "train", *TINY, *QUIET, "--output", "a") == 75
    for words, message in (
        (["--resume", "a", "--lr", "0.2"], r"a holds another run: lr was 0.05 and is 0.2"),
        (["--resume", "a", "--method", "standard"], r"method.name was 'madao' and is 'standard'"),
        (["--resume", "a", "--recipe", "cpu"], r"epochs was 2 and is 60"),
        (["--output", "a", "--resume", *TINY, "--seed", "4"], r"seed was 0 and is 4"),
        (["--resume", "a", "--output", "b"], r"--output b: a resumed run stays in its folder"),
        (["--resume", "b"], r"b is no run of hypergrad: it has no config.json"),
        (["--resume"], r"--resume needs to know the run"),
        (["--force"], r"--force is for resuming"),
        (["--resume", "a", "--checkpoint-minutes", "-1"], r"checkpoint_minutes must be a number"),
        (["--output", "a", *TINY], r"To go on with the run in it: --resume"),
    ):
        capsys.readouterr()
        assert main(["train", *words, "--quiet"]) == 2, words
        assert re.search(message, capsys.readouterr().err), words
    # What was so, and what does not matter.
    assert main(["train", "--resume", "a", *TINY, "--data.workers", "0", *QUIET]) == 0
    assert (Path("a") / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_force(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(monkeypatch, 3, "train", *TINY, *QUIET, "--output", "a") == 75
    assert main(["train", "--resume", "a", "--lr", "0.2", *QUIET]) == 2
    assert "--force forces it" in capsys.readouterr().err
    assert main(["train", "--resume", "a", "--lr", "0.2", "--force", *QUIET]) == 0
    assert json.loads(Path("a/config.json").read_text())["lr"] == 0.2


def process(*arguments: str) -> "subprocess.Popen[str]":
    code = "import torch; torch.set_num_threads(1); import sys; from hypergrad.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_kill_9_twice_then_a_signal(tmp_path: Path) -> None:
    """Real processes, ended at random instants after they have made a checkpoint."""
    settings = ["--data.train-size", "320", "--data.test-size", "40", "--epochs", "12", "--method.every", "2"]
    command = ["train", *settings, *QUIET, "--output", "ended", "--resume", "--checkpoint-minutes", "0"]
    generator = random.Random(0)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        before = checkpoints()
        with process(*command) as running:
            while running.poll() is None and checkpoints() <= before:
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 0.1))
            running.send_signal(number)
            _, told = running.communicate(timeout=60)
        assert running.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "go on with: hypergrad train --resume ended" in told
    assert main(command) == 0
    assert main(["train", *settings, *QUIET, "--output", "whole"]) == 0
    assert same(Path("ended"), Path("whole"))


def checkpoints() -> int:
    """The number of the newest."""
    return max((int(p.name) for p in Path("ended/checkpoints").glob("0*")), default=0)
