"""A run that is interrupted anywhere and resumed is the uninterrupted run, bit for bit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hypergrad import interruption
from hypergrad.checkpoint import Checkpoints
from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.files import held
from hypergrad.interruption import Stopped
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import OtherRunError, Saver, has_checkpoint
from hypergrad.vision.run import RunDirectory

#: Of every line and file: what a clock said.
CLOCKS = {"seconds", "cpu_seconds", "search_seconds", "wall_seconds"}

METHODS: dict[str, dict[str, Any]] = {
    "standard": {"name": "standard"},
    "trivialaugment": {"name": "trivialaugment"},
    "fixed": {"name": "fixed", "operations": ["Rotate", "Invert"]},
    "madao": {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"]},
    "madao cg": {
        "name": "madao", "every": 1, "warmup": 0.0, "operations": ["Rotate", "Invert"], "solver": "auto",
        "optimizer": "adam", "outer_batch_size": 8, "val_batch_size": 5,
    },
    "madao random": {
        "name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"], "control": "random",
    },
    "ohl": {
        "name": "ohl-autoaugment", "operations": ["Rotate", "Invert"], "every": 2, "trajectories": 2, "draws": 2,
        "reward_images": 6, "lr": 1.0,
    },
    "faster": {
        "name": "faster-autoaugment", "operations": ["Rotate", "Invert"], "search_epochs": 1, "search_batch_size": 16,
        "subset": 32,
    },
}  # fmt: skip


def dataset(channels: int = 1, seed: int = 0) -> Dataset:
    """Bright and dark images, 8 x 8."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.arange(66) % 2
    images = (torch.rand((66, channels, 8, 8), generator=g) * 120 + 130 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    part = ImageSet(images, targets)
    return Dataset(
        name="light",
        classes=("dark", "bright"),
        train=part.take(torch.arange(50)),
        test=part.take(torch.arange(50, 66)),
        val=None,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=True,
    )


def config(method: str = "standard", **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "method": METHODS[method], "epochs": 2, "batch_size": 10, "data": {"validation": 12}, "standard": {"crop": 1},
        "warmup_epochs": 0.5, "eval_batch_size": 8,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def run(path: Path, method: str = "standard", resume: Any = "auto", minutes: float = 5.0, **changes: Any) -> Any:
    made = config(method, **{k: v for k, v in changes.items() if k in TrainConfig.model_fields})
    rest = {k: v for k, v in changes.items() if k not in TrainConfig.model_fields}
    return train_and_record(
        made, path, **{"dataset": dataset(), **rest}, progress=False, resume=resume, checkpoint_minutes=minutes
    )


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCKS}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def left(path: Path) -> dict[str, Any]:
    """Everything in a run's folder that is not a time or a place."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_dir() or name == "environment.json" or name.startswith("tensorboard"):
            continue
        if name == "metrics.jsonl":
            found[name] = [timeless(json.loads(line)) for line in file.read_text().splitlines()]
        elif name == "result.json":
            found[name] = timeless(json.loads(file.read_text()))
        else:
            found[name] = file.read_bytes()
    return found


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking git for the commit takes longer than the runs here."""
    monkeypatch.setattr("hypergrad.vision.run._commit", lambda: None)


class Interrupter:
    """Counts the polls, and lets the n-th and all later ones find a signal."""

    def __init__(self) -> None:
        self.polls, self.at = 0, 0

    def __call__(self) -> int | None:
        self.polls += 1
        return signal.SIGTERM if self.at and self.polls >= self.at else None

    def arm(self, at: int) -> None:
        self.polls, self.at = 0, at


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Interrupter:
    made = Interrupter()
    monkeypatch.setattr(interruption, "asked", made)
    return made


_whole: dict[str, tuple[dict[str, Any], int]] = {}


@pytest.fixture
def whole(signals: Interrupter, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], int]]:
    """What a method's uninterrupted run leaves, and how often it polls."""

    def made(method: str) -> tuple[dict[str, Any], int]:
        if method not in _whole:
            path = tmp_path_factory.mktemp("whole") / "run"
            signals.arm(0)
            run(path, method)
            _whole[method] = left(path), signals.polls
        return _whole[method]

    return made


def points(count: int, wanted: int) -> list[int]:
    """Polls spread over all, the first and the last among them."""
    if count <= wanted:
        return list(range(1, count + 1))
    return sorted({1 + round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


@pytest.mark.parametrize("method", METHODS)
def test_broken_off_anywhere_and_resumed(method: str, whole: Any, signals: Interrupter, tmp_path: Path) -> None:
    expected, polls = whole(method)
    for at in points(polls, 9):
        path = tmp_path / str(at)
        signals.arm(at)
        with pytest.raises(Stopped):
            run(path, method)
        signals.arm(0)
        run(path, method)
        assert left(path) == expected, at
    assert polls >= 11


@pytest.mark.parametrize("method", ["madao", "ohl"])
def test_broken_off_again_and_again(method: str, whole: Any, signals: Interrupter, tmp_path: Path) -> None:
    """Each session polls three times and is then stopped, so it takes at most two steps."""
    expected, _ = whole(method)
    sessions = 0
    while not (tmp_path / "run" / "result.json").exists():
        signals.arm(3 if method == "madao" else 4)
        sessions += 1
        try:
            run(tmp_path / "run", method)
        except Stopped:
            assert has_checkpoint(tmp_path / "run")
        assert sessions < 60
    assert sessions > 5
    assert left(tmp_path / "run") == expected
