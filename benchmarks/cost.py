"""What does MADAO cost? (The paper's section 5.4.)

Whole training under a policy that is learned, against the same policy held fixed, RandAugment, and the standard
augmentation alone, by the code that `hypergrad train` runs. All rows train in one process, a short stretch of each in
turn, in an order that rotates, and ratios are taken within a round, so that other load on the machine meets numerator
and denominator alike. A stretch has as many inner steps as lie between two outer steps.

    python benchmarks/cost.py                                   # WideResNet-16-1, batch 32, s = 60
    python benchmarks/cost.py --model wrn-28-2 --batch-size 128 --device cuda
    python benchmarks/cost.py --solver cg --every 15
    python benchmarks/cost.py --norm group                      # has a row for memory="low", which refuses BatchNorm
    python benchmarks/cost.py --smoke                           # seconds: shows that the code works, measures nothing
    python benchmarks/cost.py --render benchmarks/results/cost.json
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _cells import environment, git_commit, write_json
from _cost_table import OPTIONS, label_of, markdown
from _cost_training import Training, interleave, synthetic
from _models import parameter_count
from hvp import positive

from hypergrad.errors import HypergradError, InvalidInputError, UnsupportedModelError
from hypergrad.keys import derive
from hypergrad.progress import Progress
from hypergrad.vision.config import DataConfig, Fixed, Madao, Method, ModelConfig, RandAugment, Standard, TrainConfig
from hypergrad.vision.splits import make_splits

RESULTS = Path(__file__).resolve().parent / "results"
DATA = ("synthetic", "digits", "fashion-mnist")
SIDE = 32
DEFAULTS: dict[str, Any] = {"model": "wrn-16-1", "batch_size": 32, "every": 60, "rounds": 15}
SMOKE: dict[str, Any] = {"model": "small-cnn", "batch_size": 8, "every": 3, "rounds": 2}
#: Options and damping. Neumann's are the paper's; the others' are table5.py's.
SOLVERS: dict[str, tuple[dict[str, int | float], float]] = {
    "neumann": ({"alpha": 1e-3, "num_hvps": 5}, 0.0),
    "cg": ({"max_steps": 5, "tol": 0.0}, 0.01),
    "first_order": ({}, 0.0),
    "unrolled": ({"steps": 1}, 0.0),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="cost.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--model", help=f"a registered network (default: {DEFAULTS['model']})")
    result.add_argument("--norm", choices=("batch", "group"), help="of the network (default: its own)")
    result.add_argument(
        "--cheaper",
        choices=("all", "none", *OPTIONS),
        action="append",
        help="cheaper products that have a row, repeatable (default: all)",
    )
    result.add_argument(
        "--data",
        choices=DATA,
        default="synthetic",
        help=f"grey sets are padded to {SIDE} pixels (default: %(default)s)",
    )
    result.add_argument("--root", type=Path, help="folder of the Fashion-MNIST files")
    result.add_argument(
        "--batch-size", type=positive, help=f"(default: {DEFAULTS['batch_size']}; the paper's code: 128)"
    )
    result.add_argument("--solver", choices=tuple(SOLVERS), default="neumann", help="(default: %(default)s)")
    result.add_argument(
        "--selection",
        choices=("relaxed", "unbiased"),
        default="relaxed",
        help="gradient of the selection (default: relaxed, the paper's)",
    )
    result.add_argument("--every", type=positive, help=f"inner steps an outer step, s (default: {DEFAULTS['every']})")
    result.add_argument("--rounds", type=positive, help=f"(default: {DEFAULTS['rounds']})")
    result.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    result.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the inner steps")
    result.add_argument("--channels-last", action="store_true", help="memory format of images and network")
    result.add_argument("--threads", type=positive, default=1, help="torch threads (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--smoke", action="store_true", help="two rounds of three steps, written nowhere")
    result.add_argument("--output", help="JSON file, the table beside it; - for neither (default: in results/)")
    result.add_argument("--render", type=Path, metavar="JSON", help="only make the table again")
    return result


def methods(solver: str, selection: str, every: int, cheaper: Sequence[str] = tuple(OPTIONS)) -> dict[str, Method]:
    """The rows. MADAO comes a second time without products with the Hessian, to tell what these cost.

    ``cheaper`` are names of ``OPTIONS``, with which MADAO comes again; they are of a linear system, which the
    first-order method and unrolled steps do not have.
    """

    def madao(name: str, option: str | None = None) -> Madao:
        options, damping = SOLVERS[name]
        more = {} if option is None else OPTIONS[option]
        return Madao(
            solver=name, solver_options=options, damping=damping, selection=selection, every=every, warmup=0.0, **more
        )

    rows: dict[str, Method] = {"standard": Standard(), "randaugment": RandAugment(), "fixed": Fixed()}
    if solver in ("first_order", "unrolled"):
        return rows | {label_of(solver): madao(solver)}
    rows |= {label_of(name): madao(name) for name in ("first_order", solver)}
    return rows | {label_of(solver, option): madao(solver, option) for option in OPTIONS if option in cheaper}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train and time; everything that the table needs.

    Raises:
        HypergradError: data, network or device that cannot be used.
    """
    commit = git_commit()  # of the code that is loaded by now
    torch.set_num_threads(options.threads)
    on_cpu = options.device == "cpu"
    clock = time.process_time if on_cpu and options.threads == 1 else time.perf_counter
    padded = options.data != "synthetic"
    data = DataConfig(name=options.data, root=options.root, pad_to=SIDE if padded else None)
    images = None if padded else synthetic(options.batch_size, options.seed)
    splits = make_splits(data, derive(options.seed, "data"), images)
    trainings: list[Training] = []
    refused: dict[str, str] = {}
    network = {} if options.norm is None else {"norm": options.norm}
    for label, method in methods(options.solver, options.selection, options.every, chosen(options.cheaper)).items():
        config = TrainConfig(
            data=data, model=ModelConfig(name=options.model, options=network), method=method,
            batch_size=options.batch_size, lr=0.1, epochs=1, precision=options.precision,
            channels_last=options.channels_last, device=options.device, seed=options.seed,
        )  # fmt: skip
        training = Training.start(label, config, splits, clock, options.every)
        try:
            training.warm_up()
        except (InvalidInputError, UnsupportedModelError) as error:
            if not isinstance(method, Madao) or label in (label_of("first_order"), label_of(options.solver)):
                raise
            refused[label] = str(error)  # an option that this network cannot have
        else:
            trainings.append(training)
    with Progress(options.rounds, "rounds") as shown:
        interleave(trainings, rounds=options.rounds, told=shown.update)
    hardware = {k: v for k, v in environment().items() if k != "threads_per_run"}
    if trainings[0].trainer.device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    return {
        "benchmark": "cost",
        "commit": commit,
        "environment": hardware,
        "setup": {
            **{
                k: getattr(options, k)
                for k in (
                    "model", "data", "batch_size", "solver", "selection", "every", "rounds", "precision",
                    "channels_last", "threads", "seed", "smoke", "norm",
                )
            },
            "solver_options": SOLVERS[options.solver][0],
            "damping": SOLVERS[options.solver][1],
            "device": trainings[0].trainer.device.type,
            "parameters": parameter_count(trainings[0].trainer.network),
            "channels": splits.channels,
            "side": splits.side,
            "clock": "CPU seconds" if clock is time.process_time else "seconds on the clock",
        },
        "rows": {t.label: t.measured() for t in trainings},
        "refused": refused,
    }  # fmt: skip


