"""Searches over whole trainings: what a folder holds, that it can be continued, and that attempts differ by the
augmentation alone."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from hypergrad import baselines
from hypergrad.augment import FixedPolicy, Policy, load_policy
from hypergrad.baselines import Attempt, Choice, Pruned, SearchFailedError
from hypergrad.errors import HypergradError, InvalidInputError, MissingLibraryError, NonFiniteError
from hypergrad.vision.config import RandAugment, SavedPolicy, Standard, TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.run import read_run
from hypergrad.vision.searching import (
    PolicySearch,
    attempt_run,
    read_searched,
    record_run,
    register_policy_search,
    resume_search,
    search_and_record,
    search_names,
    table,
)
from hypergrad.vision.searching.attempt_run import TrainingObjective
from hypergrad.vision.searching.madao_space import MadaoSpace
from hypergrad.vision.searching.plan import read_plan
from hypergrad.vision.searching.randaugment_random import RandomMagnitudes
from hypergrad.vision.searching.recorded_runs import read_recorded
from hypergrad.vision.searching.searched import write_result
from hypergrad.vision.searching.watching import Watched
from hypergrad.vision.training import train

pytest.importorskip("optuna")


def dataset(channels: int = 1) -> Dataset:
    """Bright and dark images, 10 x 10."""
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(80) % 2
    images = (torch.rand((80, channels, 10, 10), generator=g) * 90 + 150 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    part = ImageSet(images, targets)
    return Dataset(
        name="light",
        classes=("dark", "bright"),
        train=part.take(torch.arange(60)),
        test=part.take(torch.arange(60, 80)),
        val=None,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=True,
    )


def config(**changes: object) -> TrainConfig:
    settings = {"epochs": 2, "batch_size": 16, "standard": {"crop": 1}, "data": {"validation": 12}}
    return TrainConfig(**{**settings, **changes})


def search(path: Path, name: str = "randaugment-random", **options: Any) -> Any:
    options = {"dataset": dataset(), "progress": False, "config": config(), **options}
    if name in ("randaugment-random", "tpe") and "seconds" not in options:
        options.setdefault("trials", 3)
    return search_and_record(options.pop("config"), name, path, **options)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_the_paper_s_two_runs(tmp_path: Path) -> None:
    found = search(tmp_path / "s", "randaugment", seed=3)
    runs = [read_run(tmp_path / "s" / "trials" / f"{k:04d}") for k in (0, 1)]
    methods = [TrainConfig(**run.config).method for run in runs]
    assert all(isinstance(m, RandAugment) and m.num_operations == 2 and m.bins == 30 for m in methods)
    assert methods[0].magnitude != methods[1].magnitude
    assert [row["params"] for row in found.attempts] == [{"magnitude": m.magnitude} for m in methods]
    for row, run in zip(found.attempts, runs, strict=True):
        # They differ by the method alone.
        assert TrainConfig(**run.config) == config(method=TrainConfig(**run.config).method.model_dump())
        assert row["value"] == run.result["val"]["error"] and row["test_error"] == run.result["test"]["error"]
        assert row["passes"] == run.result["passes"] == 6 and row["state"] == "complete"
        assert row["run"] == str(run.path.relative_to(tmp_path / "s"))
        assert row["seconds"] > run.result["seconds"]
    best = min(runs, key=lambda run: run.result["val"]["error"])
    assert found.best.path == best.path and found.result["best"] == runs.index(best)
    written = json.loads((tmp_path / "s" / "result.json").read_text())
    assert found.result == written and written["attempts"] == found.attempts
    assert written["passes"] == 12 and (written["complete"], written["failed"], written["pruned"]) == (2, 0, 0)
    assert written["seconds"] == pytest.approx(sum(row["seconds"] for row in found.attempts))
    plan = json.loads((tmp_path / "s" / "search.json").read_text())
    wanted = {"schema": 1, "kind": "search", "search": "randaugment", "method": "grid", "trials": 2, "seconds": None}
    wanted |= {"seed": 3, "pruning": False, "storage": "journal:journal.log", "study": "randaugment", "channels": 1}
    assert {key: plan[key] for key in wanted} == wanted
    assert plan["space"] == {"magnitude": {"kind": "integer", "low": 0, "high": 29, "step": 1}}
    assert TrainConfig(**plan["config"]) == config(method={"name": "standard"})
    again = read_searched(tmp_path / "s")
    assert (again.plan, again.attempts, again.result) == (plan, found.attempts, written)
    assert again.best.path == best.path


def test_the_best_is_the_lowest_complete_attempt_and_the_first_of_equal_ones(tmp_path: Path) -> None:
    search(tmp_path / "s", trials=5, config=config(epochs=1))
    content = json.loads((tmp_path / "s" / "result.json").read_text())
    for row, (state, value) in zip(
        content["attempts"],
        [("complete", 30.0), ("pruned", None), ("complete", 20.0), ("complete", 20.0), ("failed", None)],
        strict=True,
    ):
        row.update(state=state, value=value)
    (tmp_path / "s" / "result.json").write_text(json.dumps(content))
    found = read_searched(tmp_path / "s")
    assert found.best.path.name == "0002"
    plan = read_plan(tmp_path / "s")
    write_result(tmp_path / "s", plan, content["attempts"])
    written = json.loads((tmp_path / "s" / "result.json").read_text())
    counts = {"best": 2, "complete": 3, "pruned": 1, "failed": 1}
    assert {key: written[key] for key in counts} == counts


def test_no_magnitude_comes_twice_and_the_seed_decides_which(tmp_path: Path) -> None:
    found = search(tmp_path / "a", "randaugment", config=config(epochs=1), trials=5, options={"bins": 5})
    assert sorted(row["params"]["magnitude"] for row in found.attempts) == [0, 1, 2, 3, 4]
    orders = [tuple(row["params"]["magnitude"] for row in found.attempts)]
    for seed in (1, 2):
        more = search(tmp_path / str(seed), "randaugment", config=config(epochs=1), seed=seed, options={"bins": 5})
        orders.append(tuple(row["params"]["magnitude"] for row in more.attempts))
    assert len({order[:2] for order in orders}) > 1


def test_a_grid_is_the_product_of_its_numbers(tmp_path: Path) -> None:
    options = {"num_operations": [1, 3], "bins": 2}
    found = search(tmp_path / "s", "randaugment-grid", config=config(epochs=1), options=options)
    tried = {(row["params"]["num_operations"], row["params"]["magnitude"]) for row in found.attempts}
    assert tried == {(1, 0), (1, 1), (3, 0), (3, 1)} and found.plan["trials"] == 4
    for row in found.attempts:
        method = TrainConfig(**read_run(tmp_path / "s" / row["run"]).config).method
        assert {"num_operations": method.num_operations, "magnitude": method.magnitude} == row["params"]


def test_a_policy_that_was_proposed_is_kept_and_its_run_can_be_made_again(tmp_path: Path) -> None:
    found = search(tmp_path / "s", "tpe", config=config(epochs=1), trials=2)
    assert len(found.attempts[0]["params"]) == 2 * 13 * 3  # grey images: without Color
    run = read_run(tmp_path / "s" / "trials" / "0001")
    method = TrainConfig(**run.config).method
    assert isinstance(method, SavedPolicy) and method.path == tmp_path / "s" / "policies" / "0001.json"
    policy, params = load_policy(method.path), found.attempts[1]["params"]
    assert isinstance(policy, FixedPolicy)
    for k in range(2):
        weights = torch.tensor([params[f"stage{k + 1}.{name}.weight"] for name in policy.operations])
        assert torch.allclose(policy.pi[0, k], weights / weights.sum(), atol=1e-6)
        for n, name in enumerate(policy.operations):
            assert float(policy.p[0, k, n]) == pytest.approx(params[f"stage{k + 1}.{name}.p"], abs=1e-6)
            assert float(policy.mu[0, k, n, 0]) == pytest.approx(params[f"stage{k + 1}.{name}.mu"], abs=1e-6)
    again = train(TrainConfig(**run.config), dataset=dataset(), progress=False)
    assert again.val.error == found.attempts[1]["value"] and again.val.loss == run.result["val"]["loss"]


def test_the_space_follows_the_images_and_the_ranges() -> None:
    assert len(MadaoSpace().for_images(3).space(0)) == 2 * 14 * 3
    assert len(MadaoSpace(ranges="randaugment").for_images(3).space(0)) == 2 * (14 * 3 - 3)
    named = MadaoSpace(stages=1, operations=["Color", "Rotate"]).for_images(1)
    assert {name.split(".")[1] for name in named.space(0)} == {"Color", "Rotate"}


def test_a_learned_policy_is_a_point_of_the_space(tmp_path: Path) -> None:
    method = {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert", "ShearX"]}
    train_and_record(config(method=method), tmp_path / "run", dataset=dataset(), progress=False)
    policy = Policy.load(tmp_path / "run" / "policy.json")
    held, space = policy.values(), MadaoSpace(operations=("Invert", "ShearX", "Rotate"))
    params = space.parameters(read_run(tmp_path / "run"))
    assert params.keys() == space.space(0).keys()
    assert all(part.holds(params[name]) for name, part in space.space(0).items())
    made = space.method(params)
    order = [policy.operations.index(name) for name in made.operations]
    for name in ("pi", "p"):
        assert torch.allclose(getattr(made, name)[0], held[name][:, order], atol=1e-6), name
    assert torch.allclose(made.mu[0, ..., 0], held["mu"][:, order], atol=1e-6)


def test_a_policy_that_is_sure_of_itself_is_at_the_edge_of_the_space(tmp_path: Path) -> None:
    run = madao_run(tmp_path / "run")
    policy = Policy(operations=("Rotate", "Invert"))
    with torch.no_grad():
        policy.pi.copy_(torch.tensor([[9.0, -9.0], [0.0, 0.0]]))
        policy.mu.fill_(40)
        policy.p.fill_(-40)
    policy.save(run / "policy.json")
    search = MadaoSpace(operations=("Rotate", "Invert"))
    params = search.parameters(read_run(run))
    assert all(part.holds(params[name]) for name, part in search.space(0).items())
    assert (params["stage1.Rotate.weight"], params["stage1.Invert.weight"]) == (1.0, 0.01)
    assert (params["stage2.Rotate.weight"], params["stage2.Invert.weight"]) == (1.0, 1.0)


def test_optuna_is_needed_to_search_and_not_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(tmp_path / "done", trials=1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingLibraryError, match=re.escape("hypergrad-toolkit[search]")):
        search(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert read_searched(tmp_path / "done").result == found.result


def counted(monkeypatch: pytest.MonkeyPatch, before: Callable[[Path], None] = lambda path: None) -> list[str]:
    """The folders in which a training was begun; ``before`` may stop it."""
    begun: list[str] = []

    def spied(config: TrainConfig, path: Path, **options: Any) -> Any:
        begun.append(path.name)
        before(path)
        return train_and_record(config, path, **options)

    monkeypatch.setattr(attempt_run, "train_and_record", spied)
    return begun


def stop_in(name: str, error: Callable[[], BaseException]) -> Callable[[Path], None]:
    def stop(path: Path) -> None:
        if path.name == name:
            path.mkdir(parents=True)
            (path / "config.json").write_text("{}")
            raise error()

    return stop


def test_ctrl_c_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(tmp_path / "whole")
    counted(monkeypatch, stop_in("0001", KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "s")
    stopped = read_searched(tmp_path / "s")
    assert stopped.result is None
    assert [row["number"] for row in stopped.attempts if row["state"] == "complete"] == [0]
    before = contents(tmp_path / "s" / "trials" / "0000")
    begun = counted(monkeypatch)
    found = resume_search(tmp_path / "s", dataset=dataset(), progress=False)
    assert begun == ["0001", "0002"]
    assert contents(tmp_path / "s" / "trials" / "0000") == before
    assert (tmp_path / "s" / "trials" / "0001~1" / "config.json").read_text() == "{}"
    for key in ("number", "params", "value", "passes", "test_error", "state"):
        assert [row[key] for row in found.attempts] == [row[key] for row in whole.attempts]
    # All is done: not even the storage is opened.
    (tmp_path / "s" / "journal.log").unlink()
    assert search(tmp_path / "s", resume=True).result == found.result
    assert begun == ["0001", "0002"]


def test_an_attempt_that_could_not_be_made_is_missing_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, stop_in("0000", lambda: OSError(28, "No space left on device")))
    found = search(tmp_path / "s")
    assert found.result is None and not (tmp_path / "s" / "result.json").exists()
    assert [row["state"] for row in found.attempts] == ["failed", "complete", "complete"]
    assert "No space left on device" in found.attempts[0]["error"]
    begun = counted(monkeypatch)
    found = search(tmp_path / "s", resume=True)
    assert begun == ["0000"] and found.result["complete"] == 3


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, stop_in("0002", lambda: NonFiniteError("The training loss is nan")))
    found = search(tmp_path / "s")
    assert [row["state"] for row in found.attempts] == ["complete", "complete", "failed"]
    assert found.attempts[2]["error"] == "NonFiniteError: The training loss is nan"
    assert (found.result["complete"], found.result["failed"]) == (2, 1)
    begun = counted(monkeypatch)
    assert search(tmp_path / "s", resume=True).result == found.result and not begun


def test_every_attempt_fails(tmp_path: Path) -> None:
    with pytest.raises(SearchFailedError, match="the loss is "):
        search(tmp_path / "s", "randaugment", config=config(lr=1e30))
    assert read_searched(tmp_path / "s").best is None


def test_a_larger_total_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(tmp_path / "s", trials=1)
    begun = counted(monkeypatch)
    found = search(tmp_path / "s", trials=3, resume=True)
    assert begun == ["0001", "0002"] and found.plan["trials"] == 3 and found.result["complete"] == 3
    assert found.attempts[0] == first.attempts[0]
    assert [r["params"] for r in found.attempts] == [r["params"] for r in search(tmp_path / "whole").attempts]


def test_while_it_is_extended_it_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path / "s", trials=1)
    counted(monkeypatch, stop_in("0001", KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "s", trials=2, resume=True)
    assert read_searched(tmp_path / "s").result is None
    counted(monkeypatch)
    assert resume_search(tmp_path / "s", dataset=dataset(), progress=False).result["complete"] == 2


def test_a_budget_of_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(tmp_path / "s", seconds=1e-3)
    assert len(found.attempts) == 1 and found.result["complete"] == 1 and found.plan["trials"] is None
    begun = counted(monkeypatch)
    assert search(tmp_path / "s", trials=None, resume=True).result == found.result and not begun
    longer = search(tmp_path / "s", trials=None, seconds=found.result["seconds"] + 1e-3, resume=True)
    assert begun == ["0001"] and longer.result["complete"] == 2


def test_a_pruned_attempt_keeps_its_folder(tmp_path: Path) -> None:
    reports: list[tuple[int, float]] = []

    def give_up(step: int, value: float) -> bool:
        reports.append((step, value))
        return step == 2

    objective = TrainingObjective(config(epochs=4), RandomMagnitudes(), tmp_path, dataset())
    with pytest.raises(Pruned):
        objective({"num_operations": 1, "magnitude": 4}, Attempt(7, 0, on_report=give_up))
    run = read_run(tmp_path / "trials" / "0007")
    assert run.result is None and reports == [(e["epoch"], e["val_error"]) for e in run.epochs]
    assert len(reports) == 2


def test_what_the_core_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def spied(objective: object, space: object, **options: Any) -> Any:
        asked.append(options)
        return baselines_search(objective, space, **{**options, "workers": 1})

    baselines_search = baselines.search
    monkeypatch.setattr(baselines, "search", spied)
    search(tmp_path / "s", "tpe", config=config(epochs=1), trials=1, pruning=True, workers=2, seed=7)
    search(tmp_path / "s", "tpe", config=config(epochs=1), trials=2, pruning=True, seed=7, resume=True)
    storage = f"journal:{tmp_path / 's' / 'journal.log'}"
    wanted = {"method": "tpe", "seed": 7, "pruning": True, "storage": storage, "name": "tpe", "seconds": None}
    assert [{key: options[key] for key in wanted} for options in asked] == [wanted, wanted]
    assert [(o["workers"], o["trials"], o["resume"]) for o in asked] == [(2, 1, False), (1, 2, True)]


def test_a_finished_run_that_the_ledger_does_not_know_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ended between the two."""
    begun = counted(monkeypatch)
    notes: dict[str, Any] = {}
    attempt = Attempt(0, 0, on_note=notes.__setitem__)
    params = {name: 0.4 for name in SPACE.space(0)}
    objective = TrainingObjective(config(epochs=1), SPACE, tmp_path, dataset())
    value = objective(params, attempt)
    first = dict(notes)
    assert objective(params, attempt) == value and begun == ["0000"] and notes == first
    # Other parameters of the same number are another run, and so is another configuration.
    other = {**params, "stage1.Rotate.p": 0.123}
    objective(other, attempt)
    assert begun == ["0000"] * 2 and (tmp_path / "trials" / "0000~1").is_dir()
    TrainingObjective(config(epochs=1, lr=0.04), SPACE, tmp_path, dataset())(other, attempt)
    assert begun == ["0000"] * 3 and (tmp_path / "trials" / "0000~2").is_dir()


