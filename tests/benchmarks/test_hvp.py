"""benchmarks/hvp.py: all ways agree as far as they should, and its files say what was measured. No times."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def hvp(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("hvp")


@pytest.fixture
def inner(hvp):
    return importlib.import_module("_hvp_measure")


# Of torch.func.jvp, which scripts its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("norm", ["group", "softmax"])
def test_all_ways_agree_and_the_files_hold_what_was_measured(hvp, norm, tmp_path, capsys):
    path = tmp_path / "results" / "hvp.json"
    arguments = [
        "--rounds",
        "1",
        "--batch",
        "4",
        "--floor-repeats",
        "1",
        "--norm",
        norm,
        "--num-hvps",
        "1",
        "--output",
        str(path),
    ]
    assert hvp.main(arguments) == 0
    result = json.loads(path.read_text())
    (problem,) = result["problems"]
    ways = problem["ways"]
    exact = ("kept graph by hand", "torch.func.vjp, reused", "torch.func.jvp of the gradient", "hypergrad")
    for way in exact:
        assert 0 < ways[way]["relative_error"] < 1e-4  # float32 against float64
        assert ways[way]["cosine"] == pytest.approx(1, abs=1e-8)
    for way in ("central differences by hand", "one-sided differences by hand", "bfloat16", "finite-difference"):
        assert 1e-7 < ways[way]["relative_error"] < 0.1
    assert not problem["refused"]
    assert ways["memory low"]["relative_error"] < 1e-4
    if norm != "softmax":
        assert ways["memory low"]["peak_bytes"] < ways["hypergrad"]["peak_bytes"]
        assert ways["curvature_share 1/4"]["flops"] < 0.8 * ways["hypergrad"]["flops"]
        assert ways["gauss-newton"]["flops"] < ways["hypergrad"]["flops"] <= ways["kept graph by hand"]["flops"]
        assert ways["curvature_share 1/4"]["peak_bytes"] < ways["hypergrad"]["peak_bytes"]
    assert all(len(row["seconds"]) == 1 for row in ways.values())
    assert result["command"].endswith(" ".join(arguments))
    table = path.with_suffix(".md").read_text()
    assert table == hvp.render(result) and table.strip() in capsys.readouterr().out
    assert f"| {ways['hypergrad']['time']['median']:.2f} (" in table
    picture = path.with_suffix(".png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert hvp.main(["--render", str(path)]) == 0
    assert picture.exists() and path.with_suffix(".md").read_text() == table


def test_ways_that_batch_norm_refuses_are_said(hvp, inner, monkeypatch):
    ways = importlib.import_module("_hvp_ways").ways
    kept = ("floor", "kept graph by hand", "hypergrad", "memory low")
    monkeypatch.setattr(inner, "ways", lambda *args: {k: v for k, v in ways(*args).items() if k in kept})
    options = {"batch": 4, "num_hvps": 1, "rounds": 1, "floor_repeats": 1, "seed": 0, "device": "cpu"}
    problem = inner.measure("batch", **options)
    assert problem["ways"]["hypergrad"]["relative_error"] < 1e-4
    assert list(problem["refused"]) == ["memory low"] and "BatchNorm" in problem["refused"]["memory low"]
    about = {"cpu": "", "cores": 2, "torch": "", "python": ""}
    page = hvp.render(
        {
            "environment": about,
            "setup": {**options, "threads": 1},
            "problems": [problem],
            "commit": "",
            "command": "",
        }
    )
    assert "| memory low | refused |" in page and "Refused: memory='low' cannot split" in page


def test_ratios_are_of_the_same_round(hvp):
    table = importlib.import_module("_hvp_table")
    problem = {"ways": {"a": {"seconds": [2.0, 40.0, 9.0]}, "b": {"seconds": [1.0, 10.0, 3.0]}}}
    assert table.ratio(problem, "a", "b") == 3


def test_quartiles_and_distances(inner):
    assert inner.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert inner.summary([2.5]) == {"median": 2.5, "q1": 2.5, "q3": 2.5}
    a, b = inner.torch.tensor([3.0, 5.0]), inner.torch.tensor([3.0, 4.0])
    assert inner.distance(a, b) == pytest.approx({"relative_error": 0.2, "cosine": 29 / 5 / 34**0.5})


def test_counts_are_checked(hvp, capsys):
    with pytest.raises(SystemExit):
        hvp.parser().parse_args(["--rounds", "0"])
    assert "must be at least 1; got 0" in capsys.readouterr().err


def test_smoke_is_small(hvp, inner, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(hvp, "measure", lambda name, **options: asked.append((name, options)))
    monkeypatch.setattr(hvp, "render", lambda result: "page")
    assert hvp.main(["--smoke", "--output", "-"]) == 0
    assert [name for name, _ in asked] == ["group", "batch", "softmax"]
    assert all((o["batch"], o["num_hvps"], o["rounds"], o["device"]) == (4, 1, 1, "cpu") for _, o in asked)
