"""`torchrun -m hypergrad train`, with real processes that are killed and started again."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hypergrad.cli import main
from hypergrad.vision.run import read_run

ROOT = Path(__file__).parents[2]
TINY = [
    *("--data.train-size", "60", "--data.test-size", "40", "--epochs", "3"),
    *("--method.every", "2", "--batch-size", "15", "--threads", "1"),
]
QUIET = ["--quiet", "--no-pictures", "--checkpoint-minutes", "0"]


def torchrun(*arguments: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HYPERGRAD_")}
    return subprocess.Popen(
        [*command, "-m", "hypergrad", "train", *map(str, arguments), *QUIET],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        return (process.communicate(timeout=120)[1], process.returncode)[::-1]
    finally:
        process.kill()


def wait_for(run: Path, lines: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < lines:
        assert time.monotonic() < until and process.poll() is None, ended(process)
        time.sleep(0.02)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two ranks, and never stopped."""
    path = tmp_path_factory.mktemp("torchrun") / "whole"
    status, error = ended(torchrun(*TINY, "--output", path))
    assert status == 0, error
    return path


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the ranks' numbers are read from /proc")


@needs_proc
def test_after_kill_9_of_a_rank_all_are_started_again_and_have_the_same_bits(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = torchrun(*TINY, "--output", path, "--resume", options=("--max-restarts", "1"))
    wait_for(path, 3, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    status, error = ended(process)
    assert status == 0, error
    for name in ("model.safetensors", "policy.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    assert len(read_run(path).epochs) == 3
    assert len(read_run(path).environment["resumed"]) == 1
    assert error.count("hypergrad: error: lost contact with another rank") == 1
    assert "Traceback" not in error


@needs_proc
def test_sigterm_saves_and_one_process_goes_on_to_the_same_numbers(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    process = torchrun(*TINY, "--output", path, options=("--nnodes", "1", "--rdzv-backend", "c10d"))
    wait_for(path, 3, process)
    process.send_signal(signal.SIGTERM)
    status, error = ended(process)
    assert status == 1  # torchrun's own, of whatever its ranks end with
    assert len(re.findall("hypergrad: interrupted; a checkpoint is in", error)) == 1
    assert (path / "checkpoints" / "latest.json").exists() and not (path / "result.json").exists()

    monkeypatch.setattr("hypergrad.vision.run._commit", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # shown, as for a user, and not raised
        assert main(["train", "--resume", str(path), *QUIET]) == 0
    assert "hypergrad: warning: The checkpoint was made by 2 ranks, and there is 1 now" in capsys.readouterr().err
    found, wanted = load_file(path / "model.safetensors"), load_file(whole / "model.safetensors")
    for name, tensor in wanted.items():
        # Sums over a batch in another order, in float32.
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


def test_an_error_on_one_rank_is_told_once_and_ends_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("do not touch")  # only the first rank looks into the folder
    start = time.monotonic()
    status, error = ended(torchrun(*TINY, "--output", tmp_path / "run"))
    assert status == 1
    assert re.findall("^hypergrad.*error.*$", error, re.MULTILINE) == [
        f"hypergrad: error: {tmp_path / 'run'} exists and is not an empty folder. Name another --output, or remove it."
    ]
    assert time.monotonic() - start < 60  # the others do not wait until a collective times out
    shutil.rmtree(tmp_path / "run")
