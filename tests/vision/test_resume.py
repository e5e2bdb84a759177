"""A run that is interrupted anywhere and resumed is the uninterrupted run, bit for bit."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hypergrad import interruption
from hypergrad.checkpoint import Checkpoints, code_identity
from hypergrad.checkpoint.encoding import decode, encode
from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.files import held
from hypergrad.interruption import Stopped
from hypergrad.vision import run_identity
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.method_loop import MethodLoop
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import OtherRunError, Saver, has_checkpoint
from hypergrad.vision.run import read_run
from hypergrad.vision.run_identity import data_identity
from hypergrad.vision.splits import make_splits

#: Of every line and file: what a clock said.
CLOCKS = {"seconds", "cpu_seconds", "search_seconds", "wall_seconds"}

METHODS: dict[str, dict[str, Any]] = {
    "standard": {"name": "standard"},
    "trivialaugment": {"name": "trivialaugment"},
    "fixed": {"name": "fixed", "operations": ["Rotate", "Invert"]},
    "madao": {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"]},
    "madao cg": {
        "name": "madao", "every": 1, "warmup": 0.0, "operations": ["Rotate", "Invert"], "solver": "cg",
        "solver_options": {"max_steps": 3},
        "optimizer": "adam", "outer_batch_size": 8, "val_batch_size": 5,
    },
    "madao random": {
        "name": "madao", "every": 1, "warmup": 0.0, "operations": ["Rotate", "Invert"], "control": "random",
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
    """Asking git for the commit, and waiting for the disk, takes longer than the runs here."""
    monkeypatch.setattr("hypergrad.vision.run._commit", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


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
def whole(
    signals: Interrupter, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, Any], int]]:
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
    for at in points(polls, 5):
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
    """Each session is stopped after a few polls; what it evaluated is evaluated again, what it trained is not."""
    expected, _ = whole(method)
    sessions = 0
    while not (tmp_path / "run" / "result.json").exists():
        signals.arm(12)
        sessions += 1
        try:
            run(tmp_path / "run", method)
        except Stopped:
            assert has_checkpoint(tmp_path / "run")
        assert sessions < 30
    assert sessions > 2
    assert left(tmp_path / "run") == expected


def broken_off(path: Path, signals: Interrupter, method: str = "standard", at: int = 5, **changes: Any) -> Path:
    """A run that was stopped; the fifth poll is in the first evaluation."""
    signals.arm(at)
    with pytest.raises(Stopped):
        run(path, method, **changes)
    signals.arm(0)
    return path


@pytest.mark.parametrize("method", ["standard", "madao", "ohl"])
def test_killed_between_checkpoints(method: str, whole: Any, signals: Interrupter, tmp_path: Path, monkeypatch) -> None:
    """A kill leaves the last checkpoint, and metrics and policies that are further than it."""

    class Killed(BaseException):
        pass

    expected, _ = whole(method)
    saved, original = [], Saver.save

    def save(self: Saver, state: Any, *, step: int) -> bool:
        if len(saved) == 3:
            if step < 6:
                return False
            raise Killed
        saved.append(step)
        return original(self, state, step=step)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Saver, "save", save)
        run(tmp_path / "run", method, minutes=0)
    assert len(read_run(tmp_path / "run").epochs) >= 1
    run(tmp_path / "run", method)
    assert left(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"lr": 0.01}, "lr was 0.05 and is 0.01"),
        ({"method": "trivialaugment"}, "method.name was 'standard' and is 'trivialaugment'"),
        ({"dataset": dataset(seed=1)}, "data.train.pixels was '"),
        ({"epochs": 3}, "epochs was 2 and is 3"),
    ],
)
def test_another_run_is_refused_with_the_difference(
    signals: Interrupter, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = broken_off(tmp_path / "run", signals)
    before = left(path)
    with pytest.raises(OtherRunError, match=re.escape(message)):
        run(path, **changes)
    assert left(path) == before


def test_other_code_and_threads_are_refused_and_forced(
    signals: Interrupter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken_off(tmp_path / "run", signals)
    code = {**code_identity(), "threads": 3, "hypergrad": "9"}
    monkeypatch.setattr("hypergrad.vision.run_identity.code_identity", lambda: code)
    with pytest.raises(OtherRunError, match=r"code.hypergrad was '.*' and is '9'; code.threads was 1 and is 3"):
        run(path)
    run(path, resume="force", epochs=3, lr=0.01)
    recorded = read_run(path)
    assert recorded.config["epochs"] == 3 and len(recorded.epochs) == 3
    assert recorded.environment["resumed"][0]["step"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "an epoch had 3 inner steps and has 7"),
        ({"method": "trivialaugment"}, "it is of the method standard"),
        ({"dataset": dataset(channels=3)}, "model.conv1.weight has the shape (16, 1, 3, 3)"),
    ],
)
def test_what_cannot_be_forced(signals: Interrupter, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = broken_off(tmp_path / "run", signals)
    with pytest.raises(OtherRunError, match=re.escape(message)):
        run(path, resume="force", **changes)


def test_what_does_not_change_the_result_may_change(whole: Any, signals: Interrupter, tmp_path: Path) -> None:
    expected, _ = whole("standard")
    path = broken_off(tmp_path / "run", signals)
    run(path, data={"validation": 12, "workers": 0, "root": "elsewhere"}, device="cpu", threads=1, minutes=1.0)
    assert {**left(path), "config.json": b""} == {**expected, "config.json": b""}


def test_a_finished_run_gives_what_it_had_and_trains_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "run", "madao")
    before = left(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setattr("hypergrad.vision.recording.train", None)
    again = run(tmp_path / "run", "madao")
    assert left(tmp_path / "run") == before
    assert again.history == first.history and (again.val, again.test) == (first.val, first.test)
    assert (again.passes, again.seconds) == (first.passes, first.seconds)
    for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.policy.pi, first.policy.pi)
    with pytest.raises(OtherRunError, match="seed was 0 and is 1"):
        run(tmp_path / "run", "madao", seed=1)


def test_two_processes_at_one_run(signals: Interrupter, tmp_path: Path) -> None:
    path = broken_off(tmp_path / "run", signals)
    with held(path / "checkpoints"), pytest.raises(InvalidInputError, match=f"is in use by process {os.getpid()}"):
        run(path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="is no run of hypergrad"):
        run(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_without_a_checkpoint_it_begins_anew_in_the_folder(whole: Any, signals: Interrupter, tmp_path: Path) -> None:
    expected, _ = whole("madao")
    path = broken_off(tmp_path / "run", signals, "madao", at=10)
    shutil.rmtree(path / "checkpoints")
    (path / "policies" / "0009.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="To go on with the run in it: --resume"):
        run(path, "madao", resume="never")
    run(path, "madao")
    assert left(path) == expected
    (tmp_path / "begun" / "policies").mkdir(parents=True)  # a kill while the folder was made
    (tmp_path / "begun" / "checkpoints").mkdir()
    run(tmp_path / "begun", "madao")
    assert left(tmp_path / "begun") == expected


def test_a_checkpoint_that_cannot_be_made_stops_nothing(
    whole: Any, signals: Interrupter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = whole("standard")
    tried = []

    def full(self: Checkpoints, state: Any, *, step: int) -> Path:
        tried.append(step)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.warns(HypergradWarning, match=r"No checkpoint could be made at step \d \(No space left on device\)"):
        run(tmp_path / "run", minutes=0)
    assert tried == [0, 1, 2, 3, 3, 4, 5, 6]
    assert left(tmp_path / "run") == expected


def test_a_damaged_checkpoint_is_passed_over(whole: Any, signals: Interrupter, tmp_path: Path) -> None:
    expected, _ = whole("madao")
    path = broken_off(tmp_path / "run", signals, "madao", at=9, minutes=0)
    newest = max(p for p in (path / "checkpoints").iterdir() if p.name.isdecimal())
    (newest / "state.json").write_bytes(b"{")
    with pytest.warns(HypergradWarning, match="A damaged checkpoint was passed over"):
        run(path, "madao")
    assert left(path) == expected


@pytest.mark.parametrize("cut", [1, 60, 10_000])
def test_metrics_that_were_torn_do_not_stop_it(signals: Interrupter, tmp_path: Path, cut: int) -> None:
    path = broken_off(tmp_path / "run", signals, at=7)
    content = (path / "metrics.jsonl").read_bytes()
    assert content
    (path / "metrics.jsonl").write_bytes(content[: -min(cut, len(content))])
    with pytest.warns(HypergradWarning, match="has lost lines that were written before the checkpoint"):
        run(path)
    assert [epoch["epoch"] for epoch in read_run(path).epochs] == [2]


def test_seconds_add_up_over_the_sessions(
    signals: Interrupter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken_off(tmp_path / "run", signals)
    state = json.loads(next((path / "checkpoints").glob("0*/state.json")).read_text())
    result = run(path)
    recorded = read_run(path)
    assert recorded.result is not None
    assert result.seconds > state["clock"]["wall"] > 0 and result.cpu_seconds > state["clock"]["cpu"] > 0
    assert recorded.result["wall_seconds"] > state["wall"] > state["since"]["wall"] > 0
    seconds = [epoch["seconds"] for epoch in recorded.epochs]
    assert state["since"]["wall"] < seconds[0] < seconds[1] < recorded.result["wall_seconds"]


def test_when_a_checkpoint_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hypergrad.vision.resuming.time.monotonic", lambda: now[0])

    def slow(self: Checkpoints, state: Any, *, step: int) -> Path:
        now[0] += 10.0
        return self.path

    monkeypatch.setattr(Checkpoints, "save", slow)
    saver = Saver(tmp_path, minutes=5.0)
    saver.load({})

    def due(after: float) -> tuple[bool, bool]:
        since, now[0] = now[0], now[0] + after
        found = saver.due(), saver.due(end_of_epoch=True)
        now[0] = since
        return found

    assert [due(s) for s in (4.9, 5.1, 299, 301)] == [(False, False), (False, True), (False, True), (True, True)]
    assert saver.save({}, step=0)  # ten seconds: now every 500
    assert [due(s) for s in (301, 499, 501)] == [(False, False), (False, False), (True, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": "yes"}, "resume must be one of never, auto, force; got 'yes'"),
        ({"resume": True}, "resume must be one of never, auto, force; got True"),
        ({"minutes": -1}, "checkpoint_minutes must be a number of minutes"),
        ({"minutes": float("nan")}, "got nan"),
    ],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_pixels_of_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = make_splits(config().data, 0, dataset())
    everything = data_identity(splits)
    monkeypatch.setattr(run_identity, "WHOLE", 100)
    monkeypatch.setattr(run_identity, "SAMPLE", 5)
    some = data_identity(splits)
    assert some["train"]["hashed"] == 5 and everything["train"]["hashed"] == everything["train"]["images"] == 38
    assert data_identity(make_splits(config().data, 0, dataset(seed=1)))["train"]["pixels"] != some["train"]["pixels"]
    assert data_identity(make_splits(config().data, 0, dataset())) == some


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that TensorBoard loads
def test_event_files_go_on(signals: Interrupter, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = broken_off(tmp_path / "run", signals, at=8, tensorboard=True)
    time.sleep(1.1)  # files are ordered by the second in their names
    result = run(path)
    events = accumulator.EventAccumulator(str(path / "tensorboard")).Reload()
    errors = [(e.step, e.value) for e in events.Scalars("error/validation")]
    assert errors == [(e.epoch, pytest.approx(e.val_error)) for e in result.history]


@pytest.mark.parametrize(
    "entry",
    ["step", "pending", "network", "optimizer", "learner", "passes", "losses", "updates", "history", "metrics"],
)
def test_every_entry_of_the_state_matters(
    entry: str, whole: Any, signals: Interrupter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the entry as it was at the start, the resumed run is another one, or none."""
    expected, _ = whole("madao random")
    states: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", lambda self, state, step: states.append(encode_decode(state)))
        broken_off(tmp_path / "at the start", signals, "madao random", at=1)

    def outer(*arguments: Any) -> Any:
        if path.joinpath("metrics.jsonl").exists() and len(read_run(path).epochs) == 1:
            calls.append(1)
        if len(calls) == 2:
            raise Stopped(signal.SIGTERM)
        return batch(*arguments)

    path, calls, batch = tmp_path / "run", list[int](), MethodLoop._outer_batch
    with monkeypatch.context() as patch, pytest.raises(Stopped):  # in the second outer step of the second epoch
        patch.setattr(MethodLoop, "_outer_batch", outer)
        run(path, "madao random")
    load = Saver.load
    monkeypatch.setattr(Saver, "load", lambda self, identity: {**load(self, identity), entry: states[0][entry]})
    try:
        run(path, "madao random")
    except (InvalidInputError, ValueError, KeyError):
        return
    assert left(path) != expected


def encode_decode(state: dict[str, Any]) -> dict[str, Any]:
    return decode(*encode(state))
