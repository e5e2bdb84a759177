"""One rank of ``scaling.py``: ``_scaling_rank.py SETUP FOUND RANK RANKS``."""

import functools
import gc
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

import hypergrad
from hypergrad.distributed import alone, barrier, gather
from hypergrad.solvers.neumann import Neumann
from hypergrad.vision.models import build_model

#: Of the Neumann series, and of the weight decay of each tensor.
ALPHA, DECAY = 1e-3, 5e-4
WORKS = ("inner step", "hypergradient")


def works(setup: dict[str, Any], whole: bool, rank: int, ranks: int) -> tuple[dict[str, Callable[[], Any]], int, int]:
    """An inner step and a hypergradient, on the whole batch or on this rank's part; P and H."""
    torch.manual_seed(setup["seed"])
    model = build_model("wrn-16-1", num_classes=10, channels=3, image_size=32, norm="group")
    train, val = ((torch.rand(setup["batch"], 3, 32, 32), torch.randint(10, (setup["batch"],))) for _ in range(2))
    if not whole:
        train, val = (tuple(t.tensor_split(ranks)[rank] for t in batch) for batch in (train, val))
    family = hypergrad.families.get("weight_decay", model=model, per="parameter", initial=DECAY)
    solver = Neumann(alpha=ALPHA, num_hvps=setup["num_hvps"])
    stepper = hypergrad.BilevelProblem.for_model(model, family).stepper(
        functools.partial(torch.optim.Adam, lr=1e-3), solver, every=10**9, on_failure="ignore"
    )
    # Its learning rate is 0, so that both ways measure at the same point for ever.
    sgd = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def inner() -> float:
        sgd.zero_grad()
        loss = stepper.loss(train)
        loss.backward()
        stepper.reduce_gradients(train)
        sgd.step()
        stepper.step(train)
        return float(loss.detach())

    def outer() -> Tensor:
        found = stepper.hypergradient(train, val)
        return torch.cat([g.flatten() for g in found.grads.values()])

    sizes = sum(p.numel() for p in model.parameters()), sum(h.numel() for h in family.parameters())
    return {"inner step": inner, "hypergradient": outer}, *sizes


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call in this process."""
    gc.collect()
    barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def traffic(work: Callable[[], Any]) -> dict[str, int]:
    """The collectives of one call: how many, and the elements that they carry."""
    found = {"reductions": 0, "elements": 0, "gathers": 0}
    reduce, together = distributed.all_reduce, distributed.all_gather

    def reducing(tensor: Tensor, *rest: Any, **more: Any) -> Any:
        found["reductions"] += 1
        found["elements"] += tensor.numel()
        return reduce(tensor, *rest, **more)

    def gathering(*rest: Any, **more: Any) -> Any:
        found["gathers"] += 1
        return together(*rest, **more)

    distributed.all_reduce, distributed.all_gather = reducing, gathering
    try:
        work()
    finally:
        distributed.all_reduce, distributed.all_gather = reduce, together
    return found


def main(setup: dict[str, Any], path: Path, rank: int, ranks: int) -> None:
    """Every round: one process with the whole batch, and all with their parts."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(path.with_name("store")), ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    whole, p, h = works(setup, True, rank, ranks)
    parts, _, _ = works(setup, False, rank, ranks)

    def one(name: str) -> dict[str, float]:
        barrier()
        wall = cpu = 0.0
        if rank == 0:
            with alone():
                wall, cpu = timed(whole[name])
        barrier()
        return {"wall": wall, "cpu": cpu}

    def several(name: str) -> dict[str, float]:
        wall, cpu = timed(parts[name])
        every = gather([round(1e9 * wall), round(1e9 * cpu)])
        return {"wall": max(row[0] for row in every) / 1e9, "cpu": sum(row[1] for row in every) / 1e9}

    found: dict[str, Any] = {name: {"traffic": traffic(parts[name]), "one": [], "several": []} for name in WORKS}
    joint = parts["hypergradient"]()
    if rank == 0:
        with alone():
            truth = whole["hypergradient"]()  # warms up, too
            whole["inner step"]()
        found["hypergradient"]["difference"] = float((joint - truth).norm() / truth.norm())
    for turn in range(setup["rounds"]):
        for name in WORKS:
            for way in (("one", "several"), ("several", "one"))[turn % 2]:
                found[name][way].append(one(name) if way == "one" else several(name))
    if rank == 0:
        assert math.isfinite(found["hypergradient"]["difference"])
        path.write_text(json.dumps({"works": found, "parameters": p, "hyperparameters": h}), encoding="utf-8")
    barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
