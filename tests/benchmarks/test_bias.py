"""benchmarks/bias.py: what is compared is what the definition says, pairs are pairs, parts are used again."""

import json
import math
from pathlib import Path

import bias
import pytest
import torch
from _bias_figure import plot
from _bias_measure import (
    DAMPED,
    LARGE,
    NONE,
    OPTIONS,
    SMALL,
    SMOKE,
    SYSTEMS,
    Draws,
    Spectrum,
    between_batches,
    compared,
    estimator,
    squared_mean_error,
)
from _bias_table import bias as bias_of
from _bias_table import findings, markdown, seen
from _informative_gradients import Noise
from _informative_run import StudyRun

from hypergrad.keys import generator
from hypergrad.linearization import Linearization


def drawn(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=generator(seed), dtype=torch.float64)


def test_a_known_bias_and_a_known_noise_are_found() -> None:
    m, n = 4000, 20
    exact = drawn(m, n, 1)  # noise: root of 20
    shift = torch.full((n,), 0.3, dtype=torch.float64)
    found = compared(exact + shift + 0.1 * drawn(m, n, 2), exact)
    assert found["squared_bias"] == pytest.approx(0.09 * n / n, rel=0.05)  # |shift|^2 over the covariance's trace
    assert found["bias_p"] < 0.002
    assert found["variance"] == pytest.approx(1.01, rel=0.02)
    none = compared(exact + 0.1 * drawn(m, n, 3), exact)
    assert abs(none["squared_bias"]) < 4 * none["squared_bias_error"] < 1e-4
    between = between_batches(exact)
    assert between["noise"] == pytest.approx(math.sqrt(n), rel=0.02)
    assert between["relative_difference"] == pytest.approx(math.sqrt(2), rel=0.1)
    assert abs(between["cosine"]) < 0.01
    double = compared(2 * exact, exact)
    assert double["relative_error"] == pytest.approx(1) and double["cosine"] == pytest.approx(1)
    assert double["variance"] == pytest.approx(4)


def test_the_jackknife_is_the_spread_of_the_estimate() -> None:
    estimates, errors = [], []
    for seed in range(300):
        draws = drawn(20, 3, seed) + 0.5
        m = len(draws)
        estimates.append(float((draws.sum(0).square().sum() - draws.square().sum()) / (m * (m - 1))))
        errors.append(squared_mean_error(draws))
    spread = float(torch.tensor(estimates).std())
    assert float(torch.tensor(estimates).mean()) == pytest.approx(0.75, abs=4 * spread / 300**0.5)  # unbiased
    assert sum(errors) / 300 == pytest.approx(spread, rel=0.15)
    left = [torch.cat([draws[:i], draws[i + 1 :]]) for i in range(m)]  # by the definition
    values = torch.tensor([float((d.sum(0).square().sum() - d.square().sum()) / ((m - 1) * (m - 2))) for d in left])
    assert errors[-1] == pytest.approx(
        math.sqrt((m - 1) / m * float((values - values.mean()).square().sum())), rel=1e-5
    )


@pytest.fixture(scope="module")
def draws() -> Draws:
    run = StudyRun(bias.settings("digits", 0, True), None)
    before = run.raw()
    run.advance(3)
    assert torch.equal(run.raw(), before) and not run.trace.alphas  # the policy is not learned
    return Draws(run, run.point())


def test_draws_are_paired_and_the_options_are_what_they_say(draws: Draws) -> None:
    spectrum = Spectrum(highest=4.0, lowest=-0.5)
    noise = Noise.at(5, 0)

    def draw(system: str, options: dict, at: Noise = noise) -> torch.Tensor:
        return draws.draw(estimator(system, spectrum, options), at)

    for system in SYSTEMS:
        exact = draw(system, {})
        assert torch.equal(exact, draw(system, {}))
        assert torch.allclose(draw(system, OPTIONS["low memory"]), exact, rtol=1e-3, atol=1e-4 * float(exact.norm()))
        quarter = draw(system, OPTIONS["quarter"])
        assert torch.equal(quarter, draw(system, OPTIONS["quarter"]))  # the same rows every time
        assert not torch.equal(quarter, exact)
        assert not torch.equal(exact, draw(system, {}, Noise.at(5, 1)))
    # Six terms at an alpha of next to nothing are six times the first.
    plain = draws.draw(estimator(SMALL, Spectrum(1e9, 0.0), {}), noise)
    first = draws.draw(estimator(LARGE, Spectrum(1e9, 0.0), {}), noise)
    assert float(plain @ first / plain.norm() / first.norm()) > 0.999


