"""One malformed input: read, and judged by what came of it."""

import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import _fuzz_mutations as mutations
from _fuzz_readers import Reader

from hypergrad.errors import HypergradError

#: Seconds after which a reader counts as hanging.
BOUND = 60


@dataclass(frozen=True)
class Trial:
    """What came of an input.

    Attributes:
        reader, mutation: by name.
        outcome: ``refused`` (a clear error), ``valid`` (by chance), or ``wrong``.
        detail: the message, or what was wrong.
        seconds: of reading.
    """

    reader: str
    mutation: str
    outcome: str
    detail: str
    seconds: float


def try_one(reader: Reader, rng: random.Random) -> Trial:
    """Change one file of a reader's folder, read the folder, and see that nothing but a clear error came of it."""
    with tempfile.TemporaryDirectory() as place:
        folder, canary = Path(place) / "input", Path(place) / "canary"
        shutil.copytree(reader.folder, folder)
        name = rng.choice(reader.files)
        ways = [
            mutations.flipped, mutations.overwritten, mutations.truncated, mutations.spliced, mutations.at_random,
            mutations.prefixed, mutations.hostile(str(canary)),
        ]  # fmt: skip
        if name.endswith(("json", "jsonl", ".log")):
            ways += [mutations.restructured] * (10 if reader.is_json else 2)
        if reader.name == "checkpoint, hash right":
            ways = [mutations.resealed]
        way = rng.choice(ways)
        file = folder / name
        file.write_bytes(way(rng, file.read_bytes()))
        before, started = _content(folder), time.perf_counter()
        outcome, detail = _outcome(reader, folder, file)
        seconds = time.perf_counter() - started
        if canary.exists():
            outcome, detail = "wrong", "code of the file ran"
        elif _content(folder) != before:
            outcome, detail = "wrong", "a file was changed"
        return Trial(reader.name, f"{way.__name__} {name}", outcome, detail, seconds)


def _outcome(reader: Reader, folder: Path, file: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings(), _alarm():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except HypergradError as error:
        message = str(error)
        # A checkpoint is named by its folder; a list of images may lead to an image that is not there.
        named = any(part in message for part in (file.name, file.parent.name, f"{folder}{os.sep}"))
        return ("refused", message) if named and len(message) < 5000 else ("wrong", f"unclear: {message[:500]}")
    except Exception:
        return "wrong", traceback.format_exc()
    return "valid", ""


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {BOUND} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(BOUND)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
