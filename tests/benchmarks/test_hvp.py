"""benchmarks/hvp.py: both ways agree and cost the same FLOPs, and its files say what was measured. No times."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def hvp(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("hvp")


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_both_ways_agree_and_the_files_hold_what_was_measured(hvp, norm, tmp_path, capsys):
    path = tmp_path / "results" / "hvp.json"
    arguments = ["--rounds", "1", "--batch", "2", "--norm", norm, "--num-hvps", "2", "--output", str(path)]
    assert hvp.main(arguments) == 0
    result = json.loads(path.read_text())
    assert 0 < result["relative_error"] < 1e-4  # float32, two orders of summation
    assert result["flops"]["hypergrad"] == result["flops"]["by hand"] > 5 * result["flops"]["floor"] > 0
    assert {name: len(times) for name, times in result["cpu_seconds"].items()} == dict.fromkeys(hvp.WAYS, 1)
    assert result["setup"]["hyperparameters"] == 43 and result["setup"]["parameters"] == 175_066
    assert result["command"].endswith(" ".join(arguments))
    table = path.with_suffix(".md").read_text()
    assert table == hvp.render(result)
    assert table.strip() in capsys.readouterr().out
    assert f"{result['ratios']['hypergrad / by hand']['median']:.2f}" in table


def test_quartiles(hvp):
    assert hvp.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert hvp.summary([2.5]) == {"median": 2.5, "q1": 2.5, "q3": 2.5}


def test_counts_are_checked(hvp, capsys):
    with pytest.raises(SystemExit):
        hvp.parser().parse_args(["--rounds", "0"])
    assert "must be at least 1; got 0" in capsys.readouterr().err