def test_systems_have_the_exact_hessians_alpha_and_damping() -> None:
    spectrum = Spectrum(highest=4.0, lowest=-0.5)
    assert (spectrum.alpha, spectrum.damping) == (0.25, 1.0)
    assert Spectrum(4.0, 0.1).damping == 0.01
    assert estimator(LARGE, spectrum, {}).solver.alpha == 0.25 and estimator(SMALL, spectrum, {}).solver.alpha == 1e-3
    damped = estimator(DAMPED, spectrum, OPTIONS["gauss-newton"])
    assert (damped.damping, damped.curvature, damped.solver.max_steps) == (1.0, "gauss-newton", 5)


def test_the_spectrum_is_that_of_the_hessian(draws: Draws) -> None:
    found = draws.spectrum(7, batches=1, steps=40)
    noise = Noise.at(bias.keys.derive(7, "spectrum"), 0)
    batch, _ = draws.batches(noise)
    inner, _ = draws.objective.losses(noise.policy)
    A = Linearization(lambda w, h: inner(w, h, *batch), draws.objective.params, draws.objective.hparams)
    v = torch.randn(A.shape[0], generator=generator(1))
    for _ in range(60):
        v = A @ v
        v = v / v.norm()
    assert abs(float(v @ (A @ v))) <= max(found.highest, -found.lowest) * 1.01
    assert abs(float(v @ (A @ v))) == pytest.approx(max(found.highest, -found.lowest), rel=0.05)


def numbers(**changes: float) -> dict:
    return {
        "cosine": 0.9, "relative_error": 0.2, "cosine_of_means": 0.99999, "variance": 1.1, "squared_bias": 0.04,
        "squared_bias_error": 0.01, "bias_p": 0.001,
    } | changes  # fmt: skip


def results() -> dict:
    exact = {"noise": 1.0, "norm": 1.0, "squared_signal": 0.1, "cosine": 0.05, "cosine_of_means": 0.4,
             "relative_difference": 1.4}  # fmt: skip
    rows = {name: numbers() for name in (*OPTIONS, NONE)}
    rows["low memory"] = numbers(squared_bias=-1e-14, squared_bias_error=1e-14, bias_p=0.5)
    cells = [
        {"seed": seed, "point": point, "step": 10, "lambda_max": 14.0, "lambda_min": -2.0, "damping": 4.0,
         "seconds": 1.0, "commit": "abc", "systems": {s: {"exact": exact, "rows": rows} for s in SYSTEMS}}
        for seed in range(2) for point in (0.1, 0.5)
    ]  # fmt: skip
    return {
        "benchmark": "bias", "command": "python benchmarks/bias.py", "commits": ["abc"], "data": "digits",
        "environment": {"cpu": "a CPU", "torch": "2.13.0", "python": "3.11"}, "smoke": False,
        "config": {"model": {"name": "small-cnn"}, "epochs": 40, "batch_size": 64}, "plan": SMOKE.plain(),
        "cells": cells, "training": None,
    }  # fmt: skip


