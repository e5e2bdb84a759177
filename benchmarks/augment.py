"""What does it cost to augment a batch?

hypergrad's policies, which pick operations for each image, against kornia's RandAugment (one pick for the whole batch,
for 32 chunks of it, for each image), against the weighted sum of all fourteen operations (the relaxation of Faster
AutoAugment and DARTS), and against Pillow in a loop.

Every round runs all of them, in an order that rotates, and ratios are taken within a round, so that other load on the
machine meets numerator and denominator alike. What a call costs depends on what it draws, so each call has a key of its
own and a time is the mean of several calls. Times are CPU seconds of this process on one CPU thread, and seconds on the
clock otherwise.

    python benchmarks/augment.py                      # 31 and 7 rounds on one thread
    python benchmarks/augment.py --keep-memory        # results/augment-keep-memory.json
    python benchmarks/augment.py --device cuda        # results/augment-cuda.json
    python benchmarks/augment.py --smoke --output -   # seconds: shows that the code works, measures nothing
    python benchmarks/augment.py --render results/augment.json
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _augment_table import RATIOS, markdown, plot
from _augment_ways import Way, installed, make_ways
from _cells import environment, git_commit, write_json
from hvp import positive, summary

from hypergrad import keys
from hypergrad.memory import peak_memory

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = ("128x3x32x32", "64x3x224x224")
SMOKE_SIZE = "4x3x16x16"
#: Batches of more values than this get fewer rounds and fewer calls a round.
LARGE = 1 << 21

Size = tuple[int, int, int, int]


def parse_size(text: str) -> Size:
    """``"128x3x32x32"``: images, channels (3), height, width."""
    parts = text.split("x")
    if len(parts) != 4 or not all(p.isdecimal() and int(p) > 0 for p in parts) or parts[1] != "3":
        raise argparse.ArgumentTypeError(f"a size is BATCHx3xHEIGHTxWIDTH, such as {SIZES[0]}; got {text!r}")
    size = tuple(map(int, parts))
    if size[0] < 2:
        raise argparse.ArgumentTypeError(f"the leave-one-out baseline needs at least 2 images; got {text!r}")
    return size


def seconds(call: Callable[[int], Any], key_of_each: Sequence[int], clock: Callable[[], float], cuda: bool) -> float:
    """The mean time of one call, over one call for each key."""
    gc.collect()  # what the last way left is not charged to this one
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    for key in key_of_each:
        call(key)
    if cuda:
        torch.cuda.synchronize()
    return (clock() - start) / len(key_of_each)


def peak_bytes(way: Way, key: int, device: torch.device) -> int:
    """Peak memory of one call above what is held before it; the result is dropped. Also warms the way up."""
    with peak_memory(device) as memory:
        way.call(key)
    return memory.bytes


def measure(
    ways: Sequence[Way], *, rounds: int, seed: int, device: torch.device, clock: Callable[[], float], once: bool = False
) -> dict[str, Any]:
    """Times of every round, their ratios, and memory.

    Args:
        ways: the rows.
        rounds: how many.
        seed: of the keys. Call c of round r has the same key in every way.
        device: of the tensors.
        clock: seconds.
        once: a single call makes up a time.
    """
    gc.freeze()  # what is loaded by now would make each collection last longer than a call
    memory = {way.name: peak_bytes(way, keys.derive(seed, "memory"), device) for way in ways}
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    calls = {way.name: 1 if once else way.calls for way in ways}
    for turn in range(rounds):
        for place in range(len(ways)):
            way = ways[(turn + place) % len(ways)]
            own = [keys.derive(seed, "time", turn, call) for call in range(calls[way.name])]
            times[way.name].append(seconds(way.call, own, clock, device.type == "cuda"))
    gc.unfreeze()

    def ratio(top: str, bottom: str) -> dict[str, float]:
        by_round = [a / b for a, b in zip(times[top], times[bottom], strict=True)]
        return {**summary(by_round), "of_means": math.fsum(times[top]) / math.fsum(times[bottom])}

    return {
        "rounds": rounds,
        "calls": calls,
        "groups": {way.name: way.group for way in ways},
        "seconds": times,
        "times": {name: summary(values) for name, values in times.items()},
        "peak_bytes": memory,
        "ratios": {
            f"{r.top} / {r.bottom}": ratio(r.top, r.bottom) for r in RATIOS if r.top in times and r.bottom in times
        },
    }


def keep_memory() -> None:
    """Ask glibc to keep freed memory in the process, where it otherwise returns large blocks to the system at once.

    Every large tensor is then written into fresh pages, which the system has to clear: at 224 pixels most of the time.

    Raises:
        OSError: the C library does not know these settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        raise OSError("--keep-memory needs glibc's mallopt, which this system does not have.") from None
    trim_threshold, mmap_max = -1, -4  # from glibc's malloc.h
    if not (mallopt(trim_threshold, -1) and mallopt(mmap_max, 0)):
        raise OSError("glibc's mallopt refused to keep memory.")


