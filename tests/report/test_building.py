"""What counts as a run, what may be averaged, what a search costs, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hypergrad.errors import InvalidInputError
from hypergrad.report import Comparison, build_report, write_report

Make = Callable[..., Path]


def only(paths: list[Path]) -> Comparison:
    (comparison,) = build_report(paths)[0].comparisons
    return comparison


def result(path: Path) -> dict:
    return json.loads((path / "result.json").read_text())


def test_runs_are_found_below_folders_once_and_not_what_was_moved_aside(tmp_path: Path, make_run: Make) -> None:
    for name in ("seed0/standard", "seed0/standard~1", "seed0/.old", "seed0/deep/down/fixed"):
        make_run(tmp_path / name, name.rpartition("/")[2].strip("~1.") if "fixed" in name else "standard")
    found = only([tmp_path, tmp_path / "seed0" / "standard"])
    assert {s.folder for m in found.methods for s in m.seeds} == {
        str(tmp_path / "seed0" / "standard"), str(tmp_path / "seed0" / "deep" / "down" / "fixed"),
    }  # fmt: skip


def test_a_search_costs_all_of_its_attempts(tmp_path: Path, make_search: Make) -> None:
    path = make_search(tmp_path / "search", seed=4, trials=3)
    (method,) = only([path]).methods
    (seed,) = method.seeds
    parts = [result(path / "trials" / f"{n:04d}") for n in range(3)]
    assert (method.label, method.kind, method.baseline, seed.seed) == ("randaugment", "search", False, 4)
    assert seed.val_error == parts[0]["val"]["error"] == 20.0 and seed.test_error == parts[0]["test"]["error"]
    assert seed.cost.seconds == parts[0]["seconds"]
    # The failed attempt left no result: its 2.5 seconds are the search's own count, and its CPU time is unknown.
    assert seed.cost.total_seconds == pytest.approx(sum(p["seconds"] for p in parts) + 2.5)
    assert seed.cost.total_passes == result(path)["passes"] == 3 * 40 + 7
    assert seed.cost.cpu_seconds is None
    assert [(a.number, a.state, a.best) for a in seed.attempts] == [
        (0, "complete", True), (1, "complete", False), (2, "complete", False), (3, "failed", False),
    ]  # fmt: skip


def test_curves_are_means_over_the_seeds_and_begin_after_the_search(tmp_path: Path, make_run: Make) -> None:
    paths = [make_run(tmp_path / str(s), "faster-autoaugment", s, search_seconds=5.0 + s) for s in range(3)]
    curve = only(paths).methods[0].curve
    assert curve is not None and curve.epochs == (1, 2, 3, 4)
    lines = [[json.loads(x) for x in (p / "metrics.jsonl").read_text().splitlines()] for p in paths]
    for name in ("val_error", "val_loss", "train_loss"):
        table = np.array([[e[name] for e in run] for run in lines])
        assert getattr(curve, name) == pytest.approx(table.mean(0))
        assert getattr(curve, name + "_std") == pytest.approx(table.std(0, ddof=1))
    seconds = np.array([[e["seconds"] + 5 + s for e in run] for s, run in enumerate(lines)])
    assert curve.seconds == pytest.approx(seconds.mean(0))


def test_the_confusion_is_summed_over_the_seeds(tmp_path: Path, make_run: Make) -> None:
    paths = [make_run(tmp_path / str(s), seed=s) for s in range(2)]
    method = only(paths).methods[0]
    total = sum(np.array(result(p)["confusion"]) for p in paths)
    assert np.array_equal(method.confusion, total)
    off = total - np.diag(np.diag(total))
    i, j = np.unravel_index(off.argmax(), off.shape)
    names = ("cat", "dog", "newt")
    assert (method.confused[0].true, method.confused[0].predicted, method.confused[0].count) == (
        names[i], names[j], off.max(),
    )  # fmt: skip
    assert method.confused[0].share == pytest.approx(100 * off.max() / total[i].sum())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 5}, "epochs 5"),
        ({"data": {"train_size": 77}}, "data.train_size 77"),
        ({"model": {"name": "wrn-28-2"}}, "model.name wrn-28-2"),
        ({"lr": 0.5}, "lr 0.5"),
        ({"standard": {"cutout": 4}}, "standard.cutout 4"),
        ({"classes": ("cat", "dog", "owl")}, "classes cat, dog, owl"),
    ],
)
def test_unlike_runs_are_never_in_one_mean(tmp_path: Path, make_run: Make, change: dict, reason: str) -> None:
    paths = [make_run(tmp_path / "a", seed=0), make_run(tmp_path / "b", seed=1)]
    other = [make_run(tmp_path / "c", seed=0, **change), make_run(tmp_path / "d", "fixed", seed=1, **change)]
    first, second = build_report([*paths, *other])[0].comparisons
    assert [len(m.seeds) for m in first.methods] == [2] and [len(m.seeds) for m in second.methods] == [1, 1]
    assert second.reason == reason
    assert reason not in first.reason and first.reason.startswith(reason.partition(" ")[0])


@pytest.mark.parametrize("change", [{"recipe": "cpu"}, {"threads": 3}, {"eval_batch_size": 9}, {"device": "cpu"}])
def test_what_changes_the_cost_alone_is_no_other_comparison(tmp_path: Path, make_run: Make, change: dict) -> None:
    comparison = only([make_run(tmp_path / "a"), make_run(tmp_path / "b", "fixed", **change)])
    told = [w for w in comparison.warnings if "Seconds are not comparable" in w]
    assert len(told) == ("threads" in change or "device" in change)


def test_labels_tell_versions_of_a_method_apart(tmp_path: Path, make_run: Make, make_search: Make) -> None:
    paths = [
        make_run(tmp_path / "a", {"name": "madao"}),
        make_run(tmp_path / "b", {"name": "madao", "solver": "cg", "solver_options": {"max_steps": 5}}),
        make_run(tmp_path / "c", {"name": "madao", "control": "random"}),
        make_run(tmp_path / "d", {"name": "randaugment"}),
        make_run(tmp_path / "e", {"name": "randaugment", "magnitude": 3}),
        make_search(tmp_path / "f"),
        make_run(tmp_path / "g", "fixed"),
    ]
    (tmp_path / "g" / "cell.json").write_text(json.dumps({"row": "at the start"}))
    labels = {m.label for m in only(paths).methods}
    assert labels == {
        "madao", "madao, solver=cg", "madao, control=random", "randaugment", "randaugment, magnitude=3",
        "randaugment (search)", "at the start",
    }  # fmt: skip


def test_what_is_not_finished_is_listed_and_in_no_mean(tmp_path: Path, make_run: Make, make_search: Make) -> None:
    paths = [
        make_run(tmp_path / "a", seed=0, test=10.0),
        make_run(tmp_path / "b", seed=1, finished=False),
        make_run(tmp_path / "c", "fixed", finished=False),
        make_search(tmp_path / "d", finished=False),
    ]
    (tmp_path / "c" / "failure.json").write_text(json.dumps({"schema": 1, "error": "The training loss is nan."}))
    comparison = only(paths)
    assert [(m.label, m.error.n, m.error.mean) for m in comparison.methods] == [("standard", 1, 10.0)]
    assert [(u.label, u.seed, u.state, u.remark) for u in comparison.unfinished] == [
        ("standard", 1, "unfinished", "3 of 4 epochs"),
        ("fixed", 0, "failed", "The training loss is nan."),
        ("randaugment", 0, "unfinished", "2 of 3 attempts"),
    ]
    assert any("fixed with seed 0 (The training loss is nan.): broke down" in w for w in comparison.warnings)
    page = write_report(paths, tmp_path / "out")[0].read_text()
    assert "Not in the means" in page and "3 of 4 epochs" in page


def test_what_a_comparison_has_not_begun_is_told(tmp_path: Path, make_run: Make) -> None:
    for seed, row in ((0, "standard"), (0, "madao"), (1, "standard")):
        path = make_run(tmp_path / "night" / f"seed{seed}" / row, row, seed)
        (path / "cell.json").write_text(json.dumps({"row": row}))
    plan = {"schema": 1, "kind": "compare", "methods": ["standard", "madao"], "seeds": [0, 1]}
    (tmp_path / "night" / "compare.json").write_text(json.dumps(plan))
    told = f"Asked for and not begun in {tmp_path / 'night'}: madao with seed 1."
    assert told in only([tmp_path]).warnings
    (tmp_path / "night" / "compare.json").write_text(json.dumps({**plan, "asked_seeds": [0]}))
    assert not any("not begun" in w for w in only([tmp_path / "night"]).warnings)
    (tmp_path / "night" / "compare.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"compare.json: the content lacks the field 'methods'"):
        only([tmp_path])


def test_nothing_finished_is_a_report_too(tmp_path: Path, make_run: Make) -> None:
    files = write_report([make_run(tmp_path / "a", finished=False)], tmp_path / "out")
    assert len(files) == 2 and "No run is finished" in files[0].read_text()


def test_without_test_images_the_validation_error_decides(tmp_path: Path, make_run: Make) -> None:
    paths = [
        make_run(tmp_path / "a", val=12.0, no_test=True),
        make_run(tmp_path / "b", "fixed", val=11.0, no_test=True),
    ]
    comparison = only(paths)
    assert comparison.measure == "val" and [m.error.mean for m in comparison.methods] == [11.0, 12.0]
    assert comparison.methods[0].confusion is not None and comparison.methods[0].test_error is None
    assert "validation error 11.00 %" in comparison.verdict[0].replace(", 11.00", " 11.00")
    assert any("by validation error" in w for w in comparison.warnings)


def test_what_an_earlier_version_left_is_reported(tmp_path: Path, make_run: Make) -> None:
    path = make_run(tmp_path / "old")
    held = result(path)
    for name in ("passes", "search_passes", "search_notes", "val_confusion", "cpu_seconds"):
        del held[name]
    (path / "result.json").write_text(json.dumps(held))
    config = json.loads((path / "config.json").read_text())
    del config["compile"], config["channels_last"]
    (path / "config.json").write_text(json.dumps(config))
    method = only([path, make_run(tmp_path / "new", seed=1)]).methods[0]
    assert method.error.n == 2 and method.passes is None and method.cpu_seconds is None


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (["truncated", "diverged"], "standard: 4 of 8 solves (50.0 %) ended as diverged. "),
        (["truncated"], None),
        (["max_steps"], "standard: 4 of 4 solves (100.0 %) ended as max steps. "),
    ],
)
def test_failed_solves_are_told(tmp_path: Path, make_run: Make, statuses: list[str], told: str | None) -> None:
    comparison = only([make_run(tmp_path / "a", statuses=statuses)])
    found = [w for w in comparison.warnings if "solves" in w]
    assert len(found) == (told is not None) and all(w.startswith(str(told)) for w in found)


def test_commits_and_machines_that_differ_are_told(tmp_path: Path, make_run: Make) -> None:
    paths = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "fixed")]
    for path, commit, processor in zip(paths, ("aaaa", "bbbb"), ("Quick", "Slow"), strict=True):
        held = json.loads((path / "environment.json").read_text())
        held |= {"commit": commit, "processor": processor, "gpu": None, "cores": 2, "arguments": ["train", "a b"]}
        (path / "environment.json").write_text(json.dumps(held))
    comparison = only(paths)
    assert "The runs are of different commits of the code: aaaa, bbbb." in comparison.warnings
    assert any(w.endswith("Quick (2 cores) and Slow (2 cores).") for w in comparison.warnings)
    assert len(comparison.machines) == 2
    assert comparison.commands[0].given == "train 'a b'"
    assert comparison.commands[0].text == f"hypergrad train --config {paths[0]}/config.json --output again"


def twice(path: Path, make_run: Make) -> list[Path]:
    return [make_run(path / "a", seed=3), make_run(path / "b", seed=3)]


def damaged(path: Path, make_run: Make, name: str, content: str) -> list[Path]:
    make_run(path / "a")
    (path / "a" / name).write_text(content)
    return [path / "a"]


def changed(path: Path, make_run: Make, **members: object) -> list[Path]:
    held = {**result(make_run(path / "a")), **members}
    return damaged(path / "again", make_run, "result.json", json.dumps(held))


def searched(path: Path, make_search: Make, file: str, **members: object) -> list[Path]:
    make_search(path / "a")
    held = json.loads((path / "a" / file).read_text())
    (path / "a" / file).write_text(json.dumps({**held, **members}))
    return [path / "a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, r, s: [], "A report needs at least one run"),
        (lambda p, r, s: [p / "none"], "none does not exist. Give the --output folder"),
        (lambda p, r, s: [p], "holds no run of hypergrad"),
        (lambda p, r, s: [r(p / "a") / "config.json"], "config.json is no folder"),
        (lambda p, r, s: twice(p, r), "the same seed (3) and settings: a seed counts once"),
        (lambda p, r, s: damaged(p, r, "result.json", "{"), "result.json cannot be read"),
        (lambda p, r, s: damaged(p, r, "result.json", "{}"), "lacks the field 'seconds'"),
        (lambda p, r, s: damaged(p, r, "config.json", "{}x"), "config.json cannot be read"),
        (lambda p, r, s: damaged(p, r, "config.json", '{"epoch": 3}'), "config.json: epoch: Extra inputs"),
        (lambda p, r, s: damaged(p, r, "metrics.jsonl", '{"kind": "epoch"}\n'), "lacks the field 'epoch'"),
        (lambda p, r, s: damaged(p, r, "cell.json", "[]"), "cell.json holds no JSON object"),
        (lambda p, r, s: changed(p, r, seconds="x"), "seconds must be a number; got 'x'"),
        (lambda p, r, s: changed(p, r, seconds=-1), "seconds must be a number in [0, inf]; got -1"),
        (lambda p, r, s: changed(p, r, val={"error": 101}), "val.error must be a number in [0, 100]"),
        (lambda p, r, s: changed(p, r, confusion=[[1]]), "the confusion matrix of result.json has not 3 rows"),
        (lambda p, r, s: searched(p, s, "search.json", config=None), "search.json: the content: Input should be"),
        (lambda p, r, s: searched(p, s, "result.json", best=7), "best is 7, and there is no attempt of that number"),
        (lambda p, r, s: searched(p, s, "result.json", attempts=[{}]), "attempts[0] lacks the field 'value'"),
        (
            lambda p, r, s: searched(p, s, "result.json", attempts=[{"value": None, "params": 3}]),
            "attempts[0].params must be an object with the values by name, or null; got 3",
        ),
    ],
)
def test_errors(tmp_path: Path, make_run: Make, make_search: Make, make: Callable, message: str) -> None:
    paths = make(tmp_path, make_run, make_search)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        write_report(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_seed_twice_names_both_folders(tmp_path: Path, make_run: Make) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build_report(twice(tmp_path, make_run))
    assert f"{tmp_path / 'a'} and {tmp_path / 'b'}" in str(caught.value)


def test_a_search_whose_best_run_is_elsewhere_is_not_in_the_means(tmp_path: Path, make_search: Make) -> None:
    path = make_search(tmp_path / "a")
    held = result(path)
    held["attempts"][0]["run"] = None
    (path / "result.json").write_text(json.dumps(held))
    shutil.rmtree(path / "trials" / "0000")
    (left,) = only([path]).unfinished
    assert left.remark == "the folder of its best attempt, number 0, is not here"


@pytest.mark.parametrize("output", ["file", "full"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, make_run: Make, output: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="neither empty nor a report"):
        write_report([make_run(tmp_path / "a")], tmp_path / output)
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear" and (tmp_path / "file").read_text() == "x"
