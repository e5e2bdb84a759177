"""Time, FLOPs, memory and error of the ways of ``hvp.py``."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _hvp_ways import FLOOR, Problem, by_hand, training_step, ways
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hypergrad.errors import InvalidInputError
from hypergrad.memory import peak_memory

#: Calls in a row of what takes a millisecond, so that caches are as warm for it as for what takes long.
SMALL_REPEATS = 10


def seconds(way: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """Seconds of one call, the mean of some: of this process's CPU time, on CUDA between two synchronisations."""
    gc.collect()  # what the last way left is not charged to this one
    on_cuda = torch.device(device).type == "cuda"
    clock = time.perf_counter if on_cuda else time.process_time
    if on_cuda:
        torch.cuda.synchronize(device)
    start = clock()
    for _ in range(repeats):
        way()
    if on_cuda:
        torch.cuda.synchronize(device)
    return (clock() - start) / repeats


def flops(way: Callable[[], Any]) -> int:
    """Floating-point operations of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        way()
    return int(counter.get_total_flops())


def peak(way: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes above the start."""
    with peak_memory(device) as counted:
        way()
    return counted.bytes


def summary(ratios: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(ratios) == 1:
        return dict.fromkeys(("median", "q1", "q3"), ratios[0])
    q1, median, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def distance(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Relative error and cosine."""
    a, b = found.double().flatten(), truth.double().flatten()
    return {"relative_error": float((a - b).norm() / b.norm()), "cosine": float(a @ b / (a.norm() * b.norm()))}


def measure(
    name: str, *, batch: int, num_hvps: int, rounds: int, floor_repeats: int, seed: int, device: str
) -> dict[str, Any]:
    """One problem: every way in every round, in an order that rotates; ratios are taken within a round."""
    problem = Problem(name, batch, seed, device=device)
    # The same numbers in double precision.
    exact = Problem(name, batch, seed, device=device, dtype=torch.float64)
    exact.model.load_state_dict(problem.model.state_dict())
    truth = by_hand(exact, num_hvps)
    del exact
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    running = ways(problem, num_hvps)
    for way, call in list(running.items()):
        try:
            first = call()  # also warms up: the first calls of a process pay for lazy initialisation
        except InvalidInputError as error:
            refused[way] = str(error)
            del running[way]
            continue
        found[way] = {"flops": flops(call), "peak_bytes": peak(call, device), "seconds": []}
        if way != FLOOR:
            found[way] |= distance(first, truth)
    names = list(running)
    many = SMALL_REPEATS if name == "softmax" else 1
    for turn in range(rounds):
        for place in range(len(names)):
            way = names[(turn + place) % len(names)]
            repeats = many * (floor_repeats if way == FLOOR else 1)
            found[way]["seconds"].append(seconds(running[way], repeats, device))
    for row in found.values():
        row["time"] = summary([a / b for a, b in zip(row["seconds"], found[FLOOR]["seconds"], strict=True)])
    return {
        "problem": name,
        "parameters": sum(p.numel() for p in problem.params.values()),
        "hyperparameters": problem.hparams["log_decay"].numel(),
        "batch": batch,
        "num_hvps": num_hvps,
        "training_step_bytes": peak(lambda: training_step(problem), device),
        "ways": found,
        "refused": refused,
    }
