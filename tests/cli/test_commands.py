"""What each command does, on the digits and on pictures that the test writes."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hypergrad.augment import Policy, load_policy
from hypergrad.cli import main
from hypergrad.cli.console import print_table
from hypergrad.cli.evaluation import _confusions
from hypergrad.vision.data import dataset_names, read_dataset
from hypergrad.vision.evaluation import Evaluation
from hypergrad.vision.predict import load
from hypergrad.vision.run import RunDirectory, read_run

TINY = ["--data.train-size", "64", "--data.test-size", "40", "--epochs", "2", "--method.every", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    path = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", *TINY, "--output", str(path), "--quiet", "--no-pictures"]) == 0
    return path


def test_train_leaves_a_run_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--standard.crop", "1"]) == 0
    out, err = capsys.readouterr()
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("use", "see", "eval")))
    (folder,) = Path("runs").iterdir()
    assert said["folder"] == str(folder) and folder.name.startswith("digits-madao-")
    recorded = read_run(folder)
    assert recorded.config["standard"]["crop"] == 1 and len(recorded.epochs) == 2
    assert recorded.result is not None
    assert f"validation error  {recorded.result['val']['error']:.2f} %  (144 images)" in out
    assert f"test error        {recorded.result['test']['error']:.2f} %  (40 images)" in out
    pictures = sorted(folder.glob("pictures/*.png"))
    assert {p.name for p in pictures} >= {"learning_curves.png", "policy.png", "samples.png"}
    assert all(f"picture           {p}" in out for p in pictures)
    assert "2/2" in err  # progress
    # What is proposed can be done.
    for line in out.splitlines()[-3:]:
        words = line[line.index("hypergrad ") :].split()[1:]
        if "IMAGE..." in words:
            Image.new("L", (8, 8)).save("a.png")
            words = [*words[:-1], "a.png"]
        assert main(words) == 0


def test_quiet_prints_the_folder_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(run / "config.json"), "--method", "standard", "--epochs", "1", "--quiet"]
    assert main([*arguments, "--output", "here", "--no-pictures"]) == 0
    assert capsys.readouterr() == ("here\n", "")
    assert read_run("here").config["method"] == {"name": "standard"}
    assert not Path("here", "pictures").exists()


def test_a_run_again_from_its_configuration_is_the_same(run: Path) -> None:
    assert main(["train", "--config", str(run / "config.json"), "--output", "b", "--quiet", "--no-pictures"]) == 0
    assert Path("b/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert Path("b/policy.json").read_bytes() == (run / "policy.json").read_bytes()


def interrupted(monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]) -> None:
    """The second epoch does not end."""
    append = RunDirectory.append

    def stopped(self: RunDirectory, line: dict[str, object]) -> None:
        if line.get("epoch") == 2:
            raise error()
        append(self, line)

    monkeypatch.setattr(RunDirectory, "append", stopped)


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, KeyboardInterrupt)
    assert main(["train", *TINY, "--output", "a", "--quiet"]) == 130
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        "hypergrad: interrupted; a holds the settings, the metrics of 1 epoch and their policies, but neither a "
        "network nor a checkpoint; begin anew with: hypergrad train --resume a\n"
    )
    assert len(read_run("a").policies) == 1


def test_ctrl_c_before_the_first_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "create", stop)
    assert main(["train", *TINY, "--output", "a", "--quiet"]) == 130
    assert capsys.readouterr().err == "hypergrad: interrupted; nothing was written\n"
    assert not Path("a").exists()


def test_a_loss_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--method", "standard", "--lr", "1e30", "--epochs", "2", "--quiet", "--output", "a"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "hypergrad: a checkpoint is in a, after 0 epochs; go on with: hypergrad train --resume a" in lines
    said = next(line for line in lines if line.startswith("hypergrad: error: Inner step "))
    assert "the loss is " in said and "A lower lr (1e+30 now)" in said


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluate_gives_what_the_run_measured(run: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--split", split, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = read_run(run).result
    assert recorded is not None
    for key, value in recorded[split].items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum() == found["count"]
    assert found["error"] == pytest.approx(100 * (1 - confusion.diagonal().sum().item() / found["count"]))


def test_evaluate_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--pairs", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    recorded = read_run(run).result
    assert recorded is not None
    assert lines[:3] == [["first"], ["data", "digits,", "test"], ["images", "40"]]
    assert ["error,", "%", f"{recorded['test']['error']:.2f}"] in lines
    assert lines[-2] == ["class", "taken", "for", "images"] and len(lines[-1]) == 3


def test_the_most_confused_pairs() -> None:
    found = Evaluation(12, 0.0, 50.0, None, [[5, 1, 0], [0, 0, 3], [2, 0, 1]])
    pairs = [asdict(pair) for pair in _confusions(found, ("a", "b", "c"), 2)]
    assert pairs == [
        {"true": "b", "predicted": "c", "count": 3},
        {"true": "c", "predicted": "a", "count": 2},
    ]
    assert len(_confusions(found, ("a", "b", "c"), 9)) == 3 and not _confusions(found, ("a", "b", "c"), 0)


def folder_of(classes: str, per_class: int, root: str = "photos") -> None:
    """Class per folder, 12 x 10 pixels in colour, coloured by class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        Path(root, name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 80, (12, 10, 3), dtype=np.uint8)
            pixels[..., label % 3] += 150
            Image.fromarray(pixels).save(f"{root}/{name}/{i}.png")


