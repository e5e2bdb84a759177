"""benchmarks/scaling.py: its files say what was measured, and the model is its formula. No times."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("scaling")


def test_the_files_hold_what_was_measured(scaling, tmp_path, capsys):
    path = tmp_path / "results" / "scaling.json"
    assert scaling.main(["--smoke", "--output", str(path)]) == 0
    result = json.loads(path.read_text())
    p, h = result["parameters"], result["hyperparameters"]
    assert result["works"]["hypergradient"]["difference"] < 1e-5  # float32
    inner, outer = (result["works"][name]["traffic"] for name in ("inner step", "hypergradient"))
    # Beside the gradients: a value, and a flag for each tensor.
    assert p <= inner["elements"] <= p + 100
    assert 3 * p + 2 * h <= outer["elements"] <= 3 * p + 2 * h + 100
    page = path.with_suffix(".md").read_text()
    assert page == capsys.readouterr().out[:-1]
    assert path.with_suffix(".png").stat().st_size > 1000
    path.with_suffix(".md").unlink()
    assert scaling.main(["--render", str(path)]) == 0
    assert path.with_suffix(".md").read_text() == page


def test_the_model(scaling):
    model = importlib.import_module("_scaling_model")
    traffic = {"reductions": 3, "elements": 1000, "gathers": 2}
    assert model.seconds(8.0, traffic, 1, 1e3, 1.0) == 8.0
    # 8 / 4, six messages for each reduction and three for each gather, 2 * 3 / 4 of 4000 bytes at 1000 a second.
    assert model.seconds(8.0, traffic, 4, 1e3, 0.5) == pytest.approx(2 + (18 + 6) * 0.5 + 6)
    assert model.formula(10, 3, 5) == {"inner step": 10, "hypergradient": 76}
    assert model.median_wall([{"wall": 3.0}, {"wall": 1.0}, {"wall": 2.0}]) == 2.0
