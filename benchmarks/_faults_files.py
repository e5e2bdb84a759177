"""Damaged files: a checkpoint with any byte changed, cut or missing must be refused, and the one before it used."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from _faults_runs import Runs, Trial, different, left

from hypergrad.checkpoint import Checkpoints
from hypergrad.errors import CheckpointError

STATE, MANIFEST, TENSORS, POINTER = "state.json", "manifest.json", "tensors.safetensors", "latest.json"


def damage(runs: Runs, tensors: int, stride: int = 1) -> Iterator[Trial]:
    """Each byte of the JSON files (or every ``stride``-th), and so many of the tensors, of a training's checkpoint."""
    store, newest, before = _two_checkpoints(runs)
    steps = store.load(force=True).step - _step(before)
    for name in (STATE, MANIFEST, TENSORS):
        path = newest / name
        whole = path.read_bytes()
        places = range(runs.rng.randrange(stride), len(whole), stride)
        if name == TENSORS:
            places = runs.rng.sample(range(len(whole)), min(tensors, len(whole)))
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= runs.rng.randint(1, 255)
            path.write_bytes(changed)
            fault = "byte of the tensors changed" if name == TENSORS else f"byte of {name} changed"
            yield _passed_over(fault, store, before, f"{name}, byte {place}", steps)
        cuts = {0, len(whole) - 1, *(runs.rng.randrange(len(whole)) for _ in range(max(tensors // 10, 3)))}
        for cut in sorted(cuts):
            path.write_bytes(whole[:cut])
            yield _passed_over("file cut short", store, before, f"{name} to {cut} bytes", steps)
            path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
            yield _passed_over("end of a file zeroed", store, before, f"{name} from byte {cut}", steps)
        path.unlink()
        yield _passed_over("file missing", store, before, name, steps)
        path.write_bytes(whole)
    yield from _pointer(store, newest, runs.rng, stride)
    yield _nothing_left(store, newest, before)


def _two_checkpoints(runs: Runs) -> tuple[Checkpoints, Path, Path]:
    """The folder of a training that was killed, and its checkpoints, the newest first."""
    while True:
        folder = runs.folder()
        process = runs.start(folder)
        process.until(lambda probe: probe["saved"] >= runs.total // 2)
        process.send(signal.SIGKILL)
        process.wait()
        found = sorted((p for p in (folder / "checkpoints").glob("0*")), reverse=True)
        if len(found) >= 2:
            kind = json.loads((found[0] / MANIFEST).read_text())["kind"]
            return Checkpoints(folder / "checkpoints", kind=kind), found[0], found[1]


def _step(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / MANIFEST).read_text())["step"])


def _passed_over(fault: str, store: Checkpoints, before: Path, what: str, steps: int) -> Trial:
    try:
        found = store.load(force=True)
    except Exception as error:  # whatever it is, it is not what was to be
        return Trial(fault, False, note=f"{what}: {type(error).__name__}: {error}")
    good = found is not None and found.path == before and len(found.skipped) == 1
    return Trial(fault, good, steps=steps, note="" if good else f"{what}: {found}")


def _pointer(store: Checkpoints, newest: Path, rng: random.Random, stride: int) -> Iterator[Trial]:
    """The pointer is for people and scripts: whatever becomes of it, the newest checkpoint is found."""
    path = store.path / POINTER
    whole = path.read_bytes()
    for place in range(0, len(whole), stride):
        changed = bytearray(whole)
        changed[place] ^= rng.randint(1, 255)
        path.write_bytes(changed)
        found = store.load(force=True)
        good = found is not None and found.path == newest and not found.skipped
        yield Trial("byte of latest.json changed", good, steps=0, note="" if good else f"byte {place}: {found}")
    path.write_bytes(whole)


def _nothing_left(store: Checkpoints, newest: Path, before: Path) -> Trial:
    """Where all are damaged it must be said; beginning anew in silence would be a loss."""
    kept = [(path / STATE, (path / STATE).read_bytes()) for path in (newest, before)]
    for path, data in kept:
        path.write_bytes(data[:-1])
    try:
        note = f"{store.load(force=True)}"
    except CheckpointError as error:
        note = "" if all(str(path.parent) in str(error) for path, _ in kept) else str(error)
    for path, data in kept:
        path.write_bytes(data)
    return Trial("all checkpoints damaged: said", not note, note=note)


def torn_runs(runs: Runs, count: int) -> Iterator[Trial]:
    """After a kill: the newest checkpoint or the metrics torn, as by a disk that lost its last writes; then resumed."""
    done = 0
    while done < count:
        folder = runs.folder()
        process = runs.start(folder)
        process.until(lambda probe: probe["saved"] >= 2)
        if not runs.instant(process):
            process.wait()
            continue
        process.send(signal.SIGKILL)
        process.wait()
        found = sorted((folder / "checkpoints").glob("0*"), reverse=True)
        if len(found) < 2:
            shutil.rmtree(folder)
            continue
        done += 1
        steps = int(process.probe["steps"]) - _step(found[1])
        path = found[0] / runs.rng.choice([STATE, MANIFEST, TENSORS])
        data = path.read_bytes()
        path.write_bytes(data[: runs.rng.randrange(len(data))])
        metrics = folder / "metrics.jsonl"
        if metrics.exists():  # what was written after the checkpoint before
            state = json.loads((found[1] / STATE).read_text())
            least = state["metrics"]["bytes"]
            length = metrics.stat().st_size
            with metrics.open("r+b") as file:
                file.truncate(runs.rng.randint(least, length))
        resumed = runs.start(folder)
        status = resumed.wait()
        note = f"status {status}: {resumed.said()}" if status else different(left(folder), runs.expected)
        if not note and "damaged" not in resumed.said():
            note = f"not a word about the damage: {resumed.said()}"
        yield Trial("torn after a kill, resumed", not note, "", process.probe["steps"] / runs.total, steps, note=note)
