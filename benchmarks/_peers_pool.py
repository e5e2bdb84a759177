"""The libraries' processes: finding or making their environments, starting them, asking them."""

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _peers_libraries import PEERS

HERE = Path(__file__).resolve().parent
OWN = ("ours", "by hand")


@dataclass(frozen=True)
class Place:
    """Where a library lives: an interpreter, and a checkout to put on its path."""

    python: str
    checkout: str | None = None


class Worker:
    """A library's process, held open."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        path = str(HERE.parent) if name in OWN else place.checkout
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        env = kept | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | ({"PYTHONPATH": path} if path else {})
        if place.checkout:
            env["PEERS_CHECKOUT"] = commit(Path(place.checkout))
        memory = HERE.parent / "hypergrad" / "memory.py"
        # Not a pipe: one that nobody reads would fill up.
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [place.python, str(HERE / "_peers_worker.py"), name, str(memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=env, cwd=HERE,
        )  # fmt: skip

    def ask(self, do: str, **question: Any) -> dict[str, Any]:
        """The answer; ``{"error": ...}`` where the library raised or its process ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **question}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        status = self._process.wait()
        self._said.seek(0)
        said = self._said.read().strip().splitlines()
        return {"error": said[-1] if said else f"the process ended with status {status}"}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._said.close()


@contextlib.contextmanager
def workers(places: Mapping[str, Place]) -> Iterator[dict[str, Worker]]:
    """All libraries' processes, ended on exit."""
    made: dict[str, Worker] = {}
    try:
        for name, place in places.items():
            made[name] = Worker(name, place)
        yield made
    finally:
        for worker in made.values():
            with contextlib.suppress(BrokenPipeError):
                worker.close()


def find(environments: Path | None, pythons: Mapping[str, str], checkouts: Mapping[str, str]) -> dict[str, Place]:
    """Ours, by hand, and every peer that has an interpreter or a checkout."""
    places = {name: Place(sys.executable) for name in OWN}
    for name in PEERS:
        python = pythons.get(name)
        if python is None and environments and (environments / name / "bin" / "python").exists():
            python = str(environments / name / "bin" / "python")
        if python or name in checkouts:
            places[name] = Place(python or sys.executable, checkouts.get(name))
    return places


def commit(checkout: Path) -> str:
    """The commit of a checkout, where git knows."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    return f"checkout at {found.stdout.strip()}" if found.returncode == 0 else "checkout"


def make_environments(folder: Path) -> None:
    """A virtual environment for each peer that installs, with the torch of this interpreter.

    Packages are installed without their dependencies (which would bring other versions of torch), and what they need
    by name. betty-ml 0.2.1 says that it wants Python below 3.11; it runs on 3.11, so that is not asked.
    """
    for name, peer in PEERS.items():
        if not peer["install"]:
            continue
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        python = folder / name / "bin" / "python"
        asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
        # A .pth file comes behind the environment's own packages, so a peer's name wins over ours.
        (packages / "torch_of_the_caller.pth").write_text(sysconfig.get_path("purelib") + "\n")
        options = ["--quiet", "--no-deps", "--ignore-requires-python"]
        subprocess.run([str(python), "-m", "pip", "install", *options, *peer["install"]], check=True)
        print(f"{name}: {python}")
