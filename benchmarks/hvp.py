"""What does one hypergradient cost?

One Neumann hypergradient (5 Hessian products) on a WideResNet-16-1, three ways, in one process:

- floor: one forward and backward pass of the training loss, the unit of the other two;
- by hand: the same hypergradient as a script would write it, plain ``autograd.grad`` on one kept graph;
- hypergrad: ``hypergrad.hypergradient(..., solver=Neumann(...))``, with its checks.

Every round runs all three, in an order that rotates, and ratios are taken within a round, so that other load on the
machine meets numerator and denominator alike. Times are CPU seconds of this process.

    python benchmarks/hvp.py                          # 31 rounds on one thread
    python benchmarks/hvp.py --rounds 3 --output -    # a quick look, nothing written
"""

import argparse
import functools
import gc
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _cells import environment, git_commit, write_json
from _models import parameter_count
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import hypergrad
from hypergrad.solvers.neumann import Neumann
from hypergrad.vision.models import build_model

RESULT = Path(__file__).resolve().parent / "results" / "hvp.json"
ALPHA = 1e-3
#: One log weight decay for each parameter tensor.
INITIAL_LOG_DECAY = -7.6  # exp(-7.6) is 5e-4
WAYS = ("floor", "by hand", "hypergrad")


class Problem:
    """The model, a training and a validation batch, and the hyperparameters: a weight decay for each tensor."""

    def __init__(self, norm: str, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = build_model("wrn-16-1", num_classes=10, channels=3, image_size=32, norm=norm)
        self.train = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
        self.val = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
        self.params = {k: p.detach() for k, p in self.model.named_parameters()}
        self.log_decay = torch.full((len(self.params),), INITIAL_LOG_DECAY)


def penalty(params: Sequence[Tensor], log_decay: Tensor) -> Tensor:
    """``1/2 sum_i decay_i ||w_i||^2``."""
    return 0.5 * (log_decay.exp() * torch.stack([(p * p).sum() for p in params])).sum()


def floor(problem: Problem) -> Tensor:
    """One forward and backward pass of the training loss."""
    model, (x, y) = problem.model, problem.train
    params = list(model.parameters())
    loss = F.cross_entropy(model(x), y) + penalty(params, problem.log_decay)
    return torch.autograd.grad(loss, params)[0]


def by_hand(problem: Problem, num_hvps: int) -> Tensor:
    """The reference twin: nothing but the calculus, on the module's own parameters."""
    model, (x, y), (x_val, y_val) = problem.model, problem.train, problem.val
    params = list(model.parameters())
    log_decay = problem.log_decay.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y) + penalty(params, log_decay)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    term = list(torch.autograd.grad(F.cross_entropy(model(x_val), y_val), params))
    total = list(term)
    for _ in range(num_hvps):
        products = torch.autograd.grad(grads, params, term, retain_graph=True)
        term = [t - ALPHA * p for t, p in zip(term, products, strict=True)]
        total = [s + t for s, t in zip(total, term, strict=True)]
    (cross,) = torch.autograd.grad(grads, log_decay, [ALPHA * s for s in total])
    return -cross