SPACE = MadaoSpace(stages=1, operations=("Rotate", "Invert"))


@dataclass(frozen=True, kw_only=True)
class OneOfTwo(PolicySearch):
    """No policy, or RandAugment."""

    summary: ClassVar[str] = "two"
    proposals: ClassVar[str] = "grid"

    def space(self, seed: int) -> Any:
        return {"which": Choice("none", "some")}

    def method(self, params: Mapping[str, Any]) -> Any:
        return Standard() if params["which"] == "none" else RandAugment(magnitude=3)


def test_a_search_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table._searches, "_entries", dict(table._searches._entries))
    register_policy_search("one-of-two")(OneOfTwo)
    assert "one-of-two" in search_names()
    found = search(tmp_path / "s", "one-of-two", config=config(epochs=1))
    methods = {row["params"]["which"]: read_run(tmp_path / "s" / row["run"]).config["method"] for row in found.attempts}
    assert methods["none"] == {"name": "standard"} and methods["some"]["magnitude"] == 3


def madao_run(path: Path, **changes: object) -> Path:
    method = {"name": "madao", "every": 2, "warmup": 0.0, "operations": ["Rotate", "Invert"]}
    train_and_record(config(**{"method": method, **changes}), path, dataset=dataset(), progress=False)
    return path


