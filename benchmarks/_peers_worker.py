"""One library in a process of its own: questions come as lines of JSON, answers go as lines of JSON.

python _peers_worker.py NAME MEMORY_PY
"""

import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _peers_libraries import LIBRARIES, PEERS, Call, Solvers
from _peers_problems import Problem


class Server:
    """Answers questions about one library."""

    def __init__(self, name: str, memory: Path) -> None:
        self.name = name
        self._memory = memory
        self._problem: Problem | None = None
        self._solvers: Solvers = {}
        self._call = functools.lru_cache(1)(self._make)

    def load(self, path: str) -> dict[str, Any]:
        """Build the problem; the solvers that the library has."""
        self._call.cache_clear()
        functional = PEERS.get(self.name, {}).get("functional", False)
        self._problem = Problem(path, clone_buffers=functional)
        self._solvers = LIBRARIES[self.name](self._problem)
        return {"solvers": list(self._solvers), "version": version(self.name)}

    def answer(self, solver: str, options: str) -> dict[str, Any]:
        """The hypergradient, flat, and products if that can be counted."""
        torch.manual_seed(0)
        parts = self._call(solver, options)()
        return {"answer": torch.cat([p.detach().double().reshape(-1) for p in parts]).tolist()}

    def time(self, solver: str, options: str, repeats: int, floors: int) -> dict[str, Any]:
        """CPU seconds of a call and of one forward and backward pass, means of some."""
        problem = self._problem
        assert problem is not None
        call = self._call(solver, options)
        floor = _seconds(problem.floor, floors) if floors else 0.0
        return {"seconds": _seconds(call, repeats), "floor": floor}

    def memory(self, solver: str, options: str) -> dict[str, Any]:
        """Peak bytes above set-up of a call and of the unit: live storages, and resident memory."""
        problem = self._problem
        assert problem is not None
        spec = importlib.util.spec_from_file_location("_counter", self._memory)
        assert spec is not None and spec.loader is not None
        counter = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(counter)
        found: dict[str, Any] = {}
        problem.floor()  # lazy initialisation belongs to the set-up
        for name, call in (("floor", problem.floor), ("call", self._call(solver, options))):
            found[name] = {"resident": _resident(call)}
            gc.collect()
            with counter.peak_memory() as peak:
                call()
            found[name]["live"] = peak.bytes
        return found

    def _make(self, solver: str, options: str) -> Call:
        return self._solvers[solver](**json.loads(options))


def version(name: str) -> str:
    """Of the library, as its distribution says, or the folder of a checkout."""
    if name not in PEERS:
        return "this commit" if name == "ours" else ""
    distribution = PEERS[name]["distribution"]
    if distribution is None:
        return os.environ.get("PEERS_CHECKOUT", "checkout")
    return importlib.metadata.version(distribution)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    gc.collect()  # what the last one left is not charged to this one
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def _resident(call: Callable[[], Any]) -> int | None:
    """How far resident memory rises above where it stands, in bytes; None where the system does not say."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before
    except (OSError, StopIteration):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def serve(server: Server, answers: Any) -> None:
    """Answer until the questions end; an exception is an answer too."""
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = getattr(server, question.pop("do"))(**question)
        except Exception as problem:
            reply = {"error": f"{type(problem).__name__}: {str(problem).strip().splitlines()[:1]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What a library prints must not mix with the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve(Server(sys.argv[1], Path(sys.argv[2])), channel)
