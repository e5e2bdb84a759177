"""Decoding: files of every mode against Pillow, the cache, and processes that die."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, features

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data import cache, decoding
from hypergrad.vision.data.cache import decoded
from hypergrad.vision.data.pictures import Picture, decode

RNG = np.random.default_rng(0)
RED = (255, 0, 0)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def noise(width: int, height: int) -> Image.Image:
    """Smooth noise, of which every mode and format keeps something."""
    return Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))


def pixels(picture: Picture, side: int) -> np.ndarray:
    found = decode(picture, side)
    assert isinstance(found, np.ndarray), found
    assert found.shape == (3, side, side) and found.dtype == np.uint8 and found.flags.c_contiguous
    return found.transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("size", [(40, 40), (64, 40), (40, 90), (10, 12), (41, 77)])
def test_the_shorter_side_is_scaled_and_the_centre_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "x.png"
    image = noise(*size)
    image.save(file)
    found = pixels(Picture("x", file), 20)
    # Twin: scale, then cut out the centre.
    scale = 20 / min(size)
    width, height = (round(side * scale) for side in size)
    left, top = (width - 20) // 2, (height - 20) // 2
    twin = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 20, top + 20))
    exact = all((side * scale - 20) % 2 == 0 for side in size)
    difference = np.abs(found - np.asarray(twin).astype(int))
    assert difference.max() <= 1 if exact else difference.mean() < 6


FORMATS = {
    "jpg": "RGB L CMYK", "png": "RGB L P 1 RGBA LA", "bmp": "RGB L P 1", "gif": "L P", "webp": "RGB RGBA",
    "tif": "RGB L P 1 CMYK RGBA YCbCr", "ppm": "RGB", "pgm": "L",
}  # fmt: skip


@pytest.mark.parametrize(("extension", "mode"), [(e, m) for e, modes in FORMATS.items() for m in modes.split()])
def test_formats_and_modes(tmp_path: Path, extension: str, mode: str) -> None:
    if extension == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    file = tmp_path / f"x.{extension}"
    image = noise(32, 32)
    image.convert(mode).save(file)
    with Image.open(file) as opened:
        twin = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(pixels(Picture("x", file), 32) - twin).max() == 0
    if mode != "1":  # and it is the picture that was saved, as far as format and mode keep it
        meant = image.convert("L").convert("RGB") if mode in ("L", "LA") else image
        assert np.abs(twin - np.asarray(meant).astype(int)).mean() < 18  # a palette of 216 colours errs by 13


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_transparent_pixels_lie_over_white(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "x.png"
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 4))
    if mode == "tRNS":  # RGB, of which one colour is transparent
        solid = Image.new("RGB", (8, 8), (1, 2, 3))
        solid.paste((0, 0, 0), (0, 0, 8, 4))
        solid.save(file, transparency=(1, 2, 3))
    elif mode == "P":
        image.quantize(4).save(file)
    else:
        image.convert(mode).save(file)
    found = pixels(Picture("x", file), 8)
    assert (found[:4] == 0).all() and (found[4:] == 255).all()


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "x.png")
    assert np.abs(pixels(Picture("x", tmp_path / "x.png"), 4) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, extension: str) -> None:
    levels = RNG.integers(0, 65536, (8, 8), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"x.{extension}")
    assert (pixels(Picture("x", tmp_path / f"x.{extension}"), 8) == (levels >> 8)[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    # Where the corner that is stored top left must be shown (EXIF 2.3, tag 0x0112).
    shown = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    image = Image.new("RGB", (8, 8))
    image.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    found = pixels(Picture("x", tmp_path / "x.png"), 8)
    assert tuple(found[4 * shown[0] + 1, 4 * shown[1] + 1]) == RED and found[..., 0].sum() == 16 * 255


def test_first_frame_and_cut_bottom_and_content(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (pixels(Picture("x", tmp_path / "x.gif"), 8) == RED).all()
    banner = Image.new("RGB", (8, 28), RED)
    banner.paste((255, 255, 255), (0, 8, 8, 28))
    banner.save(tmp_path / "x.png")
    assert (pixels(Picture("x", (tmp_path / "x.png").read_bytes(), cut_bottom=20), 8) == RED).all()
    assert (
        decode(Picture("x", tmp_path / "x.png", cut_bottom=28), 8)
        == "it is 28 pixels high, of which 28 are to be cut off"
    )


def broken_files(folder: Path) -> dict[str, str]:
    """File to a part of what must be said of it."""
    noise(300, 300).save(folder / "whole.png")
    noise(300, 300).save(folder / "whole.jpg")
    for name in ("png", "jpg"):
        content = (folder / f"whole.{name}").read_bytes()
        (folder / f"cut.{name}").write_bytes(content[: len(content) // 2])
        (folder / f"whole.{name}").unlink()
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.jpg").touch()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(folder / "int.tif")
    return {
        "cut.png": "truncated", "cut.jpg": "truncated", "text.jpg": "cannot identify", "empty.jpg": "cannot identify",
        "float.tif": "floating-point", "int.tif": "32 bits", "none.jpg": "No such file",
    }  # fmt: skip


def test_faults_are_told(tmp_path: Path) -> None:
    for name, told in broken_files(tmp_path).items():
        found = decode(Picture(name, tmp_path / name), 8)
        assert isinstance(found, str) and told in found, (name, found)


def pictures(folder: Path, n: int = 5) -> list[Picture]:
    folder.mkdir(exist_ok=True)
    for k in range(n):
        Image.new("RGB", (9, 7), (k, k, k)).save(folder / f"{k}.png")
    return [Picture(f"{k}.png", folder / f"{k}.png") for k in range(n)]


def run(listed: list[Picture], root: Path, side: int = 4, workers: int = 0) -> cache.Decoded:
    return decoded(listed, name="test-train", root=root, side=side, workers=workers)


def levels(found: cache.Decoded) -> list[int]:
    assert found.images.flatten(1).amin(1).equal(found.images.flatten(1).amax(1))
    return found.images[:, 0, 0, 0].tolist()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each whole decoding decoded."""
    calls: list[int] = []

    def counting(listed: list[Picture], side: int, workers: int) -> object:
        calls.append(len(listed))
        return decoding.decode_all(listed, side, workers)

    monkeypatch.setattr(cache, "decode_all", counting)
    return calls


