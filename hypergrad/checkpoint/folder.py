"""A folder of checkpoints that survives anything: each is complete or not there, and the newest valid one is used.

::

    checkpoints/
      00000041/state.json            the state without its tensors
      00000041/tensors.safetensors   its tensors
      00000041/manifest.json         schema, step, identity of the run, SHA-256 of each file and of itself
      00000042/...
      latest.json                    the name of the newest, written last

A checkpoint is written into a temporary folder, forced to the disk, read back and compared, and renamed; then the
pointer is written; then the oldest go. A kill at any instant leaves the last complete checkpoint, and rubbish with
names that begin with a dot, which the next save removes.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import hypergrad.version
from hypergrad.checkpoint.encoding import decode, encode, equal
from hypergrad.checkpoint.identity import differences
from hypergrad.errors import CheckpointError, InvalidInputError
from hypergrad.files import Pathlike, read_bytes, short, sync_folder, write_atomically
from hypergrad.optional import require

#: Of the layout of a checkpoint's folder.
SCHEMA = 1

#: What reads the state of one version of a kind and gives that of the next.
Migration = Callable[[dict[str, Any]], dict[str, Any]]

_NAME = re.compile(r"\d{8,}")
_STATE, _TENSORS, _MANIFEST, _POINTER = "state.json", "tensors.safetensors", "manifest.json", "latest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A state that was read.

    Attributes:
        state: as it was saved; tensors are on the CPU.
        step: that it was saved at.
        path: of its folder.
        identity: of the run that saved it.
        skipped: a sentence for each newer checkpoint that was damaged.
    """

    state: dict[str, Any] = field(repr=False)
    step: int
    path: Path
    identity: dict[str, Any] = field(repr=False)
    skipped: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        path: the folder; made by the first save.
        kind: what is saved, such as "solve"; another kind is refused.
        version: of the state's content.
        identity: of the run, plain values in nested dictionaries: settings, hash of the data, versions. A checkpoint
            with another identity is refused unless forced.
        keep: the newest so many stay, at least 2: the newest may be damaged.
        migrations: by version n, what makes a state of version n + 1 from one of version n.

    Raises:
        InvalidInputError: ``keep`` is too small, or the path is a file.
        MissingLibraryError: safetensors is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hypergrad.checkpoint import Checkpoints
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder, kind="example", identity={"lr": 0.1})
        ...     _ = checkpoints.save({"w": torch.ones(2), "history": [(1, 0.5)]}, step=7)
        ...     found = checkpoints.load()
        >>> found.step, found.state
        (7, {'w': tensor([1., 1.]), 'history': [(1, 0.5)]})
    """

    def __init__(
        self,
        path: Pathlike,
        *,
        kind: str,
        version: int = 1,
        identity: Mapping[str, Any] | None = None,
        keep: int = 2,
        migrations: Mapping[int, Migration] | None = None,
    ) -> None:
        self.path = Path(path)
        if not isinstance(keep, int) or keep < 2:
            raise InvalidInputError(f"keep must be an integer of at least 2 (the newest may be damaged); got {keep!r}.")
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInputError(f"{self.path} is a file; checkpoints need a folder. Name another one.")
        self.kind, self.version, self.keep = kind, version, keep
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity or {})))  # as it will be read
        self._damaged: set[str] = set()
        self._migrations = dict(migrations or {})
        self._safetensors = require("safetensors.torch", "Saving a checkpoint", "checkpoint")

    def save(self, state: Mapping[str, Any], *, step: int) -> Path:
        """Save a state; the folder of the new checkpoint.

        Raises:
            InvalidInputError: the state holds what cannot be saved, or the folder may not be written.
            CheckpointError: what was written does not read back as it was.
            OSError: a full disk, and the like. In each case the checkpoints that were there are unharmed.
        """
        content, tensors = encode(dict(state))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for rubbish in self.path.glob(".*"):
                _remove(rubbish)
            names = self._names()
            good = [name for name in names if name not in self._damaged]
            target = self.path / f"{(int(names[0]) if names else 0) + 1:08d}"
            temporary = self.path / f".{target.name}-{secrets.token_hex(4)}"
            try:
                self._write(temporary, content, tensors, step)
                read = self._read(temporary)
                if not equal(read.state, decode(content, tensors)):
                    raise CheckpointError(f"{temporary} does not read back as it was written: the disk may be failing.")
                os.rename(temporary, target)
            except BaseException:
                _remove(temporary)
                raise
        except PermissionError as error:
            raise InvalidInputError(
                f"Cannot write a checkpoint into {self.path} ({error.strerror}). Choose another folder."
            ) from error
        sync_folder(self.path)
        write_atomically(self.path / _POINTER, json.dumps({"checkpoint": target.name, "step": step}) + "\n")
        for name in set(names) - set(good[: self.keep - 1]):
            self._drop(name)
        return target

    def load(self, *, force: bool = False) -> Checkpoint | None:
        """The newest valid checkpoint; None where there is none at all.

        Args:
            force: take one of another identity, too.

        Raises:
            CheckpointError: there are checkpoints and none is valid; the message says what is wrong with each.
            InvalidInputError: the checkpoint is of another run, with the difference, or of a newer hypergrad.
        """
        names, skipped = self._names(), []
        for name in names:
            try:
                found = self._read(self.path / name)
            except CheckpointError as error:
                skipped.append(str(error))
                self._damaged.add(name)
                continue
            different = differences(found.identity, self.identity)
            if different and not force:
                raise InvalidInputError(
                    f"{found.path} belongs to another run: {'; '.join(different)}. Start it with what it had, or "
                    "force it, knowing that the result will not be that of an uninterrupted run."
                )
            return Checkpoint(found.state, found.step, found.path, found.identity, tuple(skipped))
        if not names:
            return None
        raise CheckpointError(
            f"{self.path} has no valid checkpoint left: {' '.join(skipped)} Remove the folder to begin anew."
        )

    def empty(self) -> bool:
        """Whether there is no checkpoint, valid or not."""
        return not self._names()

    def _names(self) -> list[str]:
        """Of complete checkpoints, the newest first."""
        if not self.path.is_dir():
            return []
        return sorted((p.name for p in self.path.iterdir() if _NAME.fullmatch(p.name)), key=int, reverse=True)

    def _write(self, folder: Path, content: Any, tensors: dict[str, Tensor], step: int) -> None:
        folder.mkdir()
        files = {
            _STATE: json.dumps(content, allow_nan=False).encode(),
            _TENSORS: bytes(self._safetensors.save(tensors)),
        }
        manifest = {
            "schema": SCHEMA,
            "kind": self.kind,
            "version": self.version,
            "step": step,
            "hypergrad": hypergrad.version.__version__,
            "identity": self.identity,
            "files": {k: {"sha256": hashlib.sha256(v).hexdigest(), "bytes": len(v)} for k, v in files.items()},
        }
        files[_MANIFEST] = _sealed(manifest)
        for name, data in files.items():
            with open(folder / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(folder)

    def _read(self, folder: Path) -> Checkpoint:
        manifest = _unsealed(folder / _MANIFEST)
        if manifest["schema"] > SCHEMA or (manifest["kind"] == self.kind and manifest["version"] > self.version):
            raise InvalidInputError(
                f"{folder} was written by hypergrad {manifest['hypergrad'][:20]} (schema {manifest['schema']}, version "
                f"{manifest['version']}), which is newer than this one. Update hypergrad."
            )
        if manifest["kind"] != self.kind:
            raise InvalidInputError(
                f"{folder} is a checkpoint of {short(manifest['kind'])}, not of {self.kind!r}. Name another folder."
            )
        data = {name: _checked(folder / name, manifest["files"][name]) for name in (_STATE, _TENSORS)}
        try:
            tensors = self._safetensors.load(data[_TENSORS])
            state = decode(json.loads(data[_STATE]), tensors)
            if not isinstance(state, dict):
                raise ValueError(f"it holds {type(state).__name__}, no state")
        except Exception as error:  # whatever a reader of damaged bytes raises
            raise CheckpointError(f"{folder} cannot be read ({error}).") from error
        for version in range(manifest["version"], self.version):
            if version not in self._migrations:
                raise InvalidInputError(
                    f"{folder} has version {version} of {self.kind!r}; this hypergrad reads {self.version} and knows "
                    "no way from there. Go on with the hypergrad that wrote it."
                )
            state = self._migrations[version](state)
        return Checkpoint(state, manifest["step"], folder, manifest["identity"])

    def _drop(self, name: str) -> None:
        """Out of sight by one rename, so that a kill leaves no half of it; and not at all where that fails."""
        away = self.path / f".{name}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            os.rename(self.path / name, away)
            _remove(away)


def _sealed(manifest: dict[str, Any]) -> bytes:
    """JSON that holds its own hash, in the one way that :func:`_unsealed` accepts."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "seal": seal}, sort_keys=True, indent=1) + "\n").encode()


