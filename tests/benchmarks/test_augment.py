"""benchmarks/augment.py: what it times does what the table says, and its files say what was measured. No times."""

import argparse
import json
import math
from pathlib import Path

import augment
import pytest
import torch
from _augment_table import RATIOS, Ratio, markdown, milliseconds
from _augment_ways import (
    FROZEN,
    HARD,
    HARD_ALWAYS,
    HARD_GROUPS,
    KORNIA_CHUNKS,
    KORNIA_IMAGES,
    KORNIA_ONE,
    KORNIA_TWO,
    PILLOW,
    PILLOW_FLOAT,
    RAND,
    SOFT_GRADIENT,
    TEMPERATURE,
    TRIVIAL,
    Way,
    make_ways,
    sum_name,
    weighted_sum,
)

from hypergrad import keys
from hypergrad.augment import PAPER_OPERATIONS, get_operation

SIZE = (4, 3, 12, 12)
SUMS = [sum_name(stages, gradient) for stages in (1, 2) for gradient in (False, True)]


@pytest.fixture
def ways() -> dict[str, Way]:
    return {way.name: way for way in make_ways(SIZE, device=torch.device("cpu"), seed=0, large=False)}


def test_every_way_that_a_ratio_names_is_there(ways: dict[str, Way]) -> None:
    assert {name for r in RATIOS for name in (r.top, r.bottom)} <= set(ways)
    assert len(ways) == 18


@pytest.mark.parametrize(
    "name",
    [
        *(HARD, HARD_ALWAYS, HARD_GROUPS, FROZEN, RAND, TRIVIAL),
        *(KORNIA_ONE, KORNIA_TWO, KORNIA_CHUNKS, KORNIA_IMAGES, PILLOW_FLOAT),
        *SUMS[::2],
    ],
)
def test_a_way_augments_the_batch_by_its_key(ways: dict[str, Way], name: str) -> None:
    results = [ways[name].call(key).detach() for key in (1, 1, 2, 3)]
    assert results[0].shape == SIZE and results[0].dtype == torch.float32
    assert torch.equal(results[0], results[1])
    assert not all(torch.equal(results[0], other) for other in results[2:])
    assert min(r.min().item() for r in results) >= -1e-5 and max(r.max().item() for r in results) <= 1 + 1e-5


def test_pillow_gives_the_levels_of_its_float_tensor(ways: dict[str, Way]) -> None:
    levels = ways[PILLOW].call(5)
    assert levels.dtype == "uint8" and levels.shape == (4, 12, 12, 3)
    assert torch.equal(torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255, ways[PILLOW_FLOAT].call(5))


def test_only_the_rows_that_say_so_are_always_applied(ways: dict[str, Way]) -> None:
    def repeated(name: str) -> float:
        """How often an image's most frequent result occurs: an image that is left alone is always the same."""
        results = torch.stack([ways[name].call(key) for key in range(40)]).flatten(2)  # (40, B, values)
        same = (results[:, None] == results[None]).all(-1).double()  # (40, 40, B)
        return float(same.mean(1).amax(0).mean())

    assert repeated(HARD) > 0.15 > repeated(HARD_ALWAYS)  # 1/4 of the images meet no operation


@pytest.mark.parametrize("name", [SOFT_GRADIENT, SUMS[1], SUMS[3]])
def test_gradients_reach_images_pi_mu_and_p(ways: dict[str, Way], name: str) -> None:
    stages = 1 if name == SUMS[1] else 2
    images, *raw = ways[name].call(3)
    assert images.shape == SIZE and [g.shape for g in raw] == 3 * [(stages, 14)]
    assert all(float(g.norm()) > 0 for g in (images, *raw))


def test_the_weighted_sum_is_its_definition() -> None:
    images = torch.rand(3, 3, 5, 6, dtype=torch.float64)
    names = ("Rotate", "Brightness", "Solarize")
    operations = [get_operation(name) for name in names]
    pi, mu, p = torch.randn(3, 2, 3, dtype=torch.float64)
    found = weighted_sum(images, operations, pi, mu, p, key=9)
    uniform = keys.uniform(9, torch.arange(3), 12, torch.float64)
    wanted = images
    for k in range(2):
        total = torch.zeros_like(images)
        for n, operation in enumerate(operations):
            u = uniform[:, 6 * k + n]
            sign = 1 - 2 * (uniform[:, 6 * k + 3 + n] < 0.5).double()
            b = torch.sigmoid((p[k, n] + torch.log(u / (1 - u))) / TEMPERATURE)[:, None, None, None]
            # Sums of weights may leave [0, 1] by rounding, which the public call would refuse.
            result = operation(wanted.clamp(0, 1), torch.sigmoid(mu[k, n]).expand(3), sign)
            total = total + torch.softmax(pi[k], -1)[n] * (b * result + (1 - b) * wanted)
        wanted = total
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert len(PAPER_OPERATIONS) == 14