def versions(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, kornia's and Pillow's as well."""
    result = {k: v for k, v in environment().items() if k != "threads_per_run"}
    for module, name in (("kornia", "kornia"), ("PIL", "pillow")):
        result[name] = importlib.metadata.version(name) if installed(module) else None
    if device.type == "cuda":
        result["gpu"] = torch.cuda.get_device_name(device)
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--sizes", type=parse_size, nargs="+", metavar="BxCxHxW", help=f"(default: {' '.join(SIZES)})")
    result.add_argument("--rounds", type=positive, default=31, help="(default: %(default)s)")
    result.add_argument(
        "--rounds-large", type=positive, default=7, help=f"of batches above {LARGE:,} values (default: %(default)s)"
    )
    result.add_argument("--threads", type=positive, default=1, help="torch threads (default: %(default)s)")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    result.add_argument("--keep-memory", action="store_true", help="freed memory stays in the process (glibc)")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--smoke", action="store_true", help=f"one round of single calls at {SMOKE_SIZE}")
    result.add_argument("--output", help="JSON file, table and figure beside it; - for none (default: in results/)")
    result.add_argument("--render", type=Path, metavar="JSON", help="only make table and figure again")
    return result


def write_page(result: dict[str, Any], path: Path) -> None:
    """Table and figure beside the JSON."""
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    plot(result, path.with_suffix(".png"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(arguments)
    if options.render is not None:
        result = json.loads(options.render.read_text(encoding="utf-8"))
        write_page(result, options.render)
        print(markdown(result))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device; leave out --device cuda.", file=sys.stderr)
        return 2
    if options.keep_memory:
        keep_memory()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = time.process_time if device.type == "cpu" and options.threads == 1 else time.perf_counter
    default = [SMOKE_SIZE] if options.smoke else SIZES
    found = []
    for size in options.sizes or map(parse_size, default):
        large = math.prod(size) > LARGE
        rounds = 1 if options.smoke else options.rounds_large if large else options.rounds
        ways = make_ways(size, device=device, seed=options.seed, large=large)
        timed = measure(ways, rounds=rounds, seed=options.seed, device=device, clock=clock, once=options.smoke)
        found.append({"size": "x".join(map(str, size)), **timed})
    result = {
        "command": shlex.join(["python", "benchmarks/augment.py", *arguments]),
        "commit": git_commit(),
        "environment": versions(device),
        "setup": {
            "device": options.device, "threads": options.threads, "seed": options.seed, "smoke": options.smoke,
            "keep_memory": options.keep_memory,
            "clock": "CPU seconds" if clock is time.process_time else "seconds on the clock",
        },
        "sizes": found,
    }  # fmt: skip
    if options.output != "-":
        name = "augment" + "-cuda" * (device.type == "cuda") + "-keep-memory" * options.keep_memory
        path = RESULTS / f"{name}.json" if options.output is None else Path(options.output)
        write_json(path, result, indent=1)
        write_page(result, path)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
