"""Valid files of every kind that the toolkit reads, and how each is read."""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from PIL import Image
from safetensors.torch import save_file

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.augment.fixed import trivial_augment_wide
from hypergrad.checkpoint import Checkpoints
from hypergrad.cli.layers import file_layer, merged
from hypergrad.cli.refusals import validated
from hypergrad.report import write_report
from hypergrad.report.building import build_report
from hypergrad.vision.comparing.contenders import Contender
from hypergrad.vision.comparing.costs import Cost
from hypergrad.vision.comparing.plan import Plan, read_comparison
from hypergrad.vision.config import RandAugment, Standard, TrainConfig
from hypergrad.vision.data import read_dataset
from hypergrad.vision.models import build_model
from hypergrad.vision.models.weights import load_weights
from hypergrad.vision.predict import load
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import read_run
from hypergrad.vision.samples import read_samples
from hypergrad.vision.searching import read_searched, search_and_record


@dataclass(frozen=True)
class Reader:
    """A reader and valid input for it.

    Attributes:
        name: for the table.
        folder: of the valid files.
        files: those that are changed, relative to the folder.
        read: called with a copy of the folder.
        share: of the inputs, relative to other readers.
        is_json: the files are JSON, or lines of it.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    share: int = 2
    is_json: bool = False


def make_readers(folder: Path) -> list[Reader]:
    """Write the valid files below ``folder``."""
    rng = np.random.default_rng(0)
    makers = (_policies, _settings, _checkpoint, _runs, _weights, _pixel_sets, _photographs)
    return [reader for make in makers for reader in make(folder, rng)]


def _policies(folder: Path, rng: np.random.Generator) -> list[Reader]:
    for name in ("learned", "fixed"):
        (folder / name).mkdir()
    Policy(2, ["Rotate", "Invert", "Color"]).save(folder / "learned" / "policy.json")
    trivial_augment_wide().save(folder / "fixed" / "policy.json")
    return [
        Reader("policy, learned", folder / "learned", ("policy.json",), _in("policy.json", Policy.load), 4, True),
        Reader("policy, fixed", folder / "fixed", ("policy.json",), _in("policy.json", FixedPolicy.load), 3, True),
    ]


def _in(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / name)


def _config(path: Path) -> TrainConfig:
    layer = file_layer(path)
    return validated(merged([layer]), [layer])


def _settings(folder: Path, rng: np.random.Generator) -> list[Reader]:
    for name in ("json", "toml"):
        (folder / name).mkdir()
    (folder / "json" / "config.json").write_text(json.dumps(TrainConfig().model_dump(mode="json"), indent=1))
    (folder / "toml" / "config.toml").write_text(
        'epochs = 3\nlr = 0.1\n[data]\nname = "digits"\n[method]\nname = "madao"\nevery = 5\n'
        'solver_options = {alpha = "auto"}\n[standard]\nflip = false\n'
    )
    return [
        Reader("settings, JSON", folder / "json", ("config.json",), _in("config.json", _config), 4, True),
        Reader("settings, TOML", folder / "toml", ("config.toml",), _in("config.toml", _config), 4),
    ]


def _checkpoint(folder: Path, rng: np.random.Generator) -> list[Reader]:
    def opened(path: Path) -> Checkpoints:
        return Checkpoints(path, kind="fuzz", identity={"lr": 0.1})

    state = {"w": torch.ones(3, 2).t(), "history": [(1, 0.5)], "by": {1: float("inf")}, "kind": torch.float32}
    opened(folder / "checkpoint").save(state, step=3)
    names = ("manifest.json", "state.json", "tensors.safetensors")
    files = tuple(f"00000001/{name}" for name in names)
    return [
        Reader("checkpoint", folder / "checkpoint", files, lambda path: opened(path).load(), 4),
        Reader("checkpoint, hash right", folder / "checkpoint", files[:1], lambda path: opened(path).load(), 4, True),
    ]


def _runs(folder: Path, rng: np.random.Generator) -> list[Reader]:
    data = {"train_size": 60, "test_size": 30, "validation": 20}
    settings: dict[str, Any] = {"data": data, "epochs": 2, "batch_size": 20, "threads": 1, "device": "cpu"}
    method = {"name": "madao", "every": 2, "solver_options": {"num_hvps": 1}}
    train_and_record(TrainConfig(**settings, method=method), folder / "run", progress=False)
    search_and_record(TrainConfig(**settings), "randaugment", folder / "search", progress=False)
    search_and_record(TrainConfig(**settings), "randaugment", folder / "unfinished", progress=False)
    (folder / "unfinished" / "result.json").unlink()
    (folder / "samples").mkdir()
    shutil.copy(folder / "run" / "samples.safetensors", folder / "samples")
    photo = folder / "picture.png"
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(photo)

    def predict(path: Path) -> None:
        load(path).predict(photo)

    def report(path: Path) -> None:
        write_report([path], path.parent / "report")

    text = ("config.json", "environment.json", "metrics.jsonl", "policies/0001.json", "result.json")
    result = ("config.json", "result.json", "metrics.jsonl", "environment.json")
    searched = ("search.json", "result.json")
    return [
        Reader("run", folder / "run", text, read_run, 6, True),
        Reader("run's network", folder / "run", ("model.json",), predict, 4, True),
        Reader("run's tensors", folder / "run", ("model.safetensors",), predict, 2),
        Reader("run's samples", folder / "samples", ("samples.safetensors",), read_samples, 3),
        Reader("report's values", folder / "run", result, lambda path: build_report([path]), 6, True),
        Reader("report of a run", folder / "run", (*result, "samples.safetensors"), report, 1, True),
        Reader("report of a search", folder / "search", searched, lambda path: build_report([path]), 4, True),
        Reader("search", folder / "search", searched, read_searched, 4, True),
        Reader("search's journal", folder / "unfinished", ("journal.log",), read_searched, 8, True),
        Reader("comparison", _comparison(folder), ("compare.json",), read_comparison, 2, True),
    ]


def _comparison(folder: Path) -> Path:
    rows = (Contender("standard", Standard()), Contender("randaugment", RandAugment()))
    costs = {row.label: Cost(steps=3, step=0.1) for row in rows}
    path = folder / "comparison"
    path.mkdir()
    Plan(contenders=rows, seeds=(0, 1), config=TrainConfig(), costs=costs).write(path)
    return path


def _weights(folder: Path, rng: np.random.Generator) -> list[Reader]:
    def network() -> torch.nn.Module:
        return build_model("small-cnn", num_classes=3, channels=1, image_size=8)

    readers = []
    for ending in ("safetensors", "pt", "pth"):
        place = folder / ending
        place.mkdir()
        state = network().state_dict()
        if ending == "safetensors":
            save_file(state, place / "weights.safetensors")
        else:  # the newer form, an archive, and the older one, a row of pickles
            torch.save(state, place / f"weights.{ending}", _use_new_zipfile_serialization=ending == "pt")
        name = f"weights.{ending}"
        readers.append(
            Reader(f"weights, .{ending}", place, (name,), _in(name, lambda p: load_weights(network(), p)), 3)
        )
    return readers


def _pixel_sets(folder: Path, rng: np.random.Generator) -> list[Reader]:
    def pixels(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n, 3072), dtype=np.uint8)

    batch = pickle.dumps({b"data": pixels(2), b"labels": [1, 2]}, 2)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    files = dict.fromkeys(names, batch) | {"batches.meta": pickle.dumps({b"label_names": [b"c"] * 10}, 2)}
    for name in ("cifar", "tar", "svhn", "mnist", "mnist.gz"):
        (folder / name).mkdir()
    for name, content in files.items():
        (folder / "cifar" / name).write_bytes(content)
    with tarfile.open(folder / "tar" / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "plain").mkdir()
    raw = gzip.decompress((folder / "tar" / "cifar-10-python.tar.gz").read_bytes())
    (folder / "plain" / "cifar-10-python.tar.gz").write_bytes(raw)
    for part in ("train", "test"):
        x, y = rng.integers(0, 256, (32, 32, 3, 2), dtype=np.uint8), np.array([[1], [10]], np.uint8)
        scipy.io.savemat(folder / "svhn" / f"{part}_32x32.mat", {"X": x, "y": y}, do_compression=part == "train")
    images, labels = rng.integers(0, 256, (4, 9, 9), dtype=np.uint8), np.array([0, 1, 0, 1], np.uint8)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / "mnist" / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
            (folder / "mnist.gz" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    packed = ("cifar-10-python.tar.gz",)
    return [
        Reader("CIFAR, pickles", folder / "cifar", ("data_batch_3", "batches.meta"), _set("cifar10"), 5),
        Reader("CIFAR, tar.gz", folder / "tar", packed, _set("cifar10", verify=False), 3),
        Reader("CIFAR, tar", folder / "plain", packed, _set("cifar10", verify=False), 3),
        Reader("SVHN", folder / "svhn", ("train_32x32.mat", "test_32x32.mat"), _set("svhn", verify=False), 4),
        Reader("MNIST", folder / "mnist", ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), _set("mnist"), 3),
        Reader("MNIST, gzip", folder / "mnist.gz", ("t10k-images-idx3-ubyte.gz",), _set("mnist"), 2),
    ]


def _set(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: read_dataset(name, folder, **options)


def _photographs(folder: Path, rng: np.random.Generator) -> list[Reader]:
    def photo(path: Path, ending: str = "") -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path, format=ending or None)
        return str(path)

    endings = ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm")
    for label in ("a", "b"):
        for ending in endings:
            photo(folder / "photos" / label / f"1.{ending}")
    pets, cars, flowers, emoji = (folder / name for name in ("pets", "cars", "flowers", "emoji"))
    (pets / "annotations").mkdir(parents=True)
    for part, line in (("trainval", "Cat_1 1 1 1\nDog_1 2 2 1\n"), ("test", "Cat_2 1 1 1\nDog_2 2 2 1\n")):
        (pets / "annotations" / f"{part}.txt").write_text(line)
    for name in ("Cat_1", "Dog_1", "Cat_2", "Dog_2"):
        photo(pets / "images" / f"{name}.jpg")
    (cars / "devkit").mkdir(parents=True)
    photo(cars / "cars_train" / "1.jpg"), photo(cars / "cars_test" / "1.jpg")
    kind = [("class", "O"), ("fname", "O")]
    scipy.io.savemat(cars / "devkit" / "cars_meta.mat", {"class_names": np.array(["x", "y"], dtype=object)})
    for name in ("cars_train_annos", "cars_test_annos_withlabels"):
        rows = np.array([(1, "1.jpg")], dtype=kind)
        scipy.io.savemat(cars / "devkit" / f"{name}.mat", {"annotations": rows}, do_compression="test" in name)
    flowers.mkdir()
    for number in range(1, 4):
        photo(flowers / "jpg" / f"image_{number:05d}.jpg")
    scipy.io.savemat(flowers / "imagelabels.mat", {"labels": [[1, 2, 3]]})
    scipy.io.savemat(flowers / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]})
    for style in ("google", "twitter"):
        package = emoji / f"emoji-datasource-{style}"
        sheet = package / "img" / style / "sheets" / "32.png"
        sheet.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (68, 68, 4), dtype=np.uint8)).save(sheet)
        names = [
            {"category": c, "unified": f"1F60{x}{y}", f"has_img_{style}": True, "sheet_x": x, "sheet_y": y}
            for x, c in enumerate(("Smileys", "Animals"))
            for y in range(2)
        ]
        (package / "emoji.json").write_text(json.dumps(names))
    mats = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "devkit/cars_test_annos_withlabels.mat")
    return [
        Reader("pictures", folder / "photos", tuple(f"a/1.{e}" for e in endings), _set("folder", image_size=8), 6),
        Reader("Pets", pets, ("annotations/trainval.txt",), _set("pets", image_size=8), 2),
        Reader("Cars", cars, mats, _set("cars", image_size=8), 3),
        Reader("Flowers", flowers, ("imagelabels.mat", "setid.mat"), _set("flowers102", image_size=8), 3),
        Reader("emoji", emoji, ("emoji-datasource-google/emoji.json",), _set("emoji"), 3, True),
        Reader("emoji's sheet", emoji, ("emoji-datasource-google/img/google/sheets/32.png",), _set("emoji"), 1),
    ]