def _unsealed(path: Path) -> dict[str, Any]:
    try:
        data = read_bytes(path)
        manifest = json.loads(data)
        seal = manifest.pop("seal")
    except (OSError, ValueError, AttributeError, KeyError, RecursionError, TypeError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error!r}).") from error
    if data != _sealed(manifest):  # every byte counts, also a blank: it has changed since it was written
        raise CheckpointError(f"{path} is damaged: its content does not have the hash {str(seal)[:12]}....")
    kinds = {"schema": int, "kind": str, "version": int, "step": int, "hypergrad": str, "identity": dict, "files": dict}
    wrong = [name for name, kind in kinds.items() if type(manifest.get(name)) is not kind]
    files = [] if wrong else [manifest["files"].get(name) for name in (_STATE, _TENSORS)]
    if wrong or not all(
        isinstance(f, dict) and type(f.get("bytes")) is int and type(f.get("sha256")) is str for f in files
    ):
        # Its hash is right: made so, or by a program that is not ours.
        raise CheckpointError(f"{path} lacks {', '.join(wrong) or 'its files'}, or has it of another kind.")
    return dict(manifest)


def _checked(path: Path, entry: Mapping[str, Any]) -> bytes:
    try:
        data = read_bytes(path, max(int(entry["bytes"]), 0))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    if len(data) != entry["bytes"]:
        raise CheckpointError(f"{path} has {len(data)} bytes; {entry['bytes']} were written.")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in the manifest.")
    return data


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
