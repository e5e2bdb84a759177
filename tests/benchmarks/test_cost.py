"""benchmarks/cost.py: what is timed is what is trained, the page says what was measured, bad input ends in words."""

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import cost
import pytest
import torch
from _cost_outer import MIXED, OUTER_PARTS, PRODUCTS, SOFT, TRAINING, VALIDATION, outer_parts
from _cost_table import OPTIONS, cheaper_rows, findings, label_of, markdown, memory_ratio, outer_in_steps, ratios
from _cost_training import OUTER, PARTS, Training, interleave, synthetic

from hypergrad import keys
from hypergrad.vision.config import DataConfig, Madao, ModelConfig, TrainConfig
from hypergrad.vision.splits import make_splits
from hypergrad.vision.training import _Trainer

EVERY = 2


def config(label: str) -> TrainConfig:
    method = cost.methods("neumann", "relaxed", EVERY)[label]
    data = DataConfig(name="synthetic")
    return TrainConfig(
        data=data, model=ModelConfig(name="small-cnn"), method=method, batch_size=4, epochs=1, device="cpu"
    )


@pytest.fixture(scope="module")
def trainings() -> list[Training]:
    splits = make_splits(DataConfig(name="synthetic"), keys.derive(0, "data"), synthetic(4, seed=0))
    rows = [
        Training.start(label, config(label), splits, time.process_time, EVERY)
        for label in cost.methods("neumann", "relaxed", EVERY, ["gauss-newton, quarter"])
    ]
    for row in rows:
        row.warm_up()
    interleave(rows, rounds=2)
    return rows


