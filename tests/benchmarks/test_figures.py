"""benchmarks/figure2.py and figures3_5.py: the pages say what the runs recorded; bad input ends in words."""

import json
import math
from pathlib import Path

import _figure_study
import figure2
import figures3_5
import pytest
import torch
from _figure2_table import findings, markdown, summarise
from _figure2_table import render as render_figure2
from _figures3_5_page import correlation, mean_policies
from _figures3_5_page import markdown as policy_page
from _runs import Cell, StudyError
from scipy import stats

from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import Recorded, read_run

ERRORS = {
    "standard": [9.0, 8.0, 10.0, 9.5],
    "fixed": [8.0, 7.5, 8.5, 9.0],
    "s=60": [5.0, 4.5, 5.5, 6.5],
    "s=15": [5.5, 5.0, 5.9, 6.6],
}


def in_this_process(cells: list[Cell], output: Path, *, workers: int) -> dict[tuple[str, int], Recorded]:
    """As run_cells, which has its own tests, without processes of its own."""
    runs = {}
    for cell in cells:
        path = output / f"seed{cell.seed}" / cell.row
        train_and_record(cell.config, path, progress=False)
        runs[cell.row, cell.seed] = read_run(path)
    return runs


@pytest.fixture
def results() -> dict:
    """Of four seeds; s=15 broke down in the last."""
    cells = []
    for label, errors in ERRORS.items():
        every = {"s=60": 60, "s=15": 15}.get(label)
        for seed, error in enumerate(errors):
            failed = label == "s=15" and seed == 3
            cells.append(
                {
                    "row": label, "seed": seed, "error": None if failed else error, "val_error": error,
                    "failure": "loss is nan" if failed else None, "updates": 0 if every is None else 600 // every,
                    "seconds": None if failed else 10.0,
                    "statuses": {} if every is None else {"truncated": 3}, "commit": "abc",
                }
            )  # fmt: skip
    arguments = figure2.parser().parse_args(["--seeds", "4"])
    learning = figure2.configurations(arguments)["s=60"]
    return {
        **_figure_study.frame("figure2", arguments, ["--seeds", "4"], learning),
        "commits": ["abc"], "seeds": [0, 1, 2, 3], "measured_on": "test",
        "images": {"train": 1000, "val": 100, "test": 300},
        "rows": [{"label": name, "every": {"s=60": 60, "s=15": 15}.get(name)} for name in ERRORS],
        "cost": {
            "rounds": 3, "clock": "CPU seconds",
            "step_seconds": {
                "standard": [0.5, 1.0, 1.5], "fixed": [1.0, 2.0, 3.0], "s=60": [1.3, 2.4, 3.3], "s=15": [2.0, 4.0, 6.0],
            },
        },
        "cells": cells,
    }  # fmt: skip