TWO = {"operations": ["Rotate", "Invert"]}


def test_a_run_is_recorded_beside_the_attempts(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    run = madao_run(tmp_path / "run")
    found = search(tmp_path / "s", "tpe", options=TWO, trials=2, with_run=run)
    result = read_run(run).result
    assert len(found.attempts) == 2 and found.result["complete"] == 2
    (row,) = read_recorded(tmp_path / "s")
    assert row["method"] == "madao" and row["value"] == result["val"]["error"] and row["passes"] == result["passes"]
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s" / "journal.log"))
    trials = optuna.load_study(study_name="tpe", storage=optuna.storages.JournalStorage(backend)).trials
    (trial,) = [t for t in trials if t.user_attrs.get("method") == "madao"]
    assert trial.value == result["val"]["error"] and trial.user_attrs["run"] == str(run)
    assert trial.user_attrs["test_error"] == result["test"]["error"]
    assert trial.params == MadaoSpace(operations=("Rotate", "Invert")).parameters(read_run(run))
    with pytest.raises(InvalidInputError, match="is recorded in .* already"):
        record_run(tmp_path / "s", run)
    # Once more on a finished search, and when it is extended: recorded once, never an attempt.
    more = search(tmp_path / "s", "tpe", options=TWO, trials=3, resume=True, with_run=run)
    assert [row["number"] for row in more.attempts] == [0, 1, 2] and len(read_recorded(tmp_path / "s")) == 1


def test_progress_is_counted_in_epochs(tmp_path: Path) -> None:
    found = search(tmp_path / "s", trials=2)
    watched = Watched(tmp_path / "s", 4, 2, "search", enabled=False)
    assert watched.done() == 4
    (tmp_path / "s" / found.attempts[1]["run"] / "result.json").unlink()
    folder = tmp_path / "s" / "trials" / "0002"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1}\n{"kind": "update"}\n')
    assert Watched(tmp_path / "s", 4, 2, "search", enabled=False).done() == 2 + 2 + 1