def test_a_stretch_is_the_training_that_the_package_runs(trainings: list[Training]) -> None:
    """Bit-equal to the trainer's own steps, without clocks, warm-up and interleaving."""
    wanted = config("madao, neumann")
    trainer = _Trainer(wanted, make_splits(wanted.data, keys.derive(0, "data"), synthetic(4, seed=0)), None)
    trainer.network.train()
    optimizer = torch.optim.SGD(trainer.network.parameters(), lr=wanted.lr, momentum=0.9, nesterov=True)
    for step in range(4 * EVERY):  # two stretches of warm-up, two rounds
        trainer._step(step, optimizer, [])
    (timed,) = [row.trainer for row in trainings if row.label == "madao, neumann"]
    pairs = zip(trainer.network.state_dict().values(), timed.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(trainer.policy.pi, timed.policy.pi) and bool((trainer.policy.pi != 0).any())


def test_each_stretch_holds_one_outer_step_and_the_parts_are_the_whole(trainings: list[Training]) -> None:
    for row in trainings:
        stepper = row.trainer.stepper
        assert (0 if stepper is None else stepper.outer_step) == (4 if row.label.startswith("madao") else 0)
        assert sum(row.statuses.values()) == (0 if stepper is None else 4)
        assert len(row.seconds) == 2
        for turn in range(2):
            assert math.isclose(sum(row.parts[part][turn] for part in PARTS), row.seconds[turn], rel_tol=1e-9)
            assert (row.parts[OUTER][turn] > 0) == (stepper is not None)
        for part in OUTER_PARTS:
            assert len(row.outer_parts[part]) == (0 if stepper is None else 2)
            has = part != PRODUCTS or row.label != "madao, first_order"
            assert all((value > 0) == has for value in row.outer_parts[part])
        for turn in range(0 if stepper is None else 2):
            assert sum(row.outer_parts[part][turn] for part in OUTER_PARTS) <= row.parts[OUTER][turn] * (1 + 1e-9)


def test_parts_of_an_outer_step_are_disjoint_and_counted(trainings: list[Training]) -> None:
    """On a clock that counts its readings, the parts are marked in their order; one within another is cut out of it."""
    (training,) = [row for row in trainings if row.label == "madao, neumann, gauss-newton, quarter"]
    trainer, marks = training.trainer, []
    readings = iter(range(10**6))
    stepper, before = trainer.stepper, trainer.policy.pi.clone()
    (positions,) = trainer.train_order.batch(0)
    batch = trainer._prepared(trainer.splits.train, positions, 0)
    with outer_parts(trainer.policy, lambda: next(readings), marks):
        stepper.hypergradient(batch, trainer._val_batch(0))
    held = len(marks)
    stepper.hypergradient(batch, trainer._val_batch(0))
    assert len(marks) == held and torch.equal(trainer.policy.pi, before)  # nothing is left behind
    assert all(a < b for _, a, b in marks)
    assert all(left[2] <= right[1] for left, right in itertools.pairwise(marks))  # disjoint
    names = [name for name, _, _ in marks]
    # The quarter's graph is made within the first product, the whole batch's within the mixed derivative, each around
    # its draw of the soft policy.
    assert (names.count(PRODUCTS), names.count(MIXED), names.count(VALIDATION)) == (5 + 1, 1 + 1, 1)
    assert names.count(SOFT) == 2 and names.count(TRAINING) == 1


def test_memory_is_that_of_an_outer_step(trainings: list[Training]) -> None:
    peak = {row.label: row.peak_bytes for row in trainings}
    assert peak["madao, neumann"] > peak["madao, first_order"] > 1.5 * peak["fixed"]
    parameters = sum(p.nbytes for p in trainings[0].trainer.network.parameters())
    buffers = sum(b.nbytes for b in trainings[0].trainer.network.buffers())
    assert {row.held_bytes() for row in trainings} == {2 * parameters + buffers}  # and momentum


def test_the_synthetic_set_has_a_full_validation_batch() -> None:
    images = synthetic(8, seed=3)
    splits = make_splits(DataConfig(name="synthetic"), 0, images)
    assert len(splits.val) >= 8 and len(splits.train) >= 8 and (splits.channels, splits.side) == (3, 32)
    assert torch.equal(images.train.images, synthetic(8, seed=3).train.images)
    assert not torch.equal(images.train.images, synthetic(8, seed=4).train.images)


@pytest.mark.parametrize(
    ("solver", "labels"),
    [
        ("neumann", ["madao, first_order", "madao, neumann", "madao, neumann, quarter"]),
        ("cg", ["madao, first_order", "madao, cg", "madao, cg, quarter"]),
        ("first_order", ["madao, first_order"]),
        ("unrolled", ["madao, unrolled"]),
    ],
)
def test_rows(solver: str, labels: list[str]) -> None:
    rows = cost.methods(solver, "relaxed", 60, ["quarter"])
    assert list(rows) == ["standard", "randaugment", "fixed", *labels]
    method = rows[labels[-1]]
    assert isinstance(method, Madao) and (method.solver, method.every, method.warmup) == (solver, 60, 0.0)
    if solver == "neumann":
        assert method.solver_options == {"alpha": 1e-3, "num_hvps": 5}  # the paper's
        assert (rows["madao, neumann"].curvature_share, method.curvature_share) == (1.0, 0.25)


def results(outer: float = 18.0) -> dict:
    """Steps of the fixed policy last one second; so the outer step's seconds are its price in steps."""

    def row(step: float, outer: float, peak: int) -> dict:
        shares = dict(zip(OUTER_PARTS, (0.1, 0.1, 0.2, 0.4, 0.1), strict=True))
        parts = {"batch and standard augmentation": 3.0, "policy": 6.0, OUTER: outer}
        total = 60 * step + outer
        parts["forward, backward, SGD"] = total - sum(parts.values())
        return {
            "seconds": [total, 2 * total], "parts": {k: [v, 2 * v] for k, v in parts.items()},
            "outer_parts": {k: [s * outer, 2 * s * outer] if outer else [] for k, s in shares.items()},
            "outer_steps": 2 if outer else 0,
            "statuses": {}, "peak_bytes": peak, "held_bytes": 100,
            "step_seconds": {"median": 1.5 * total / 60, "q1": total / 60, "q3": 2 * total / 60},
        }  # fmt: skip

    return {
        "benchmark": "cost", "command": "python benchmarks/cost.py", "commit": "abc",
        "environment": {"cpu": "a CPU", "cores": 2, "torch": "2.13.0", "python": "3.11"},
        "setup": {
            "model": "wrn-16-1", "data": "synthetic", "batch_size": 32, "solver": "neumann", "selection": "relaxed",
            "every": 60, "rounds": 2, "precision": "float32", "channels_last": False, "threads": 1, "seed": 0,
            "smoke": False, "solver_options": {"alpha": 1e-3, "num_hvps": 5}, "damping": 0.0, "device": "cpu",
            "parameters": 175_000, "channels": 3, "side": 32, "clock": "CPU seconds", "norm": None,
        },
        "rows": {
            "standard": row(0.8, 0.0, 800), "randaugment": row(0.9, 0.0, 900), "fixed": row(1.0, 0.0, 900),
            "madao, first_order": row(1.0, 6.0, 1800), "madao, neumann": row(1.0, outer, 1900),
            "madao, neumann, quarter": row(1.0, 12.0, 1900), "madao, neumann, bfloat16": row(1.0, 13.2, 1900),
        },
        "refused": {"madao, neumann, low memory": "it has BatchNorm."},
    }  # fmt: skip


def test_numbers_of_the_page() -> None:
    found = results()
    assert ratios(found, "madao, neumann", "fixed") == pytest.approx([1.3, 1.3])
    assert outer_in_steps(found, "madao, neumann") == pytest.approx([18.0, 18.0])
    assert memory_ratio(found, "madao, neumann") == pytest.approx(2.0)
    page = markdown(found)
    (line,) = [line for line in page.splitlines() if line.startswith("| `madao, neumann` | 1950.0")]
    assert [part.strip() for part in line.strip("|").split("|")][2:5] == [
        "1.30 (1.30 to 1.30)",
        "1.44 (1.44 to 1.44)",
        "1.62 (1.62 to 1.62)",
    ]
    (split,) = [line for line in page.splitlines() if line.startswith("| `madao, neumann` | 75.00")]
    assert split == "| `madao, neumann` | 75.00 (4 %) | 150.00 (8 %) | 1275.00 (65 %) | 450.00 (23 %) |"
    assert "time 1.9 (1.9 h against 1 h), memory 1.94" in page  # named as the paper's
    (parts,) = [line for line in page.splitlines() if line.startswith("| `madao, neumann` | 18.0")]
    assert parts == "| `madao, neumann` | 18.0 | 1.8 | 1.8 | 3.6 | 7.2 | 1.8 | 1.8 |"
    assert "- No row `madao, neumann, low memory`: it has BatchNorm." in page
    assert cheaper_rows(found) == {name: label_of("neumann", name) for name in ("quarter", "bfloat16")}


def test_sentences_of_the_page() -> None:
    told = "\n".join(findings(results()))
    assert "takes 1.30 times the fixed policy's. At most 1.35 was wanted: met." in told
    assert "as much as 18.0 steps" in told and "it is 23 % of MADAO's time" in told
    assert "12.0 are the 5 products with the inner Hessian, 2.4 each" in told and "takes 6.0:" in told
    assert "cheaper products: quarter 1.20, bfloat16 1.22. At most 1.20 was wanted: met by quarter." in told
    assert (
        "training: quarter 12.0, bfloat16 13.2; without any product (first_order) 6.0, which alone makes 1.10." in told
    )
    assert "1.60 at s = 30" in told and "1.35 is reached at s = 52" in told and "(the paper's 10 %: 1.27)" in told
    assert "Peak memory is 2.00 times" in told
    assert "takes 1.40 times the fixed policy's. At most 1.35 was wanted: NOT met." in "\n".join(
        findings(results(24.0))
    )


@pytest.mark.parametrize("change", [{"every": 15}, {"solver": "first_order"}, {"smoke": True}])
def test_the_bar_speaks_about_one_setting_only(change: dict) -> None:
    found = results()
    found["setup"] |= change
    assert "wanted" not in markdown(found)


def test_smoke_is_written_where_asked_and_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    arguments = ["--smoke", "--rounds", "1", "--every", "1", "--batch-size", "2", "--data", "digits", "--solver", "cg",
                 "--cheaper", "quarter"]  # fmt: skip
    assert cost.main([*arguments, "--output", str(path)]) == 0
    found, page = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert page == markdown(found) and page in capsys.readouterr().out
    assert (found["setup"]["channels"], found["setup"]["side"], found["setup"]["damping"]) == (1, 32, 0.01)
    assert found["command"].startswith("python benchmarks/cost.py --smoke") and "smoke run" in page
    path.with_suffix(".md").unlink()
    assert cost.main(["--render", str(path)]) == 0
    assert path.with_suffix(".md").read_text() == page


def options(*words: str) -> argparse.Namespace:
    found = cost.parser().parse_args(words)
    for name, value in cost.DEFAULTS.items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    return found


def test_no_setting_writes_over_another_ones_file() -> None:
    assert cost.default_path(options()).name == "cost.json"
    settings = [["--model", "wrn-28-2"], ["--solver", "cg"], ["--every", "15"], ["--device", "cuda"],
                ["--precision", "bfloat16"], ["--channels-last"], ["--batch-size", "128"], ["--data", "digits"],
                ["--selection", "unbiased"], ["--norm", "group"], ["--cheaper", "none"],
                ["--cheaper", "quarter"], []]  # fmt: skip
    assert len({cost.default_path(options(*words)) for words in settings}) == len(settings)
    assert cost.default_path(options("--model", "my.own:Net")).name == "cost-my.own_Net.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "wrn-16"], "wrn-16-1"),
        (["--device", "tpu9"], "give auto, cpu or cuda"),
        (["--data", "digits", "--root", "."], "Leave it out"),
        (["--data", "fashion-mnist", "--root", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_in_words(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(["--batch-size", "2", "--rounds", "1", "--output", "-", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("cost.py: ") and message in told and "Traceback" not in told


def test_an_option_that_the_network_cannot_have_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--smoke", "--model", "wrn-16-1", "--rounds", "1", "--every", "1", "--batch-size", "2",
                 "--cheaper", "low memory", "--output", "-"]  # fmt: skip
    assert cost.main(arguments) == 0
    page = capsys.readouterr().out
    assert "- No row `madao, neumann, low memory`: " in page and "BatchNorm" in page
    assert "| `madao, neumann, low memory`" not in page
    assert cost.chosen(None) == cost.chosen(["all"]) == list(OPTIONS) and cost.chosen(["none"]) == []


@pytest.mark.parametrize("content", [None, "no JSON", "[1]", '{"benchmark": "hvp"}'])
def test_a_file_that_is_none_of_its_results(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert cost.main(["--render", str(path)]) == 2
    assert "Give the JSON that it wrote" in capsys.readouterr().err and not path.with_suffix(".md").exists()


def test_an_interruption_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: argparse.Namespace) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(cost, "measure", interrupted)
    assert cost.main(["--output", str(tmp_path / "x.json")]) == 130
    assert "nothing was written" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