def test_the_cache_is_used_again_only_if_it_agrees(tmp_path: Path, counted: list[int]) -> None:
    root = tmp_path / "set"
    listed = pictures(root)
    for _ in range(2):
        found = run(listed, root)
        assert levels(found) == [0, 1, 2, 3, 4] and found.rows.tolist() == [0, 1, 2, 3, 4] and not found.broken
        assert found.images.shape == (5, 3, 4, 4) and found.images.dtype == torch.uint8
    assert counted == [5]
    assert levels(run(listed[:3], root)) == [0, 1, 2] and counted == [5, 3]  # other files
    assert levels(run(listed[::-1], root)) == [4, 3, 2, 1, 0] and counted == [5, 3, 5]  # another order
    run(listed[::-1], root, side=6)
    assert counted == [5, 3, 5, 5]  # another size has a file of its own
    Image.new("RGB", (9, 7), (99,) * 3).save(root / "0.png")
    assert levels(run(listed, root))[0] == 99 and counted == [5, 3, 5, 5, 5]  # another content
    os.utime(root / "0.png", ns=(0, 0))
    run(listed, root)
    assert counted == [5, 3, 5, 5, 5, 5]  # another time
    run([Picture("0.png", root / "0.png", cut_bottom=1), *listed[1:]], root)
    assert len(counted) == 7  # cut off
    assert sorted(p.suffix for p in cache.cache_folder().iterdir()) == [".json", ".json", ".u8", ".u8"]  # none is left


def test_the_mapped_pixels_outlive_their_replacement(tmp_path: Path) -> None:
    root = tmp_path / "set"
    listed = pictures(root)
    old = run(listed, root)
    Image.new("RGB", (9, 7), (99,) * 3).save(root / "0.png")
    assert levels(run(listed, root))[0] == 99 and levels(old)[0] == 0