def test_the_last_line_of_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = search(tmp_path / "s", trials=2, progress=True)
    lowest = min(row["value"] for row in found.attempts)
    assert f"4/4, 0 s left  2/2 trainings, lowest validation error {lowest:.2f} %" in capsys.readouterr().err


def finished(path: Path) -> Path:
    search(path, trials=1)
    return path


def edited(path: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((finished(path) / file).read_text())
    change(content)
    (path / file).write_text(json.dumps(content))
    return path


def with_run(p: Path, *, search_name: str = "tpe", options: Any = TWO, **changes: object) -> Any:
    return search(p / "s", search_name, options=options, trials=1, with_run=madao_run(p / "run", **changes))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such search": (lambda p: search(p / "s", "randaugmnt"), "Did you mean 'randaugment'?"),
    "no such option": (lambda p: search(p / "s", options={"bin": 3}), "has no option 'bin'"),
    "an option's value": (lambda p: search(p / "s", options={"bins": 1}), "bins must be an integer of at least 2"),
    "a grid's numbers": (
        lambda p: search(p / "s", "randaugment-grid", options={"num_operations": [2, 2]}),
        "must hold different numbers",
    ),
    "an operation": (lambda p: search(p / "s", "tpe", options={"operations": ["Rotat"]}), "Did you mean 'Rotate'?"),
    "no budget": (lambda p: search(p / "s", trials=None), "needs a budget: give trials"),
    "no trial": (lambda p: search(p / "s", trials=0), "trials must be an integer of at least 1; got 0"),
    "no time": (lambda p: search(p / "s", seconds=0), "seconds must be positive; got 0"),
    "more than there are": (lambda p: search(p / "s", "randaugment", trials=31), "only 30 different cells"),
    "workers": (lambda p: search(p / "s", workers=0), "workers must be an integer of at least 1; got 0"),
    "data that do not fit": (lambda p: search(p / "s", config=config(batch_size=100)), "batch_size=100"),
    "a password": (
        lambda p: search(p / "s", storage="postgresql://me:secret@host/db"),
        "Give postgresql://me@host/db, and the password in the environment variable PGPASSWORD",
    ),
    "a storage": (lambda p: search(p / "s", storage="mongo://host"), "got 'mongo://host'"),
    "sqlite for two": (lambda p: search(p / "s", storage=f"sqlite:///{p}/a.db", workers=2), "SQLite"),
    "a full folder": (lambda p: search(p / "full"), "exists and is not an empty folder"),
    "a file in its place": (lambda p: search(p / "full" / "file" / "s"), "cannot be made"),
    "no search": (lambda p: resume_search(p / "full"), "is no search of hypergrad: it has no search.json"),
    "an unfinished run": (
        lambda p: search(p / "s", "tpe", with_run=edited_run(p / "run")),
        "is not finished: it has no result.json",
    ),
    "other epochs": (lambda p: with_run(p, epochs=1), "epochs is 1 there, and 2 in the search"),
    "another seed": (lambda p: with_run(p, seed=5), "seed is 5 there, and 0 in the search"),
    "other data": (lambda p: with_run(p, data={"validation": 16}), "data.validation is 16 there, and 12 in"),
    "another network": (
        lambda p: with_run(p, model={"name": "wrn-16-1"}),
        "model.name is 'wrn-16-1' there, and 'small-cnn' in the search",
    ),
    "another space": (lambda p: with_run(p, search_name="randaugment", options={}), "only a run by randaugment"),
    "other operations": (lambda p: with_run(p, options={}), "is no point of this search's space, which has one sub-"),
    "no policy": (lambda p: with_run(p, method={"name": "standard"}), "has no policy: its method is 'standard'"),
}