def test_a_folder_of_pictures_from_training_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    folder_of("abc", 20)
    arguments = ["train", "--data", "folder", "--data.root", "photos", "--data.image-size", "8", "--data.workers", "0"]
    options = ["--data.validation", "0.2", "--epochs", "12", "--batch-size", "8", "--method", "randaugment"]
    assert main([*arguments, *options, "--output", "a", "--quiet", "--no-pictures"]) == 0
    folder_of("abc", 4, "new")
    capsys.readouterr()
    assert main(["evaluate", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "val"
    assert main(["evaluate", "a", "--data.root", "new", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["count"], found["data"]) == ("all images", 12, "folder")
    folder_of("abd", 4, "others")
    assert main(["evaluate", "a", "--data.root", "others"]) == 2
    assert "missing ['c'], unknown ['d']" in capsys.readouterr().err
    assert main(["evaluate", "a", "--data.root", "new", "--split", "val"]) == 2
    assert "has no part 'val'" in capsys.readouterr().err
    assert main(["evaluate", "a", "--split", "test"]) == 2
    assert "has no test images" in capsys.readouterr().err
    # The same answers by the other command, and by Python.
    assert main(["predict", "a", "new", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [f"new/{name}/{i}.png" for name in "abc" for i in range(4)]
    wrong = sum(row["label"] != Path(row["file"]).parent.name for row in rows)
    assert 100 * wrong / 12 == pytest.approx(found["error"])
    assert wrong < 6, "it has learned nothing"
    assert rows[5]["probabilities"] == load("a").predict("new/b/1.png").probabilities


def test_predict_names_a_broken_file_and_does_the_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (9, 12), (200, 10, 10)).save(f"{name}.png")
    Path("b.png").write_bytes(Path("b.png").read_bytes()[:40])
    assert main(["predict", str(run), "a.png", "b.png", "--device", "cpu", "none.png", "c.png"]) == 2
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    expected = load(run).predict("a.png")
    assert rows == [[f"{name}.png", expected.label, f"{expected.probability:.4f}"] for name in "ac"]
    first, second = err.splitlines()
    assert first.startswith("hypergrad: error: b.png cannot be read") and "none.png" in second


def test_predict_in_a_folder_without_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("x")
    assert main(["predict", str(run), "empty"]) == 2
    assert "empty holds no image file" in capsys.readouterr().err


PREVIEWS = {
    "a run": "{run} --output a.png",
    "its file": "{run}/policy.json --output a.png",
    "a published one": "--policy autoaugment --count 2 --output a.png",
    "pictures": "--policy madao --images x.png y.png --image-size 12 --output a.png",
}


@pytest.mark.parametrize("case", PREVIEWS)
def test_preview(case: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("x", (20, 13)), ("y", (9, 30))):
        Image.new("RGB", size, (200, 10, 10)).save(f"{name}.png")
    drawn: list[torch.Tensor] = []
    preview = Policy.preview

    def spied(self: Policy, images: torch.Tensor, *arguments: object, **options: object) -> object:
        drawn.append(images)
        return preview(self, images, *arguments, **options)

    monkeypatch.setattr(Policy, "preview", spied)
    assert main(["preview", *PREVIEWS[case].format(run=run).split()]) == 0
    assert capsys.readouterr().out == "a.png\n"
    with Image.open("a.png") as picture:
        assert min(picture.size) > 200
    if case == "a run":
        train = read_dataset("digits").train
        firsts = [int((train.targets == label).nonzero()[0]) for label in range(6)]
        assert torch.equal(drawn[0], train.images[firsts] / 255)
    if case == "pictures":
        assert drawn[0].shape == (2, 3, 12, 12)
        assert (drawn[0][:, 0] - 200 / 255).abs().max() < 1e-6


def test_preview_of_a_run_is_that_of_its_policy(run: Path) -> None:
    assert main(["preview", str(run), "--count", "3", "--seed", "4", "--output", "a.png"]) == 0
    images = read_dataset("digits").train
    firsts = [int((images.targets == label).nonzero()[0]) for label in range(3)]
    load_policy(run / "policy.json").preview(images.images[firsts] / 255, "b.png", key=4)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_datasets_list_says_what_each_is_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == dataset_names()
    assert all(len(row["what"]) > 20 and len(row["files"]) > 20 for row in rows)
    assert main(["datasets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == dataset_names()


def test_datasets_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "check", "digits"]) == 0
    assert "digits: in order" in capsys.readouterr().out
    folder_of("ab", 3)
    Path("photos/a/1.png").write_bytes(Path("photos/a/1.png").read_bytes()[:50])
    assert main(["datasets", "check", "folder", "--root", "photos", "--image-size", "8"]) == 2
    out, err = capsys.readouterr()
    assert "a/1.png" in out and "1 files of folder cannot be decoded" in err


def test_a_table_is_plain_in_a_pipe_and_rich_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a[b]", 1), ("long", 234)]
    print_table(("name", "n"), rows)
    assert capsys.readouterr().out == "name    n\na[b]    1\nlong  234\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("name", "n"), rows)
    out = capsys.readouterr().out
    assert "─" in out or "-" in out
    assert "a[b]" in out and "234" in out
