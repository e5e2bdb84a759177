"""A run's folder: what is in it, that it reads back, and that nothing half-written is left."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from hypergrad.augment import Policy
from hypergrad.errors import InvalidInputError, MissingLibraryError
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.data.pictures import Picture as Decodable
from hypergrad.vision.data.pictures import decode
from hypergrad.vision.evaluation import evaluate
from hypergrad.vision.predict import load
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import RunDirectory, read_run


def dataset(channels: int = 1) -> Dataset:
    """Bright and dark images, 10 x 10."""
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(80) % 2
    images = (torch.rand((80, channels, 10, 10), generator=g) * 90 + 150 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    part = ImageSet(images, targets)
    return Dataset(
        name="light",
        classes=("dark", "bright"),
        train=part.take(torch.arange(60)),
        test=part.take(torch.arange(60, 80)),
        val=None,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=True,
    )


def config(**changes: object) -> TrainConfig:
    method = {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"]}
    settings = {"method": method, "epochs": 3, "batch_size": 16, "standard": {"crop": 1}, "data": {"validation": 12}}
    return TrainConfig(**{**settings, **changes})


def test_what_a_run_leaves(tmp_path: Path) -> None:
    result = train_and_record(config(), tmp_path / "run", dataset=dataset(), progress=False)
    run = read_run(tmp_path / "run")
    assert TrainConfig(**run.config) == config()
    assert run.environment["torch"] == torch.__version__
    assert [e["epoch"] for e in run.epochs] == [1, 2, 3]
    assert [e["val_error"] for e in run.epochs] == [e.val_error for e in result.history]
    assert [u["outer_step"] for u in run.updates] == [1, 2, 3, 4]
    assert run.updates[0]["status"] == "truncated"
    assert [epoch for epoch, _ in run.policies] == [1, 2, 3]
    assert run.result is not None
    assert run.result["test"]["error"] == result.test.error
    assert run.result["updates"] == 4
    final = Policy.load(tmp_path / "run" / "policy.json")
    for (name, saved), held in zip(final.named_parameters(), result.policy.parameters(), strict=True):
        assert torch.equal(saved, held), name
    assert torch.equal(run.policies[-1][1].pi, final.pi)


def test_the_classifier_predicts_what_the_run_evaluated(tmp_path: Path) -> None:
    data = dataset()
    result = train_and_record(config(), tmp_path / "run", dataset=data, progress=False)
    classifier = load(tmp_path / "run")
    predictions = classifier.predict_many(list(data.test.images))
    wrong = sum(p.label != data.classes[t] for p, t in zip(predictions, data.test.targets.tolist(), strict=True))
    assert 100 * wrong / 20 == pytest.approx(result.test.error)
    assert evaluate(classifier.network, result.splits.test, data.classes).confusion == result.test.confusion
    for p in predictions:
        assert sum(p.probabilities.values()) == pytest.approx(1, rel=1e-5)
        assert p.probability == max(p.probabilities.values())


def test_it_takes_paths_pictures_and_tensors_alike(tmp_path: Path) -> None:
    data = dataset(channels=3)
    train_and_record(config(), tmp_path / "run", dataset=data, progress=False)
    classifier = load(tmp_path / "run")
    pixels = data.test.images[3]
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.png")
    wanted = classifier.predict(pixels)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), picture, pixels.float() / 255):
        assert classifier.predict(image).probability == pytest.approx(wanted.probability, rel=1e-5)
    large = picture.resize((40, 30), Image.Resampling.BICUBIC)
    assert classifier.prepare(large).shape == (3, 10, 10)
    assert classifier.predict(large.convert("RGBA")).label == wanted.label
    assert classifier.predict_many([]) == []


def test_padding_and_crops_are_part_of_the_preprocessing(tmp_path: Path) -> None:
    data = dataset()
    train_and_record(
        config(method={"name": "standard"}, data={"validation": 12, "pad_to": 14, "channels": 3}),
        tmp_path / "padded",
        dataset=data,
        progress=False,
    )
    prepared = load(tmp_path / "padded").prepare(data.test.images[0])
    assert prepared.shape == (3, 14, 14)
    assert torch.equal(prepared[:, 2:12, 2:12], (data.test.images[0].float() / 255).expand(3, -1, -1))
    assert prepared[:, :2].abs().max() == 0
    train_and_record(
        config(method={"name": "standard"}, standard={"resized_crop": 8}),
        tmp_path / "cut",
        dataset=data,
        progress=False,
    )
    assert load(tmp_path / "cut").prepare(data.test.images[0]).shape == (1, 8, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that TensorBoard loads
def test_event_files_hold_the_epochs(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train_and_record(config(), tmp_path / "run", dataset=dataset(), progress=False, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    errors = [(e.step, e.value) for e in events.Scalars("error/validation")]
    assert errors == [(e.epoch, pytest.approx(e.val_error)) for e in result.history]
    assert len(events.Scalars("policy/hypergradient")) == sum(e.hypergradient is not None for e in result.history)


def test_a_missing_tensorboard_is_told_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingLibraryError, match=re.escape("hypergrad-toolkit[tensorboard]")):
        train_and_record(config(), tmp_path / "run", dataset=dataset(), progress=False, tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_stray_file_among_the_policies_is_passed_over(tmp_path: Path) -> None:
    train_and_record(config(epochs=1), tmp_path / "run", dataset=dataset(), progress=False)
    (tmp_path / "run" / "policies" / "notes.json").write_text("{}")
    assert [epoch for epoch, _ in read_run(tmp_path / "run").policies] == [1]


def test_a_picture_is_decoded_as_those_of_the_training(tmp_path: Path) -> None:
    data = dataset(channels=3)
    train_and_record(config(), tmp_path / "run", dataset=data, progress=False)
    classifier = load(tmp_path / "run")
    rng = torch.Generator().manual_seed(1)
    picture = Image.fromarray(torch.randint(256, (37, 52, 4), generator=rng).to(torch.uint8).numpy(), "RGBA")
    picture.save(tmp_path / "a.png")
    decoded = decode(Decodable("a", tmp_path / "a.png"), 10)
    assert torch.equal(classifier.prepare(tmp_path / "a.png"), torch.from_numpy(decoded).float() / 255)
    assert torch.equal(classifier.prepare(picture), classifier.prepare(tmp_path / "a.png"))


def test_a_wrong_configuration_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="batch_size=100"):
        train_and_record(config(batch_size=100), tmp_path / "run", dataset=dataset(), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"epochs": 1})
    run.append({"kind": "epoch", "epoch": 1, "step": 3, "train_loss": float("nan")})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "ep')
    read = read_run(run.path)
    assert read.epochs == [{"kind": "epoch", "epoch": 1, "step": 3, "train_loss": None}]
    assert read.result is None
    assert read.policies == []


def broken(path: Path, name: str, content: str) -> Path:
    """A run of which one file was overwritten."""
    train_and_record(config(epochs=1), path, dataset=dataset(), progress=False)
    (path / name).write_text(content)
    return path


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: read_run(p), "is no run of hypergrad"),
        (lambda p: load(p), "holds no network"),
        (lambda p: RunDirectory.create(p / "full", {}), "exists and is not an empty folder"),
        (lambda p: RunDirectory.create(p / "full" / "file" / "run", {}), "cannot be made"),
        (lambda p: train_and_record(config(), p / "full", dataset=dataset()), "exists and is not an empty folder"),
        (lambda p: read_run(broken(p / "a", "metrics.jsonl", "x\n{}\n")), "line 1 is no JSON object: 'x'"),
        (lambda p: read_run(broken(p / "n", "metrics.jsonl", "{}\n5\n")), "line 2 is no JSON object: '5'"),
        (lambda p: read_run(broken(p / "b", "result.json", "{")), "result.json cannot be read"),
        (lambda p: load(broken(p / "c", "model.json", "{}")), "has not the schema 1"),
        (
            lambda p: load(broken(p / "d", "model.json", json.dumps({"schema": 1, "name": "x"}))),
            "lacks the field 'options'",
        ),
        (lambda p: load(broken(p / "e", "model.safetensors", "zzzzzzzzzzzz")), "model.safetensors cannot be read"),
        (lambda p: load(broken(p / "f", "config.json", "{}")).predict("none.png"), "none.png cannot be read"),
        (lambda p: load(broken(p / "g", "config.json", "{}")).predict(torch.rand(2, 5, 5)), "got (2, 5, 5)"),
        (lambda p: load(broken(p / "h", "config.json", "{}")).predict(3), "got int"),
    ],
)
def test_errors(tmp_path: Path, call, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("content")
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call(tmp_path)