def chosen(cheaper: Sequence[str] | None) -> list[str]:
    """The options that were asked for."""
    asked = cheaper or ["all"]
    return list(OPTIONS) if "all" in asked else [name for name in OPTIONS if name in asked]


def default_path(options: argparse.Namespace) -> Path:
    """One file a setting, so that no run writes over another one's."""
    plain = parser().parse_args([])
    names = ("model", "data", "solver", "selection", "batch_size", "every", "device", "precision", "threads")
    wanted = {name: DEFAULTS.get(name, getattr(plain, name)) for name in names}
    other = [f"{getattr(options, name)}" for name in names if getattr(options, name) != wanted[name]]
    if options.channels_last:
        other.append("channels_last")
    if options.norm is not None:
        other.append(options.norm)
    if options.cheaper is not None:
        other.append("+".join(chosen(options.cheaper)) or "none")
    return RESULTS / ("-".join(["cost", *other]).replace("/", "_").replace(":", "_") + ".json")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print; the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    if options.render is not None:
        return _render(options.render)
    for name, value in (SMOKE if options.smoke else DEFAULTS).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        result = {"command": shlex.join(["python", "benchmarks/cost.py", *arguments]), **measure(options)}
    except HypergradError as error:
        print(f"cost.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was written.", file=sys.stderr)
        return 130
    page = markdown(result)
    if options.output != "-" and (options.output is not None or not options.smoke):
        path = default_path(options) if options.output is None else Path(options.output)
        write_json(path, result, indent=1)
        path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def _render(path: Path) -> int:
    try:
        page = markdown(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"cost.py: {path} is no result of cost.py ({error!r}). Give the JSON that it wrote.", file=sys.stderr)
        return 2
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