@pytest.mark.parametrize("damage", ["no record", "record cut", "record of a list", "pixels cut", "no pixels"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, counted: list[int], damage: str) -> None:
    root = tmp_path / "set"
    listed = pictures(root)
    run(listed, root)
    (record,) = cache.cache_folder().glob("*.json")
    (held,) = cache.cache_folder().glob("*.u8")
    if damage == "no record":
        record.unlink()
    elif damage == "record cut":
        record.write_bytes(record.read_bytes()[:30])
    elif damage == "record of a list":
        record.write_text(json.dumps([1]))
    elif damage == "pixels cut":
        held.write_bytes(held.read_bytes()[:-1])
    else:
        held.unlink()
    assert levels(run(listed, root)) == [0, 1, 2, 3, 4] and counted == [5, 5]


def test_a_killed_decoding_leaves_nothing_that_is_used(tmp_path: Path, counted: list[int]) -> None:
    root = tmp_path / "set"
    listed = pictures(root, 3)
    code = f"""
import os, signal
from pathlib import Path
from hypergrad.vision.data import cache
from hypergrad.vision.data.pictures import Picture
decode_all = cache.decode_all
def dying(*arguments):
    for row, found in enumerate(decode_all(*arguments)):
        if row == 2: os.kill(os.getpid(), signal.SIGKILL)
        yield found
cache.decode_all = dying
root = Path({str(root)!r})
listed = [Picture(f"{{k}}.png", root / f"{{k}}.png") for k in range(3)]
cache.decoded(listed, name="test-train", root=root, side=4, workers=0)
"""
    died = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    (left,) = cache.cache_folder().iterdir()
    assert left.suffix == ".tmp"
    assert levels(run(listed, root)) == [0, 1, 2] and counted == [3]
    assert left.exists()  # another process might still be writing it
    os.utime(left, (time.time() - 2 * cache.ABANDONED,) * 2)
    run(listed[:2], root)
    assert not left.exists()


def test_an_interrupted_decoding_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> object:
        yield np.zeros((3, 4, 4), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "decode_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(pictures(tmp_path / "set"), tmp_path / "set")
    assert not list(cache.cache_folder().iterdir())


def test_broken_files_are_left_out_and_looked_at_again(tmp_path: Path, counted: list[int]) -> None:
    root = tmp_path / "set"
    listed = pictures(root)
    good = (root / "1.png").read_bytes()
    bad = b"x" * len(good)
    (root / "1.png").write_bytes(bad)
    os.utime(root / "1.png", ns=(5, 5))
    for _ in range(2):
        found = run(listed, root)
        assert levels(found) == [0, 2, 3, 4] == found.rows.tolist()
        assert len(found.broken) == 1 and found.broken[0].startswith("1.png (UnidentifiedImageError")
    assert counted == [5]
    (root / "1.png").write_bytes(good)
    os.utime(root / "1.png", ns=(5, 5))  # as if only its permissions had been wrong: size and time are the same
    assert levels(run(listed, root)) == [0, 1, 2, 3, 4]
    for picture in listed:
        picture.source.write_bytes(bad)
    assert len(run(listed, root).broken) == 5 and len(run(listed, root).images) == 0


def test_a_process_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 2)  # more chunks than are in flight
    root = tmp_path / "set"
    listed = pictures(root, 10)
    (root / "4.png").write_bytes(b"x")
    alone, together = (list(decoding.decode_all(listed, 4, workers)) for workers in (0, 1))
    for a, b in zip(alone, together, strict=True):
        assert a == b if isinstance(a, str) else np.array_equal(a, b)
    assert isinstance(alone[4], str)


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # In truth by too little memory, or by a script without a main guard.
    future: Future[object] = Future()
    future.set_exception(BrokenProcessPool())
    pool = Mock()
    pool.submit.return_value = future
    monkeypatch.setattr(decoding, "ProcessPoolExecutor", Mock(return_value=pool))
    with pytest.raises(InvalidInputError, match='lacks `if __name__ == "__main__":`.*workers=0'):
        list(decoding.decode_all([Picture("x", b"")] * 100, 4, 2))
    pool.shutdown.assert_called_once()


def test_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    listed = pictures(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidInputError, match=r"cannot be written to .*file/hypergrad .* Set XDG_CACHE_HOME"):
        run(listed, root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(InvalidInputError, match=r"need 0.0 MB in .*, which has 0.0 MB left"):
        run(listed, root)
    with pytest.raises(InvalidInputError, match="image file .*none.png cannot be read"):
        run([Picture("none.png", root / "none.png")], root)


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore such a path
    assert cache.cache_folder() == Path.home() / ".cache" / "hypergrad"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "hypergrad"