def test_numbers_of_the_page() -> None:
    pair = [numbers(), numbers(squared_bias=0.02, squared_bias_error=0.0)]
    assert bias_of(pair) == (pytest.approx(math.sqrt(0.03)), pytest.approx(math.sqrt(0.04)))
    assert seen(pair) and seen([numbers(bias_p=0.009)]) and not seen([numbers(bias_p=0.011)])
    # Two p-values of product q combine to q (1 - log q): 0.0099 and 0.0101 for these.
    assert seen([numbers(bias_p=0.0358)] * 2) and not seen([numbers(bias_p=0.0364)] * 2)
    page = markdown(results())
    rows = [line for line in page.splitlines() if line.startswith("| `quarter` |")]
    assert rows == [
        "| `quarter` | 0.20 / 0.20 | 0.900 / 0.900 | 0.20 / 0.20 | 1 - 1e-05 / 1 - 1e-05 | 1.10 / 1.10 |"
    ] * len(SYSTEMS)
    (other, *_) = [line for line in page.splitlines() if line.startswith("| exact, other batches |")]
    assert "| signal: 0.32 / 0.32 |" in other  # root of 0.1 over a noise of 1
    (row, *_) = [line for line in page.splitlines() if line.startswith("| `low memory` |")]
    assert "< 6e-08 / < 6e-08" in row
    told = "\n".join(findings(results()))
    assert "alpha * lambda_max is 0.014 to 0.014" in told
    assert "quarter 0.20 (about 18 draws)" in told and "low memory below 6e-08 (more than a million draws)" in told


def study(path: Path) -> Path:
    rows = ["madao", "madao:curvature_share=0.25"]
    errors = {rows[0]: (20.0, 21.0, 22.0), rows[1]: (21.0, 21.5, 23.5)}
    cells = [
        {"row": row, "seed": seed, "failure": None, "val_error": value, "test_error": value + 1}
        for row in rows for seed, value in enumerate(errors[row])
    ]  # fmt: skip
    content = {"study": "study", "data": "digits", "smoke": False, "command": "python benchmarks/study.py",
               "commits": ["abc"], "seeds": [0, 1, 2], "rows": rows, "settings": {"epochs": 40},
               "cells": cells}  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def test_the_training_is_compared_seed_by_seed(tmp_path: Path) -> None:
    page = markdown(results() | {"training": bias.training(study(tmp_path / "study.json"))})
    (line,) = [line for line in page.splitlines() if line.startswith("| validation |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # Differences 1, 0.5, 1.5: mean 1, deviation 0.5, t = 3.46 with two degrees of freedom.
    assert cells[:5] == ["validation", "22.00", "21.00", "+1.00 ± 0.50", "0.074"] and float(cells[5]) > 1


def test_smoke_is_resumed_and_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--smoke", "--output", str(tmp_path / "parts"), "--results", str(tmp_path / "x.json")]
    assert bias.main(arguments) == 0
    first = capsys.readouterr()
    assert "seed 0  step 4" in first.err and "A smoke run" in first.out
    assert bias.main([*arguments, "--training", str(study(tmp_path / "study.json"))]) == 0
    again = capsys.readouterr()
    assert "seed 0" not in again.err and "Does the training notice?" in again.out
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["command"] == "python benchmarks/bias.py --training benchmarks/results/study.json --smoke"
    assert set(found["cells"][0]["systems"][LARGE]["rows"]) == {*OPTIONS, NONE}
    (tmp_path / "x.md").unlink()
    (tmp_path / "x.png").unlink()
    assert bias.main(["--render", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out == (tmp_path / "x.md").read_text() + "\n" == again.out
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_picture_takes_several_points_and_seeds(tmp_path: Path) -> None:
    plot(results(), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--render", "nowhere.json"], "nowhere.json"),
        (["--training", "nowhere.json", "--smoke"], "nowhere.json"),
        (["--data", "fashion-mnist", "--root", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_in_words(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bias.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("bias.py: ") and message in told and "Traceback" not in told


def test_files_of_others_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "x.json"
    other.write_text('{"benchmark": "hvp"}')
    assert bias.main(["--render", str(other)]) == 2 and "Give the JSON that it wrote" in capsys.readouterr().err
    assert bias.main(["--smoke", "--training", str(other)]) == 2
    assert "no results of study.py" in capsys.readouterr().err


def test_an_interruption_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(bias, "measure_point", interrupted)
    assert bias.main(["--smoke", "--output", str(tmp_path), "--results", str(tmp_path / "x.json")]) == 130
    assert "the same command goes on" in capsys.readouterr().err and not (tmp_path / "x.json").exists()
