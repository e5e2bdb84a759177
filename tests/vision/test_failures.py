"""A training on images goes on where it can: numbers, disks, loaders and loggers that fail."""

import errno
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad.augment.operations import Operation
from hypergrad.errors import HypergradWarning, InvalidInputError, NonFiniteError
from hypergrad.failures import Failure
from hypergrad.keys import derive
from hypergrad.progress import Progress
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.events import Events
from hypergrad.vision.inner_loop import InnerLoop
from hypergrad.vision.method_loop import MethodLoop
from hypergrad.vision.metrics import Metrics
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import has_checkpoint
from hypergrad.vision.run import RunDirectory, read_run
from hypergrad.vision.splits import Part, make_splits

#: Of every line: what a clock said.
CLOCKS = {"seconds", "cpu_seconds", "search_seconds", "wall_seconds"}

METHODS: dict[str, dict[str, Any]] = {
    "standard": {"name": "standard"},
    "madao": {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"]},
    "ohl": {
        "name": "ohl-autoaugment", "operations": ["Rotate", "Invert"], "every": 2, "trajectories": 2, "draws": 2,
        "reward_images": 6, "lr": 1.0,
    },
}  # fmt: skip

#: Of the training images; the 38 of them make 3 batches of 10 an epoch.
BAD = 7


def dataset() -> Dataset:
    """Bright and dark images, 8 x 8."""
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(58) % 2
    images = (torch.rand((58, 1, 8, 8), generator=g) * 120 + 130 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    part = ImageSet(images, targets)
    train, test = part.take(torch.arange(50)), part.take(torch.arange(50, 58))
    return Dataset("light", ("dark", "bright"), train, test, None, (0.5,), (0.25,), True)


def config(method: str = "standard", **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "method": METHODS[method], "epochs": 2, "batch_size": 10, "data": {"validation": 12}, "standard": {"crop": 1},
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def record(folder: Path, method: str = "standard", resume: Any = "never", **changes: Any) -> Any:
    keep = changes.pop("on_epoch", None)
    return train_and_record(
        config(method, **changes), folder, dataset=dataset(), progress=False, resume=resume, on_epoch=keep
    )


def steps_with(settings: TrainConfig) -> list[int]:
    order = InnerLoop(settings, make_splits(settings.data, derive(settings.seed, "data"), dataset())).train_order
    return [t for t in range(6) if BAD in order.batch(t)[0].tolist()]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """One training image becomes NaN in the augmentation of inner steps."""
    original = InnerLoop._augmented

    def augmented(self: InnerLoop, images: Tensor, index: Tensor, key: int) -> Tensor:
        images = original(self, images, index, key)
        return images / (index != BAD).view(-1, 1, 1, 1)

    monkeypatch.setattr(InnerLoop, "_augmented", augmented)


def network(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["standard", "madao", "ohl"])
@pytest.mark.usefixtures("poisoned")
def test_a_failure_is_recorded_and_the_run_goes_on_with_another_policy(tmp_path: Path, method: str) -> None:
    first = steps_with(config(method))[0]
    with pytest.raises(NonFiniteError, match=rf"Inner step {first}, .*Samples: {BAD}\..*test_failures\.py") as caught:
        record(tmp_path / "a", method)
    saved = first // 3 * 3 + (first % 3 > 1) if method == "ohl" else first  # the interval that has begun is in it, too
    assert f"after {saved} inner steps" in caught.value.__notes__[0] and has_checkpoint(tmp_path / "a")
    (row,) = read_run(tmp_path / "a").failures
    file = json.loads((tmp_path / "a" / "failures" / f"inner-{first:06d}.json").read_text())
    assert file["failure"] == {k: v for k, v in row.items() if k != "kind"} and file["settings"]["inner_step"] == first
    assert Failure.of(file["failure"]).samples == (BAD,) and file["said"] in str(caught.value)
    record(tmp_path / "a", method, "auto", on_nonfinite="skip")
    record(tmp_path / "b", method, on_nonfinite="skip")
    assert network(tmp_path / "a") == network(tmp_path / "b")
    assert [m for m in metrics(tmp_path / "a") if m.get("action") != "raised"] == metrics(tmp_path / "b")
    failures = [Failure.of({k: v for k, v in row.items() if k != "kind"}) for row in read_run(tmp_path / "b").failures]
    assert {f.step for f in failures} == set(steps_with(config(method))) and {f.action for f in failures} == {
        "left out"
    }


def test_an_outer_step_that_is_left_out_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MethodLoop._val_batch

    def val_batch(self: MethodLoop, update: int) -> tuple[Tensor, Tensor]:
        images, targets = original(self, update)
        return (images / 0 if update == 1 else images), targets

    monkeypatch.setattr(MethodLoop, "_val_batch", val_batch)
    record(tmp_path / "run", "madao", on_nonfinite="skip")
    run = read_run(tmp_path / "run")
    assert [(u["outer_step"], u["left_out"], u["status"] is None) for u in run.updates] == [
        (1, False, False), (2, True, True), (3, False, False),
    ]  # fmt: skip
    (row,) = run.failures
    assert (row["level"], row["data"], row["step"], row["holders"][0][0]) == ("outer", "val_data", 1, "inputs")
    assert (tmp_path / "run" / "failures" / "outer-000001.json").exists()
    with pytest.raises(NonFiniteError, match="outer_loss is nan.*Outer step 1, val_data, batch 1"):
        record(tmp_path / "other", "madao")
    record(tmp_path / "other", "madao", "auto", on_nonfinite="skip")
    assert network(tmp_path / "other") == network(tmp_path / "run")


def test_a_step_that_is_skipped_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = steps_with(config())
    original = InnerLoop._inner_step

    def left_out(self: InnerLoop, step: int, optimizer: torch.optim.Optimizer) -> Any:
        if step not in leave:
            return original(self, step, optimizer)
        self.passes += 1
        return torch.zeros(()), self._batch(step)

    with monkeypatch.context() as patch:
        patch.setattr(InnerLoop, "_inner_step", left_out)
        record(tmp_path / "wanted")
    poison = InnerLoop._augmented

    def augmented(self: InnerLoop, images: Tensor, index: Tensor, key: int) -> Tensor:
        return torch.where((index == BAD).view(-1, 1, 1, 1), math.nan, poison(self, images, index, key))

    monkeypatch.setattr(InnerLoop, "_augmented", augmented)
    record(tmp_path / "got", on_nonfinite="skip")
    assert network(tmp_path / "got") == network(tmp_path / "wanted")
    got, wanted = read_run(tmp_path / "got"), read_run(tmp_path / "wanted")
    for g, w, epoch in zip(got.epochs, wanted.epochs, range(2), strict=True):
        taken = 3 - sum(t // 3 == epoch for t in leave)
        assert g["val_loss"] == w["val_loss"] and g["train_loss"] == pytest.approx(w["train_loss"] * 3 / taken)


def test_the_augmentation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Operation.recolour

    def recolour(self: Operation, images: Tensor, *rest: Any) -> Tensor:
        return original(self, images, *rest) / 0 if self.name == "Invert" else original(self, images, *rest)

    monkeypatch.setattr(Operation, "recolour", recolour)
    with pytest.raises(NonFiniteError, match=r"div in float32, in the augmentation Invert, in the module policy"):
        record(tmp_path / "run", "madao")


# Files.


class Full:
    """A disk with room for so many bytes."""

    def __init__(self, file: Any, room: list[int], code: int) -> None:
        self._file, self._room, self._code = file, room, code

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        taken: int = self._file.write(bytes(data)[: self._room[0]])
        self._room[0] -= taken
        if not taken:
            raise OSError(self._code, os.strerror(self._code))
        return taken


@pytest.mark.parametrize("room", range(0, 40, 7))
def test_a_full_disk_keeps_the_lines_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    left, original = [10**6], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(original(self, *a, **k), left, errno.ENOSPC))
    metrics.append({"n": 0})
    left[0] = room
    with pytest.warns(HypergradWarning, match="could not be written .No space left.*kept in memory") as said:
        for n in range(1, 5):
            metrics.append({"n": n, "x": "y" * 40})
    assert len(said) == 1
    assert metrics.path.read_text() == '{"n": 0}\n'  # no half of a line
    position = metrics.position()
    left[0] = 10**6
    metrics.append({"n": 5})
    assert [json.loads(line)["n"] for line in metrics.path.read_text().splitlines()] == list(range(6))
    # A run that was killed meanwhile, and goes on from a checkpoint of then.
    again = Metrics(metrics.path)
    again.rewind(position)
    again.append({"n": 5})
    assert [json.loads(line)["n"] for line in metrics.path.read_text().splitlines()] == list(range(6))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = Metrics(path)
    with pytest.warns(HypergradWarning, match="could not be written"):
        metrics.append({"n": 0})
    path.unlink()
    metrics.append({"n": 1})
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n'


def test_metrics_that_stay_unwritten_are_an_error_at_the_end(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    run.metrics.path.unlink(missing_ok=True)
    run.metrics.path.mkdir()  # writing is impossible, also for root
    with pytest.warns(HypergradWarning, match="could not be written"):
        run.append({"n": 0})
    with pytest.raises(OSError, match="directory"):
        run.finish({})
    assert not (run.path / "result.json").exists()


def test_metrics_torn_at_every_byte_are_read_and_gone_on_with(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    lines = [{"kind": "epoch", "epoch": n, "step": n, "text": "é"} for n in range(3)]
    for line in lines[:2]:
        run.append(line)
    position = run.position()
    run.append(lines[2])
    whole = run.metrics.path.read_bytes()
    for size in range(len(whole) + 1):
        run.metrics.path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        found = read_run(run.path).epochs
        # The last line may lack its end and nothing else.
        assert found == lines[:kept] or (found == lines[: kept + 1] and whole[size : size + 1] == b"\n")
        again = RunDirectory(run.path)
        if size < position["bytes"]:
            with pytest.warns(HypergradWarning, match="has lost lines"):
                again.rewind(position, 2)
        else:
            again.rewind(position, 2)
        again.append(lines[2])
        assert read_run(run.path).epochs == [*lines[: min(kept, 2)], lines[2]]


# Loggers, callbacks and loaders.


def throws(error: Exception) -> Callable[..., None]:
    def method(*_: Any, **__: Any) -> None:
        raise error

    return method


def test_loggers_of_ours_warn_and_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "wanted", "madao")
    monkeypatch.setattr(Events, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Events, "add", throws(ValueError("no events")))
    monkeypatch.setattr(Events, "close", throws(OSError(errno.EROFS, "Read-only file system")))
    original = RunDirectory.save_policy

    def save_policy(self: RunDirectory, policy: Any, epoch: int | None = None) -> None:
        if epoch is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, policy)

    monkeypatch.setattr(RunDirectory, "save_policy", save_policy)
    with pytest.warns(HypergradWarning) as said:
        train_and_record(config("madao"), tmp_path / "got", dataset=dataset(), progress=False, tensorboard=True)
    text = " ".join(str(w.message) for w in said)
    assert "events of epoch 2 could not be written (ValueError: no events)" in text
    assert "policy of epoch 1 could not be written (No space left on device)" in text
    assert "could not be closed (Read-only file system)" in text
    assert network(tmp_path / "got") == network(tmp_path / "wanted")


@pytest.mark.parametrize("method", ["standard", "madao"])
def test_a_callback_that_throws_loses_nothing(tmp_path: Path, method: str) -> None:
    record(tmp_path / "wanted", method)

    def callback(epoch: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        record(tmp_path / "got", method, on_epoch=callback)
    assert "A checkpoint was made, after 3 inner steps" in caught.value.__notes__[0]
    record(tmp_path / "got", method, "auto")
    assert network(tmp_path / "got") == network(tmp_path / "wanted")
    assert metrics(tmp_path / "got") == metrics(tmp_path / "wanted")


@pytest.mark.parametrize("call", range(0, 9, 2))
def test_images_that_cannot_be_read_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    record(tmp_path / "wanted", "madao")
    original, calls = Part.draw, [0]

    def draw(self: Part, positions: Tensor) -> Any:
        calls[0] += 1
        if calls[0] == call + 1:
            raise OSError(errno.EIO, "Input/output error")
        return original(self, positions)

    with monkeypatch.context() as patch:
        patch.setattr(Part, "draw", draw)
        try:
            record(tmp_path / "got", "madao")
        except OSError as error:
            assert any("A checkpoint was made" in note for note in error.__notes__)
    record(tmp_path / "got", "madao", "auto")
    assert network(tmp_path / "got") == network(tmp_path / "wanted")
    assert metrics(tmp_path / "got") == metrics(tmp_path / "wanted")


def test_nobody_reads_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Closed())
    with Progress(2, "train") as shown:
        shown.update(2)
        shown.update(2)


def test_settings() -> None:
    with pytest.raises(ValueError, match="on_nonfinite"):
        TrainConfig(on_nonfinite="ignore")  # type: ignore[arg-type]
    assert issubclass(InvalidInputError, ValueError)