def test_rounds_rotate_and_each_call_has_a_key_of_its_own_shared_by_all_ways() -> None:
    seen: list[tuple[str, int]] = []

    def way(name: str, calls: int) -> Way:
        return Way(name, "kornia", lambda key: seen.append((name, key)), calls)

    ticks = iter(range(1000))
    ways = [way(HARD, 2), way(KORNIA_TWO, 2), way(KORNIA_ONE, 1)]
    found = augment.measure(ways, rounds=3, seed=0, device=torch.device("cpu"), clock=lambda: float(next(ticks)))
    assert [name for name, _ in seen[:3]] == [HARD, KORNIA_TWO, KORNIA_ONE]  # memory and warm-up
    timed = seen[3:]
    order = [name for i, (name, _) in enumerate(timed) if i == 0 or timed[i - 1][0] != name]
    assert order == [HARD, KORNIA_TWO, KORNIA_ONE, KORNIA_TWO, KORNIA_ONE, HARD, KORNIA_ONE, HARD, KORNIA_TWO]
    by_name = {w.name: [key for name, key in timed if name == w.name] for w in ways}
    assert by_name[HARD] == by_name[KORNIA_TWO] and len(set(by_name[HARD])) == 6
    assert by_name[KORNIA_ONE] == by_name[HARD][::2]
    # The clock ticks once at each reading, so a round takes 1 and a call 1 / calls.
    assert found["seconds"] == {HARD: [0.5] * 3, KORNIA_TWO: [0.5] * 3, KORNIA_ONE: [1.0] * 3}
    assert found["ratios"][f"{HARD} / {KORNIA_ONE}"] == {"median": 0.5, "q1": 0.5, "q3": 0.5, "of_means": 0.5}
    assert set(found["ratios"]) == {f"{HARD} / {KORNIA_ONE}", f"{HARD} / {KORNIA_TWO}"}


@pytest.mark.parametrize(
    ("ratio", "value", "target", "verdict"),
    [
        (Ratio("a", "b", at_most=1.3), 1.3, "at most 1.3", "met"),
        (Ratio("a", "b", at_most=1.3), 1.31, "at most 1.3", "NOT met"),
        (Ratio("a", "b", at_least=10), 10.0, "at least 10", "met"),
        (Ratio("a", "b", at_least=10), 9.9, "at least 10", "NOT met"),
        (Ratio("a", "b"), 2.0, "", ""),
    ],
)
def test_verdicts(ratio: Ratio, value: float, target: str, verdict: str) -> None:
    assert ratio.target() == target and ratio.verdict(value) == verdict


def test_the_files_hold_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "augment.json"
    assert augment.main(["--smoke", "--output", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["environment"]["kornia"] and result["environment"]["pillow"] and result["setup"]["smoke"]
    (found,) = result["sizes"]
    assert found["size"] == augment.SMOKE_SIZE and len(found["ratios"]) == len(RATIOS)
    assert {len(values) for values in found["seconds"].values()} == set(found["calls"].values()) == {1}
    assert found["peak_bytes"][SOFT_GRADIENT] > found["peak_bytes"][HARD] > 0
    page = path.with_suffix(".md").read_text()
    assert page == markdown(result) and page.strip() in capsys.readouterr().out
    assert "(smoke run)" in page and "met |" not in page  # one call is judged by no target
    shown = milliseconds(found["times"][SOFT_GRADIENT]["median"])
    assert f"| {SOFT_GRADIENT} | {shown} (" in page
    assert math.isclose(found["ratios"][f"{HARD} / {KORNIA_TWO}"]["median"],
                        found["seconds"][HARD][0] / found["seconds"][KORNIA_TWO][0])  # fmt: skip

    result["setup"]["smoke"] = False
    path.write_text(json.dumps(result))
    for suffix in (".md", ".png"):
        path.with_suffix(suffix).unlink()
    assert augment.main(["--render", str(path)]) == 0
    assert "met |" in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["128x3x32", "128x1x32x32", "0x3x32x32", "1x3x32x32", "axbxcxd", "", "4x3x-2x2"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="128x3x32x32|at least 2 images"):
        augment.parse_size(text)


def test_sizes() -> None:
    assert augment.parser().parse_args(["--sizes", "2x3x4x5", "128x3x32x32"]).sizes == [(2, 3, 4, 5), (128, 3, 32, 32)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00123456, "1.23"), (0.0999, "99.9"), (0.1234, "123"), (12.3456, "12,346")]
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_a_c_library_without_mallopt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment.ctypes, "CDLL", lambda name: object())
    with pytest.raises(OSError, match="needs glibc's mallopt"):
        augment.keep_memory()


def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert augment.main(["--device", "cuda", "--output", "-"]) == 2
    assert "leave out --device cuda" in capsys.readouterr().err
