"""The fault harness (``benchmarks/faults.py``), a few faults of each kind: nothing is lost, and the control is seen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the harness forks as Linux does")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A process of its own: this one may have threads, and cannot be forked."""
    prefix = tmp_path_factory.mktemp("faults") / "faults"
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--smoke", "--output", str(prefix)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    assert prefix.with_suffix(".png").stat().st_size > 10_000 and "| fault |" in prefix.with_suffix(".md").read_text()
    return json.loads(prefix.with_suffix(".json").read_text())


def trials(result: dict[str, Any], group: str, fault: str) -> list[dict[str, Any]]:
    return [t for t in result[group]["trials"] if t["fault"] == fault for _ in range(t["times"])]


@pytest.mark.parametrize("kind", ["train", "solve"])
@pytest.mark.parametrize(
    ("fault", "tried", "most"),
    [
        ("kill -9", 3, None),
        ("kill -9 before a change of a file", 3, 1),
        ("kill -9 until it is done", 1, None),
        ("SIGTERM", 2, 0),
        ("SIGINT", 1, 0),
        ("second signal", 1, None),
    ],
)
def test_a_run_goes_on_to_the_same_bits(result: dict[str, Any], kind: str, fault: str, tried: int, most: Any) -> None:
    found = trials(result, kind, fault)
    assert len(found) == tried and all(t["survived"] for t in found)
    assert most is None or max(t["steps"] for t in found) <= most  # it saves after each step


def test_a_full_disk_stops_nothing_that_could_go_on(result: dict[str, Any]) -> None:
    for kind in ("train", "solve"):
        found = [*trials(result, kind, "full disk"), *trials(result, kind, "full disk, as if")]
        assert len(found) == 1 and all(t["survived"] for t in found), found


@pytest.mark.parametrize(
    ("fault", "least"),
    [
        ("byte of state.json changed", 50),
        ("byte of manifest.json changed", 50),
        ("byte of the tensors changed", 30),
        ("file cut short", 9),
        ("end of a file zeroed", 9),
        ("file missing", 3),
        ("byte of latest.json changed", 1),
        ("all checkpoints damaged: said", 1),
        ("torn after a kill, resumed", 1),
    ],
)
def test_damaged_files_are_passed_over(result: dict[str, Any], fault: str, least: int) -> None:
    found = trials(result, "files", fault)
    assert len(found) >= least and all(t["survived"] for t in found)


@pytest.mark.parametrize(
    ("group", "fault", "tried"),
    [
        ("search", "kill -9 of a search worker", 3),
        ("search", "search worker stalled", 1),
        ("ranks", "kill -9 of a rank", 2),
        ("ranks", "SIGTERM to one rank", 1),
        ("ranks", "slow rank", 2),
    ],
)
def test_workers_and_ranks(result: dict[str, Any], group: str, fault: str, tried: int) -> None:
    found = trials(result, group, fault)
    assert len(found) == tried and all(t["survived"] for t in found)


def test_the_harness_sees_a_resume_that_forgets_the_momentum(result: dict[str, Any]) -> None:
    found = trials(result, "control", "control: momentum lost")
    assert len(found) == 2 and not any(t["survived"] for t in found)
    assert all("differs" in t["note"] for t in found)
