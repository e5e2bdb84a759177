"""One test a fault that was found: what a hostile or damaged file did, and must not do."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from hypergrad.baselines import search
from hypergrad.baselines.space import Integer
from hypergrad.checkpoint import Checkpoints
from hypergrad.checkpoint.folder import _sealed
from hypergrad.cli.console import plain, print_error, print_table
from hypergrad.cli.entry import main
from hypergrad.cli.layers import Layer, file_layer, merged
from hypergrad.cli.refusals import validated
from hypergrad.errors import CheckpointError, InvalidInputError
from hypergrad.files import DEEPEST, open_regular, parse_json, read_json
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data import archives, read_dataset
from hypergrad.vision.data.archives import integers, read_mat, read_members
from hypergrad.vision.data.idx import read_idx
from hypergrad.vision.data.pickles import unpickle_arrays
from hypergrad.vision.data.pictures import LARGEST, Picture, decode
from hypergrad.vision.models import build_model
from hypergrad.vision.models.weights import load_weights
from hypergrad.vision.predict import load
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import read_run


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop", "zero byte", "absent"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path: str | Path = tmp_path / "file.json"
    if kind == "fifo":
        os.mkfifo(path)  # to open it would wait for a writer for ever
    elif kind == "folder":
        (tmp_path / "file.json").mkdir()
    elif kind == "device":
        os.symlink("/dev/zero", path)  # has no end
    elif kind == "loop":
        os.symlink(path, path)
    elif kind == "zero byte":
        path = f"{path}\0"
    with pytest.raises(OSError):
        open_regular(path)
    with pytest.raises(InvalidInputError, match="file.json"):
        read_json(path)
    if kind != "zero byte":
        assert isinstance(decode(Picture("p", Path(path)), 8), str)


def test_json_within_bounds() -> None:
    assert parse_json(b"[" * DEEPEST + b"]" * DEEPEST, "f")
    for text in (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 10**6):
        with pytest.raises(InvalidInputError, match="^f is (nested more than 64 deep|not JSON)"):
            parse_json(text, "f")
    names = ",".join(f'"{n}":1' for n in range(50_000))  # quadratic once: minutes
    with pytest.raises(InvalidInputError, match="^f: an object has the field '7' twice"):
        parse_json(f'{{{names},"7":2}}'.encode(), "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 100_000, "cannot be read as TOML"),
        ("a = " + "[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("lr = inf", "lr: must be a finite number"),
        ("lr = nan", "lr: must be"),
        ('[model]\nname = "torch.hub:load"', r"model.name: 'torch.hub:load' \(from .*c.toml\) is an import path"),
        ('[method]\nname = "autoaugment-search"\nproxy_model = "os:system"', "--method.proxy-model 'os:system'"),
    ],
)
def test_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)

    def read() -> None:
        layer = file_layer(tmp_path / "c.toml")
        validated(merged([layer]), [layer])

    with pytest.raises(InvalidInputError, match=message):
        read()


def test_an_import_path_is_taken_from_the_command_line() -> None:
    layers = [
        Layer("a.toml", {"model": {"name": "torch.hub:load"}}, is_file=True),
        Layer("the command line", {"model": {"name": "mine:Net"}}),
    ]
    assert validated(merged(layers), layers).model.name == "mine:Net"


def test_a_run_that_names_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "run").mkdir()
    description = {
        "schema": 1, "name": "evil:Net", "options": {}, "classes": ["a", "b"], "channels": 1, "side": 8, "pad_to": None,
        "crop": None, "mean": [0.5], "std": [0.5],
    }  # fmt: skip
    (tmp_path / "run" / "model.json").write_text(json.dumps(description))
    assert main(["predict", "run", "x.png"]) == 2 and not (tmp_path / "ran").exists()
    with pytest.raises(InvalidInputError, match="names the network 'evil:Net' by an import path.*--trust-code"):
        load(tmp_path / "run")
    for change, message in (
        ({"classes": 3}, "classes must be a non-empty list"),
        ({"std": [0.0]}, r"std\[0\] must be a positive number"),
        ({"options": {"depth": 10**9}}, "options.depth must be a number in"),
        ({"side": 10**9}, "side must be"),
    ):
        (tmp_path / "run" / "model.json").write_text(json.dumps({**description, "name": "small-cnn", **change}))
        with pytest.raises(InvalidInputError, match=f"model.json: {message}"):
            load(tmp_path / "run")


PICKLES = {
    "memo of 64 GB": b"\x80\x02]r\xff\xff\xff\x7f.",
    "object array": pickle.dumps(np.array([1, "a"], dtype=object), 2),
    "shape beyond its bytes": pickle.dumps(np.zeros(8, np.uint8), 2).replace(b"K\x08\x85", b"K\xff\x85"),
    "by class": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "array by call": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "nested keys": b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"K\x01u.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_that_harm_without_code(case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="batch was refused"):
            unpickle_arrays(PICKLES[case], "batch")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content.ljust(info.size, b"\0")))
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_only_regular_members(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("wanted")
    info.type, info.linkname = kind, "/etc/passwd"
    assert read_members(tar(tmp_path / "a.tar.gz", (info, b"")), {"wanted"}) == {}


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SPARE", 1 << 20)
    info = tarfile.TarInfo("wanted")
    info.size = 30 << 20
    with pytest.raises(InvalidInputError, match="a.tar.gz cannot be read.*decompresses to more than 20 times"):
        read_members(tar(tmp_path / "a.tar.gz", (info, b"")), {"wanted"})
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 30 << 20) + bytes(30 << 20)))
    with pytest.raises(InvalidInputError, match=r"a.gz cannot be read.*decompresses to more than 20 times"):
        read_idx(tmp_path / "a.gz")
    mat = io.BytesIO()
    scipy.io.savemat(mat, {"x": np.zeros(30 << 20, np.uint8)}, do_compression=True)
    with pytest.raises(InvalidInputError, match="a.mat cannot be read.*decompresses to more than 20 times"):
        read_mat(mat.getvalue(), "a.mat", "x")
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(30 << 20))
    network = build_model("small-cnn", num_classes=2, channels=1, image_size=8)
    with pytest.raises(InvalidInputError, match=r"w.pt cannot be read.*claims to hold 31457280"):
        load_weights(network, tmp_path / "w.pt")


def test_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "cannot identify" in decode(Picture("a", tmp_path / "a.png"), 8), "PostScript is a program"
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, LARGEST // 10_000 + 1, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + end
    assert "and at most 89,478,485 are decoded; scale it down" in decode(Picture("b", bomb), 8)
    for place in ("x/a", "x/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / place / "1.png")
        Image.new("RGB", (9, 9)).save(tmp_path / place / "2.png")
    os.mkfifo(tmp_path / "x" / "a" / "3.png")
    with pytest.warns(UserWarning, match="1 pipe, device or socket"):
        assert len(read_dataset("folder", tmp_path / "x", image_size=8).train) == 4


@pytest.mark.parametrize("values", [[1.5], [np.inf], [np.nan], [1j], [1e300], ["x"], [[1], [1, 2]], [None]])
def test_numbers_of_classes(values: list) -> None:
    with pytest.raises(InvalidInputError, match="f.mat: numbers of images and classes must be integers"):
        integers(values, "f.mat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: torch.full_like(w, float("nan")), "has NaN or infinite values in the file"),
        (lambda w: w.to_sparse(), "must be plain numbers"),
        (lambda w: w.to("meta"), "must be plain numbers"),
        (lambda w: w.to(torch.complex64), "must be plain numbers"),
    ],
)
def test_weights_that_are_no_numbers(tmp_path: Path, change, message: str) -> None:
    network = build_model("small-cnn", num_classes=2, channels=1, image_size=8)
    state = network.state_dict()
    name = next(iter(state))
    torch.save({**state, name: change(state[name])}, tmp_path / "w.pt")
    with pytest.raises(InvalidInputError, match=f"w.pt.*{name}.*{message}"):
        load_weights(network, tmp_path / "w.pt")


@pytest.mark.parametrize("lost", ["schema", "kind", "step", "identity", "files", "version"])
def test_a_manifest_with_the_right_hash(tmp_path: Path, lost: str) -> None:
    checkpoints = Checkpoints(tmp_path, kind="k")
    file = checkpoints.save({"a": 1}, step=1) / "manifest.json"
    content = json.loads(file.read_bytes())
    del content["seal"]
    for value in (None, [], "../.."):
        file.write_bytes(_sealed({**content, lost: value}))
        if lost == "kind" and value == "../..":
            continue
        with pytest.raises(CheckpointError, match="manifest.json lacks"):
            checkpoints.load()


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("first line\nan unfinished second line")  # was cut off, as a torn record
    with pytest.raises(InvalidInputError, match="notes.txt is no journal of Optuna"):
        search(lambda p, a: 0.0, {"n": Integer(0, 1)}, method="grid", storage=f"journal:{file}", progress=False)
    assert file.read_text() == "first line\nan unfinished second line"
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain("\x1b[2J\u202egnp.exe\udcff\r\x9b") == "\\x1b[2J\\u202egnp.exe\\udcff\\r\\x9b"
    assert plain("Zoë, 猫, 👩\u200d🔬\t\n") == "Zoë, 猫, 👩\u200d🔬\t\n"
    print_error("a\x1b]0;title\x07b\nc")
    print_table(("class",), [("\x1b[31mred\nhypergrad: done",)])
    told = capsys.readouterr()
    assert told.err == "hypergrad: error: a\\x1b]0;title\\x07b\nhypergrad: error: c\n"
    assert told.out == "class\n\\x1b[31mred\\nhypergrad: done\n"


def test_a_run_with_values_that_cannot_be(tmp_path: Path) -> None:
    settings = {
        "data": {"train_size": 40, "test_size": 20, "validation": 20},
        "epochs": 1,
        "batch_size": 20,
        "method": {"name": "standard"},
    }
    train_and_record(TrainConfig(**settings), tmp_path / "run", progress=False)
    assert read_run(tmp_path / "run").result is not None
    for name, change, message in (
        ("result.json", {"val": {"error": "<script>"}}, "val.error must be a number; got '<script>'"),
        ("result.json", {"confusion": [[1, 2]]}, r"confusion\[0\] must be a list of 1, not of 2"),
        ("result.json", {"classes": ["a", 3]}, r"classes\[1\] must be a string"),
        ("environment.json", {"arguments": 3}, "arguments must be"),
    ):
        whole = (tmp_path / "run" / name).read_text()
        (tmp_path / "run" / name).write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(InvalidInputError, match=f"{name}: {message}"):
            read_run(tmp_path / "run")
        (tmp_path / "run" / name).write_text(whole)
