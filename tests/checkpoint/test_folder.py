"""Checkpoints on the disk: damaged in every byte, killed at every system call, of another run or version."""

import builtins
import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hypergrad.checkpoint import Checkpoints, code_identity, digest
from hypergrad.checkpoint.encoding import equal
from hypergrad.errors import CheckpointError, InvalidInputError

STATE = {"w": torch.arange(6.0).reshape(2, 3), "steps": {0: (1, float("inf"))}, "name": "ä"}


def checkpoints(path: Path, **options: Any) -> Checkpoints:
    return Checkpoints(path, **{"kind": "test", "identity": {"lr": 0.1, "data": {"sha": "ab"}}, **options})


def test_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    store = checkpoints(tmp_path / "c")
    assert store.load() is None
    for step in (10, 20, 30, 40):
        store.save({**STATE, "step": step}, step=step)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["00000003", "00000004", "latest.json"]
    found = checkpoints(tmp_path / "c").load()
    assert found is not None and (found.step, found.path.name, found.skipped) == (40, "00000004", ())
    assert equal(found.state, {**STATE, "step": 40})
    assert json.loads((tmp_path / "c" / "latest.json").read_text()) == {"checkpoint": "00000004", "step": 40}


def two(path: Path) -> Path:
    store = checkpoints(path)
    store.save({**STATE, "step": 1}, step=1)
    return store.save({**STATE, "step": 2}, step=2)


def test_every_flipped_byte_is_noticed_and_the_previous_one_used(tmp_path: Path) -> None:
    newest = two(tmp_path)
    draw = random.Random(0)
    for file in sorted(newest.iterdir()):
        data = file.read_bytes()
        for place in range(len(data)):
            torn = bytearray(data)
            torn[place] ^= 1 << draw.randrange(8)
            file.write_bytes(torn)
            found = checkpoints(tmp_path).load()
            assert found is not None and found.step == 1, f"{file.name}, byte {place}"
            assert len(found.skipped) == 1 and newest.name in found.skipped[0]
        for length in (0, 1, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:length])
            found = checkpoints(tmp_path).load()
            assert found is not None and found.step == 1, f"{file.name}, cut at {length}"
        file.write_bytes(data)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.step == 2


def test_missing_files_and_rubbish(tmp_path: Path) -> None:
    newest = two(tmp_path)
    for name in ("state.json", "tensors.safetensors", "manifest.json"):
        data = (newest / name).read_bytes()
        (newest / name).unlink()
        found = checkpoints(tmp_path).load()
        assert found is not None and found.step == 1
        (newest / name).write_bytes(data)
    (tmp_path / "latest.json").write_text("torn")
    (tmp_path / ".00000003-ab").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    store = checkpoints(tmp_path)
    found = store.load()
    assert found is not None and found.step == 2
    store.save(STATE, step=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000003", "latest.json", "notes.txt"]


def test_nothing_valid_is_an_error_that_lists_why(tmp_path: Path) -> None:
    newest = two(tmp_path)
    for folder in (newest, tmp_path / "00000001"):
        (folder / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"00000002/tensors.*00000001/tensors"):
        checkpoints(tmp_path).load()


def test_after_a_fall_back_the_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    newest = two(tmp_path)
    (newest / "state.json").write_bytes(b"{}")
    store = checkpoints(tmp_path)
    assert store.load() is not None
    store.save(STATE, step=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001", "00000003", "latest.json"]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(
    ("module", "call"), [(os, "mkdir"), (builtins, "open"), (os, "fsync"), (os, "rename"), (os, "replace")]
)
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"])
def test_a_save_that_breaks_off_anywhere_leaves_the_last_one(
    tmp_path: Path, module: Any, call: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(tmp_path)
    real = getattr(module, call)
    for after in range(12):
        left = [after]

        def failing(*args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, failing)
            try:
                checkpoints(tmp_path).save({**STATE, "step": 3}, step=3)
            except (Killed, OSError):
                pass
            else:
                break
        found = checkpoints(tmp_path).load()
        assert found is not None and found.step in (2, 3)
        assert equal(found.state, {**STATE, "step": found.step})
    assert after > 0, "the call never happened, so nothing was tried"


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    two(tmp_path)
    other = checkpoints(tmp_path, identity={"lr": 0.2, "data": {"sha": "ab"}, "seed": 1})
    with pytest.raises(InvalidInputError, match=r"lr was 0\.1 and is 0\.2; seed was absent and is 1"):
        other.load()
    found = other.load(force=True)
    assert found is not None and found.step == 2


def test_versions(tmp_path: Path) -> None:
    two(tmp_path)
    with pytest.raises(InvalidInputError, match="checkpoint of 'test', not of 'train'"):
        checkpoints(tmp_path, kind="train").load()
    with pytest.raises(InvalidInputError, match="knows no way"):
        checkpoints(tmp_path, version=3, migrations={1: dict}).load()
    found = checkpoints(
        tmp_path, version=3, migrations={1: lambda s: {**s, "two": 2}, 2: lambda s: {**s, "three": 3}}
    ).load()
    assert found is not None and (found.state["two"], found.state["three"], found.state["step"]) == (2, 3, 2)
    checkpoints(tmp_path, version=2).save(STATE, step=5)
    with pytest.raises(InvalidInputError, match="newer"):
        checkpoints(tmp_path).load()


def test_a_state_that_cannot_be_saved_harms_nothing(tmp_path: Path) -> None:
    two(tmp_path)
    with pytest.raises(InvalidInputError, match=r"state\.f"):
        checkpoints(tmp_path).save({"f": print}, step=3)
    found = checkpoints(tmp_path).load()
    assert found is not None and found.step == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"keep": 1}, "at least 2"), ({"keep": 2.0}, "at least 2"), ({"path": "file"}, "is a file")],
)
def test_refused_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / options.pop("path", "c")
    with pytest.raises(InvalidInputError, match=message):
        checkpoints(path, **options)


def test_digest_tells_dtype_shape_and_elements_apart() -> None:
    a = torch.arange(6.0)
    others = [a.reshape(2, 3), a.double(), a + 1, -a, torch.empty(0), None]
    assert digest(a) == digest(a.clone())
    assert len({digest(x) for x in [a, *others]}) == len(others) + 1
    assert digest(a, None) != digest(None, a)


def test_identity_of_the_code_is_plain() -> None:
    assert json.loads(json.dumps(code_identity())) == code_identity()
