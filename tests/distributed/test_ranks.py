"""Two and three ranks with unequal shards against one process on the joint batch, in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

#: Checks whose numbers are relative errors against one process.
EQUAL = ("solver", "estimator", "families", "batch_norm", "solve", "sub_batch", "ddp")
#: Checks whose numbers are 1 where what was wanted has happened.
HAPPENED = ("stop", "resume", "mismatch", "nonfinite", "refused")


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def ranks(request, tmp_path_factory):
    """The numbers of each rank; all checks in one start of the processes, because each imports for seconds."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = []
    for rank in range(request.param):
        with open(folder / f"{rank}.log", "wb") as log:
            command = [sys.executable, str(HERE / "_rank.py"), str(rank), str(request.param), str(folder), "_checks"]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        for process in processes:
            process.wait(timeout=180)
    finally:
        for process in processes:
            process.kill()
    found = []
    for rank in range(request.param):
        path = folder / f"{rank}.json"
        assert path.exists(), (folder / f"{rank}.log").read_text()
        found.append(json.loads(path.read_text()))
        assert "error" not in found[-1], f"rank {rank}, {found[-1]['error']}"
    return found


def numbers(ranks, check):
    return [(rank, name, value) for rank, found in enumerate(ranks) for name, value in found[check].items()]


@pytest.mark.parametrize("check", EQUAL)
def test_it_is_what_one_process_has_on_the_joint_batch(ranks, check):
    found = numbers(ranks, check)
    assert found
    for rank, name, value in found:
        # Differences of gradients in float64 have a rounding of about 1e-10 themselves.
        assert value < (1e-8 if name == "finite-difference" else 1e-10), (rank, name, value)


@pytest.mark.parametrize("check", HAPPENED)
def test_all_ranks_stop_agree_and_refuse_together(ranks, check):
    found = numbers(ranks, check)
    assert found
    for rank, name, value in found:
        assert value == 1, (rank, name)


@pytest.mark.parametrize("left", ["inner gradient", "outer vector", "product", "cross term", "direct term"])
def test_without_any_one_of_the_five_reductions_it_is_wrong(ranks, left):
    for found in ranks:
        assert found["left_out"][left] > 1e-6
        assert found["left_out"]["none"] < 1e-10
        assert found["left_out"]["inner gradient, found"] == 1