def edited_run(path: Path) -> Path:
    (madao_run(path) / "result.json").unlink()
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    call, message = REFUSED[case]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("content")
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call(tmp_path)
    assert not (tmp_path / "s").exists()


CONTINUED: dict[str, tuple[Callable[[Path], object], str]] = {
    "without saying so": (lambda p: search(finished(p)), "holds a search already. Continue it with resume=True"),
    "another search": (
        lambda p: search(finished(p), "randaugment", resume=True),
        "with name 'randaugment-random', which cannot be continued with 'randaugment'",
    ),
    "other epochs": (lambda p: search(finished(p), config=config(epochs=3), resume=True), "with epochs 2"),
    "other data": (
        lambda p: search(finished(p), config=config(data={"validation": 13}), resume=True),
        "with data.validation 12, which cannot be continued with 13",
    ),
    "another option": (lambda p: search(finished(p), options={"bins": 9}, resume=True), "bins=30"),
    "another seed": (lambda p: search(finished(p), seed=4, resume=True), "with seed 0"),
    "another storage": (lambda p: search(finished(p), storage="journal:x", resume=True), "with storage 'journal:journ"),
    "pruning": (lambda p: search(finished(p), pruning=True, resume=True), "with pruning False"),
    "fewer": (lambda p: search(p, trials=1, resume=bool(search(p, trials=2))), "trials=1 is less than the 2"),
    "a limit that was none": (
        lambda p: search(finished(p), seconds=9, resume=True),
        "begun without a limit of seconds",
    ),
    "a newer schema": (lambda p: read_searched(edited(p, "search.json", lambda c: c.update(schema=2))), "schema is 2"),
    "a field too few": (lambda p: read_searched(edited(p, "search.json", lambda c: c.pop("seed"))), "lacks the field"),
    "a field too many": (lambda p: read_searched(edited(p, "search.json", lambda c: c.update(x=1))), "unknown field"),
    "a wrong setting": (
        lambda p: read_searched(edited(p, "search.json", lambda c: c["config"].update(epochs=0))),
        "search.json: config is no configuration of a run: 1 validation error for TrainConfig epochs",
    ),
    "no attempts": (
        lambda p: read_searched(edited(p, "result.json", lambda c: c.pop("attempts"))),
        "result.json: the content lacks the field 'attempts'",
    ),
}


@pytest.mark.parametrize("case", CONTINUED)
def test_refused_where_a_search_is(case: str, tmp_path: Path) -> None:
    call, message = CONTINUED[case]
    with pytest.raises(HypergradError, match=re.escape(message)):
        call(tmp_path / "s")


def test_a_search_that_was_stopped_before_its_ledger_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hypergrad.baselines.search", stop)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "s")
    stopped = read_searched(tmp_path / "s")
    assert (stopped.attempts, stopped.best, stopped.result) == ([], None, None)
    assert search(tmp_path / "s", resume=True).result["complete"] == 3