def line_of(page: str, label: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{label}` |")]
    return [part.strip() for part in line.strip("|").split("|")]


def test_the_table_of_figure_2(results: dict) -> None:
    page = markdown(results)
    p = stats.ttest_rel(ERRORS["s=60"], ERRORS["fixed"]).pvalue
    line = line_of(page, "s=60")
    assert line[1] == "5.38 ± 0.85 (4)" and line[2].startswith(f"-2.88, p = {p:.2g} [")
    assert line[4:] == ["10", "1.20 (1.15 to 1.25)", "12 truncated"]
    line = line_of(page, "s=15")
    assert line[1] == "5.47 ± 0.45 (3); 1 failed" and line[4:] == ["40", "2.00 (2.00 to 2.00)", "12 truncated"]
    assert line_of(page, "fixed")[2] == "–" and line_of(page, "fixed")[4:] == ["0", "1", "–"]
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ERRORS) and len({line.count("|") for line in lines}) == 1


def test_what_figure_2_shows(results: dict) -> None:
    told = "\n".join(findings(summarise(results)))
    assert "lowest mean error of the intervals is that of s = 60: 5.38" in told
    assert "`s=60` is better than `fixed`: -2.88" in told and "`s=60` is better than `standard`" in told
    # Over the three seeds of both.
    pair = stats.ttest_rel(ERRORS["s=60"][:3], ERRORS["s=15"][:3])
    word = "better than" if pair.pvalue < 0.01 else "not distinguishable from"
    assert f"`s=60` is {word} `s=15`" in told
    for cell in results["cells"]:
        if cell["row"].startswith("s="):
            cell["error"] = {0: 8.5, 1: 7.0, 2: 9.0, 3: 8.5}[cell["seed"]]
    told = "\n".join(findings(summarise(results)))
    assert "`s=60` is not distinguishable from `fixed` (at p < 0.01): +0.00 points, p = 1" in told


def test_the_papers_finding_is_named_as_the_papers(results: dict) -> None:
    (line,) = [line for line in markdown(results).splitlines() if "The paper's Figure 2" in line]
    assert "is on CIFAR-10" in line and "digits is a stand-in" in line
    results["data"] = "cifar10"
    assert "stand-in" not in markdown(results)


def test_a_single_seed_makes_a_page_and_a_picture(results: dict, tmp_path: Path) -> None:
    results["cells"] = [cell for cell in results["cells"] if cell["seed"] == 0]
    results["seeds"] = [0]
    page, picture = render_figure2(results, tmp_path / "one")
    assert line_of(page.read_text(), "s=60")[1:3] == ["5.00 (1)", "-3.00"]
    assert picture.read_bytes().startswith(b"\x89PNG") and "nan" not in page.read_text()


def test_figure_2_without_a_finished_fixed_run(results: dict, tmp_path: Path) -> None:
    for cell in results["cells"]:
        if cell["row"] == "fixed":
            cell |= {"error": None, "seconds": None, "failure": "loss is nan"}
    page, _ = render_figure2(results, tmp_path / "x")
    assert line_of(page.read_text(), "s=60")[2] == "–" and line_of(page.read_text(), "s=60")[3].startswith("-3.75, p")
    assert line_of(page.read_text(), "fixed")[1] == "–; 4 failed"


def test_figure_2_measures_what_the_runs_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figure2, "run_cells", in_this_process)
    assert figure2.main(["--smoke", "--seeds", "1", "--every", "4", "--output", str(tmp_path)]) == 0
    names = ["figure2-digits.json", "figure2-digits.md", "figure2-digits.png"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == names
    found = json.loads((tmp_path / names[0]).read_text())
    assert [row["label"] for row in found["rows"]] == ["standard", "fixed", "s=4"]
    for cell in found["cells"]:
        run = read_run(tmp_path / "seed0" / cell["row"])
        assert run.result is not None and run.config["seed"] == 0
        assert (cell["error"], cell["seconds"]) == (run.result["test"]["error"], run.result["seconds"])
        assert cell["updates"] == run.result["updates"] == (2 if cell["row"] == "s=4" else 0)
        assert len(found["cost"]["step_seconds"][cell["row"]]) == 1
        assert sum(cell["statuses"].values()) == cell["updates"]
    assert "root" not in found["config"]["data"] and str(tmp_path) not in (tmp_path / names[0]).read_text()
    page = (tmp_path / names[1]).read_text()
    assert page == markdown(found) and "smoke run" in page
    (tmp_path / names[1]).unlink()
    assert figure2.main(["--render", str(tmp_path / names[0])]) == 0
    assert (tmp_path / names[1]).read_text() == page
    assert "figure2-digits.md" in capsys.readouterr().out


def test_rows_of_figure_2_differ_in_the_interval_alone() -> None:
    found = figure2.configurations(figure2.parser().parse_args(["--every", "5", "60", "5", "--epochs", "7"]))
    assert list(found) == ["standard", "fixed", "s=60", "s=5"]
    assert all(config.epochs == 7 for config in found.values())
    changed = found["s=5"].model_copy(update={"method": found["s=5"].method.model_copy(update={"every": 60})})
    assert changed == found["s=60"] and changed.method.solver_options == {"alpha": "auto"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a tiny training with MADAO."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures3_5, "run_cells", in_this_process)
        assert figures3_5.main(["--smoke", "--output", str(folder)]) == 0
    return folder


def test_figures_3_to_5_hold_the_recorded_policies(runs: Path) -> None:
    found = json.loads((runs / "figures3_5-digits.json").read_text())
    recorded = [read_run(runs / f"seed{seed}" / "madao") for seed in (0, 1)]
    assert found["epochs"] == [1, 2] and [run["seed"] for run in found["runs"]] == [0, 1]
    for run, kept in zip(recorded, found["runs"], strict=True):
        assert kept["updates"] == len(run.updates) > 0
        for at, (_, policy) in enumerate(run.policies):
            for name, value in policy.values().items():
                torch.testing.assert_close(torch.tensor(kept[name][at]), value, atol=5.1e-5, rtol=0)
    drift = torch.tensor(found["runs"][0]["pi"][-1]) - 1 / len(found["operations"])
    assert float(drift.abs().max()) > 0.01  # the policy was learned at all
    for at, (epoch, mean) in enumerate(mean_policies(found)):
        assert epoch == at + 1
        for name, value in mean.values().items():
            wanted = sum(run.policies[at][1].values()[name] for run in recorded) / 2
            torch.testing.assert_close(value, wanted, atol=2e-4, rtol=0)


def test_figures_3_to_5_leave_pictures_and_a_page(runs: Path, tmp_path: Path) -> None:
    for path in (runs / "figures3_5-digits.png", *(runs / f"seed{s}" / "madao/pictures/policy.png" for s in (0, 1))):
        assert path.read_bytes().startswith(b"\x89PNG")
    found = json.loads((runs / "figures3_5-digits.json").read_text())
    page = (runs / "figures3_5-digits.md").read_text()
    final = torch.tensor([run["mu"][-1] for run in found["runs"]])[:, 0, found["operations"].index("Rotate")]
    line = next(line for line in page.splitlines() if line.startswith("| Rotate |"))
    assert line.split("|")[4].strip() == f"{final.mean():.2f} ({final.min():.2f} to {final.max():.2f})"
    # The page and the picture come from the JSON alone.
    copy = tmp_path / "figures3_5-digits.json"
    copy.write_text(json.dumps(found))
    assert figures3_5.main(["--render", str(copy)]) == 0
    assert copy.with_suffix(".md").read_text() == page == policy_page(found, "figures3_5-digits.png")
    assert copy.with_suffix(".png").read_bytes() == (runs / "figures3_5-digits.png").read_bytes()


def test_runs_that_are_there_are_drawn_where_they_are(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "seed1" / "madao"
    assert figures3_5.main(["--run", str(path)]) == 0
    found = json.loads((path / "pictures" / "figures3_5.json").read_text())
    assert found["seeds"] == [1] and "seed" not in found["config"]
    assert "figures3_5.png" in capsys.readouterr().out


def test_a_run_that_is_not_finished_counts_as_far_as_it_is(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures3_5, "draw_run", lambda path: [])  # has its own tests
    path = tmp_path / "stopped"
    path.mkdir()
    whole = runs / "seed0" / "madao"
    for name in ("config.json", "environment.json"):
        (path / name).write_text((whole / name).read_text())
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"kind": "epoch"' in line)
    (path / "metrics.jsonl").write_text("".join(lines[: first + 1]))
    (path / "policies").mkdir()
    (path / "policies" / "0001.json").write_text((whole / "policies" / "0001.json").read_text())
    words = ["--run", str(runs / "seed1" / "madao"), "--run", str(path), "--results", str(tmp_path)]
    assert figures3_5.main(words) == 0
    found = json.loads((tmp_path / "figures3_5.json").read_text())
    assert found["epochs"] == [1] and found["seeds"] == [1, 0]
    assert "After epoch 1" in (tmp_path / "figures3_5.md").read_text()


def test_runs_that_cannot_be_drawn(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = runs / "seed0" / "madao"
    other, plain = tmp_path / "other", tmp_path / "plain"
    for path, change in ((other, {"lr": 0.01}), (plain, {"method": {"name": "standard"}})):
        (path / "policies").mkdir(parents=True)
        for source in ("environment.json", "metrics.jsonl"):
            (path / source).write_text((whole / source).read_text())
        (path / "config.json").write_text(json.dumps(json.loads((whole / "config.json").read_text()) | change))
    policy = (whole / "policies" / "0001.json").read_text()
    (other / "policies" / "0001.json").write_text(policy)
    for paths, message in (
        ([tmp_path / "none"], "is no run of hypergrad"),
        ([plain], "has recorded no learned policy (method: standard)"),
        ([whole, other], "differ in more than the seed"),
    ):
        words = [word for path in paths for word in ("--run", str(path))]
        assert figures3_5.main([*words, "--results", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_correlation_of_final_policies() -> None:
    first = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], dtype=torch.float64)  # (K, N)
    assert correlation(torch.stack([first, first])) == pytest.approx(1)
    mirrored = 2 / 3 - first
    assert correlation(torch.stack([first, mirrored])) == pytest.approx(-1)
    assert correlation(torch.stack([first, first, mirrored])) == pytest.approx(-1 / 3)
    assert correlation(first[None]) is None
    assert correlation(torch.full((2, 2, 3), 1 / 3, dtype=torch.float64)) is None


@pytest.mark.parametrize("script", [figure2, figures3_5])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits", "--root", "somewhere"], "Leave it out"),
        (["--render", "missing.json"], "missing.json"),
    ],
)
def test_bad_input_ends_in_words(
    script: object, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "run_cells", in_this_process)
    monkeypatch.chdir(tmp_path)
    assert script.main([*arguments, "--output", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{script.SCRIPT}.py: ") and message in told


@pytest.mark.parametrize("script", [figure2, figures3_5])
def test_results_of_another_script_are_refused(
    script: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"study": "table5"}')
    assert script.main(["--render", str(path)]) == 2
    assert f"holds no results of {script.SCRIPT}.py" in capsys.readouterr().err


@pytest.mark.parametrize("script", [figure2, figures3_5])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(KeyboardInterrupt(), 130, "are kept"), (StudyError("a worker failed"), 2, "a worker failed")],
)
def test_what_stops_the_runs_is_told(
    script: object, error: BaseException, status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stopped(cells: object, output: Path, *, workers: int) -> None:
        raise error

    monkeypatch.setattr(script, "run_cells", stopped)
    assert script.main(["--smoke", "--output", str(tmp_path)]) == status
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_command_of_the_results_holds_no_folders() -> None:
    words = ["--data", "digits", "--output", "/a/b", "--workers=3", "--seeds", "2,", "--results=/c", "--epochs", "3"]
    wanted = "python benchmarks/figure2.py --data digits --seeds 2, --epochs 3"
    assert _figure_study.command_line("figure2", words) == wanted


def test_results_of_a_smoke_run_stay_beside_its_runs(tmp_path: Path) -> None:
    parse = figure2.parser().parse_args
    output, stem = _figure_study.folders(parse(["--smoke", "--output", str(tmp_path)]), "figure2")
    assert (output, stem) == (tmp_path, tmp_path / "figure2-digits")
    output, stem = _figure_study.folders(parse(["--data", "fashion-mnist:rotated"]), "figure2")
    assert output.parts[-2:] == ("runs", "figure2-fashion-mnist-rotated")
    assert stem.parts[-2:] == ("results", "figure2-fashion-mnist-rotated")


def test_shown_numbers() -> None:
    assert _figure_study.mean_shown([]) == "–" and _figure_study.mean_shown([2.0]) == "2.00 (1)"
    assert _figure_study.mean_shown([1.0, 3.0]) == f"2.00 ± {math.sqrt(2):.2f} (2)"
    assert _figure_study.pair_shown(None) == "–"