def by_hypergrad(problem: Problem, call: Callable[..., Tensor], num_hvps: int) -> Tensor:
    """The same through the public function."""

    def inner_loss(params: dict[str, Tensor], hparams: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(call(params, x), y) + penalty(list(params.values()), hparams["log_decay"])

    def outer_loss(params: dict[str, Tensor], hparams: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(call(params, x), y)

    return hypergrad.hypergradient(
        inner_loss,
        outer_loss,
        problem.params,
        {"log_decay": problem.log_decay},
        inner_batch=problem.train,
        outer_batch=problem.val,
        solver=Neumann(num_hvps=num_hvps, alpha=ALPHA),
    ).grads["log_decay"]


def seconds(way: Callable[[], Tensor], repeats: int) -> float:
    """CPU seconds of one call, the mean of some."""
    gc.collect()  # what the last way left is not charged to this one
    start = time.process_time()
    for _ in range(repeats):
        way()
    return (time.process_time() - start) / repeats


def flops(way: Callable[[], Tensor]) -> int:
    """Floating-point operations of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        way()
    return int(counter.get_total_flops())


def summary(ratios: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(ratios) == 1:
        return dict.fromkeys(("median", "q1", "q3"), ratios[0])
    q1, median, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def measure(problem: Problem, *, num_hvps: int, rounds: int, floor_repeats: int) -> dict[str, Any]:
    """Times of every round, their ratios, FLOPs, and how far the two results are from each other."""
    call = hypergrad.functional(problem.model)
    ways: dict[str, Callable[[], Tensor]] = {
        "floor": functools.partial(floor, problem),
        "by hand": functools.partial(by_hand, problem, num_hvps),
        "hypergrad": functools.partial(by_hypergrad, problem, call, num_hvps),
    }
    # Also warms up: the first calls of a process pay for lazy initialisation.
    ours, reference = ways["hypergrad"](), ways["by hand"]()
    error = float((ours.double() - reference.double()).norm() / reference.double().norm())
    counted = {name: flops(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds):
        for place in range(len(WAYS)):
            name = WAYS[(turn + place) % len(WAYS)]
            times[name].append(seconds(ways[name], floor_repeats if name == "floor" else 1))

    def ratios(top: str, bottom: str) -> dict[str, float]:
        return summary([a / b for a, b in zip(times[top], times[bottom], strict=True)])

    return {
        "relative_error": error,
        "ratios": {
            "hypergrad / by hand": ratios("hypergrad", "by hand"),
            "by hand / floor": ratios("by hand", "floor"),
            "hypergrad / floor": ratios("hypergrad", "floor"),
        },
        "flops": counted,
        "flops_in_floors": {name: count / counted["floor"] for name, count in counted.items()},
        "cpu_seconds": times,
    }


def render(result: dict[str, Any]) -> str:
    """The Markdown table."""
    setup, env, ratios = result["setup"], result["environment"], result["ratios"]
    floor_ms = 1e3 * statistics.median(result["cpu_seconds"]["floor"])

    def cell(name: str) -> str:
        return "{median:.2f} ({q1:.2f} to {q3:.2f})".format(**ratios[name])

    units = result["flops_in_floors"]
    return "\n".join(
        [
            f"One hypergradient (Neumann, {setup['num_hvps']} products) on a {setup['model']}, "
            f"batch {setup['batch']}x3x32x32, {setup['parameters']:,} parameters. "
            f"Median and quartiles of {setup['rounds']} interleaved rounds, CPU time.",
            "",
            f"| | time in floors | FLOPs in floors | time / by hand |\n|---|---|---|---|\n"
            f"| one forward and backward ({floor_ms:.0f} ms) | 1 | 1 | |",
            f"| double backward by hand | {cell('by hand / floor')} | {units['by hand']:.2f} | 1 |",
            f"| `hypergrad.hypergradient` | {cell('hypergrad / floor')} | {units['hypergrad']:.2f} "
            f"| {cell('hypergrad / by hand')} |",
            "",
            f"The two results differ by {result['relative_error']:.1e} (relative). {env['cpu']}, {setup['threads']} of "
            f"{env['cores']} threads, torch {env['torch']}, Python {env['python']}, commit {result['commit']}. "
            f"Made by `{result['command']}`.",
            "",
        ]
    )


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=positive, default=31, help="(default: %(default)s)")
    result.add_argument("--threads", type=positive, default=1, help="torch threads (default: %(default)s)")
    result.add_argument("--batch", type=positive, default=32, help="(default: %(default)s)")
    result.add_argument("--num-hvps", type=positive, default=5, help="Hessian products (default: %(default)s)")
    result.add_argument("--norm", choices=("group", "batch"), default="group", help="(default: %(default)s)")
    result.add_argument(
        "--floor-repeats", type=positive, default=5, help="of the floor in a round (default: %(default)s)"
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", default=str(RESULT), help="JSON file, the table beside it; - for neither")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    problem = Problem(options.norm, options.batch, options.seed)
    setup = {
        "model": f"WideResNet-16-1 ({options.norm} norm)",
        "parameters": parameter_count(problem.model),
        "hyperparameters": problem.log_decay.numel(),
        "alpha": ALPHA,
        **{k: getattr(options, k) for k in ("rounds", "threads", "batch", "num_hvps", "norm", "floor_repeats", "seed")},
    }
    result = {
        "command": shlex.join(["python", "benchmarks/hvp.py", *arguments]),
        "commit": git_commit(),
        "environment": {k: v for k, v in environment().items() if k != "threads_per_run"},
        "setup": setup,
        **measure(problem, num_hvps=options.num_hvps, rounds=options.rounds, floor_repeats=options.floor_repeats),
    }
    table = render(result)
    if options.output != "-":
        path = Path(options.output)
        write_json(path, result, indent=1)
        path.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
