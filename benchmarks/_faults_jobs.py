"""What runs in the processes that are killed: a training, a solve, a search worker, or a rank of a solve.

A job is a dictionary that JSON holds, so that the same job runs in a forked process and in one of its own:
``python _faults_jobs.py JOB`` (which is what torchrun starts, too).
"""

import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from _faults_probe import Probe, install

import hypergrad
from hypergrad.baselines import Attempt, Choice, Integer, search
from hypergrad.baselines import processes as liveness
from hypergrad.checkpoint import digest
from hypergrad.checkpoint.folder import Checkpoints
from hypergrad.cli import main
from hypergrad.vision import recording, resuming, run  # loaded here, so that a fork has them

assert recording is not None

#: Inner steps of the training (160 images in batches of 16, twice), and of the solve.
TRAIN_STEPS, SOLVE_STEPS = 20, 40
CELLS = {"a": Integer(0, 3), "b": Choice("x", "y", "z")}
STOPPED = 75


def run_job(job: dict[str, Any]) -> int:
    """Run a job in this process, which is its own; the exit status."""
    torch.set_num_threads(1)
    probe = Probe(job["probe"])
    install(probe, job)
    if job.get("forget"):
        _forget()
    return int(JOBS[job["kind"]](job))


@functools.cache
def warm_up(kind: str) -> None:
    """Run a job to its end in this process, so that the forks find everything imported and made."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        (Path(folder) / "run").mkdir()
        with contextlib.redirect_stdout(nowhere):
            JOBS[kind]({"kind": kind, "folder": f"{folder}/run", "each_step": True})


def _train(job: dict[str, Any]) -> int:
    run._commit = lambda: None  # git would take longer than the run
    minutes = "0"
    if not job["each_step"]:  # about half of the time for saving, at the ends of steps and epochs
        resuming.SHARE, resuming.GUESS, minutes = 0.5, 0.01, "1e-9"
    settings = ["--data.train-size", "160", "--data.test-size", "40", "--data.workers", "0", "--epochs", "2"]
    settings += ["--method.every", "2", "--batch-size", "16", "--method.operations", '["Rotate","Invert"]']
    where = ["--output", job["folder"], "--resume", "--checkpoint-minutes", minutes]
    return main(["train", *settings, *where, "--quiet", "--no-pictures"])


def _solve(job: dict[str, Any]) -> int:
    """With dropout, momentum, and a schedule; what it ends with goes to ``result.json``."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 2)
    )  # fmt: skip
    features = torch.randn(25, 4, generator=torch.Generator().manual_seed(1))
    data = hypergrad.KeyedBatches(features, (features.sum(1) > 0).long(), batch_size=7)
    problem = hypergrad.BilevelProblem.for_model(
        model, hypergrad.families.get("weight_decay", model=model), train_data=data, val_data=data
    )
    result = problem.solve(
        "neumann", outer_steps=SOLVE_STEPS // 2, inner_steps=2, checkpoint=Path(job["folder"]) / "checkpoints",
        checkpoint_every=0 if job["each_step"] else 0.05, progress=False,
        inner_optimizer=functools.partial(torch.optim.Adam, lr=0.01),
        outer_optimizer=functools.partial(torch.optim.Adam, lr=0.01),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.9),
    )  # fmt: skip
    if result.status == "interrupted":
        return STOPPED
    if job.get("rank", 0) == 0:
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "memory")} for row in result.rows()]
        tensors = {k: digest(v) for k, v in {**result.params, **result.hparams}.items()}
        (Path(job["folder"]) / "result.json").write_text(json.dumps({"tensors": tensors, "rows": rows}))
    return 0


def _rank(job: dict[str, Any]) -> int:
    """A rank of a solve: of ours, which meet in a file, or of torchrun's."""
    patience = timedelta(seconds=60)
    if "store" in job:
        store = torch.distributed.FileStore(job["store"], job["ranks"])
        torch.distributed.init_process_group(
            "gloo", store=store, rank=job["rank"], world_size=job["ranks"], timeout=patience
        )
    else:
        torch.distributed.init_process_group("gloo", timeout=patience)
        job = {**job, "rank": torch.distributed.get_rank()}
    status = _solve(job)
    torch.distributed.destroy_process_group()
    return status


def _search(job: dict[str, Any]) -> int:
    if "stale" in job:
        liveness.STALE = job["stale"]
    storage = job.get("storage") or f"journal:{job['folder']}/journal.log"
    result = search(
        functools.partial(attempt, Path(job["folder"]), job.get("slow", 0.0)),
        CELLS, method="grid", storage=storage, name=job.get("name", "faults"), resume=True, progress=False,
    )  # fmt: skip
    return 0 if not result.missing else 1


def attempt(folder: Path, slow: float, params: dict[str, Any], told: Attempt) -> float:
    """An objective whose beginnings can be counted."""
    with open(folder / "begun.log", "a", encoding="utf-8") as file:
        file.write(f"{told.number} {os.getpid()}\n")
    time.sleep(0.05 + slow)
    return value_of(params)


def value_of(params: dict[str, Any]) -> float:
    """What the objective returns for these parameters."""
    return float(params["a"] + 10 * "xyz".index(params["b"]))


def _forget() -> None:
    """The control of the harness: a resume that has lost the momentum, which must be found to differ."""
    load = Checkpoints.load

    def forgetful(self: Checkpoints, *, force: bool = False) -> Any:
        found = load(self, force=force)
        if found is not None and found.step:
            state = found.state.get("parts", found.state)
            for entry in state[next(k for k in ("inner_optimizer", "optimizer") if k in state)]["state"].values():
                for tensor in entry.values():
                    if isinstance(tensor, torch.Tensor) and tensor.ndim:
                        tensor.zero_()
        return found

    Checkpoints.load = forgetful  # type: ignore[method-assign]


JOBS = {"train": _train, "solve": _solve, "rank": _rank, "search": _search}

if __name__ == "__main__":
    sys.exit(run_job(json.loads(sys.argv[1])))
