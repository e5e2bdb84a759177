"""From a recipe and a row to a run, what a cell records of it, and the sub-problem's comparison with dense."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from _probe import probe_cells
from _recipe import RECIPES, smoke
from _rows import DEFAULT_ROWS, parse_row
from _study import cell_config, read_images, split, train_cell

from hypergrad.errors import InvalidInputError
from hypergrad.vision.config import TrainConfig

DIGITS = replace(smoke(RECIPES["digits"]), sizes=(128, 64, 64), epochs=4)
ROTATED = replace(smoke(RECIPES["fashion-mnist:rotated"]), sizes=(40, 20, 10), batch_size=20, epochs=10, every=1)


def write_idx(path: Path, values: torch.Tensor) -> None:
    """The published format: gzip of 0 0 8 rank, big-endian sizes, bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.to(torch.uint8).numpy().tobytes()))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion")
    generator = torch.Generator().manual_seed(0)
    for prefix, n in (("train", 70), ("t10k", 20)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", torch.arange(n) % 10)
    return folder


def _sets(folder: Path | None, recipe=ROTATED, seed: int = 0):
    return split(cell_config(recipe, parse_row("fixed"), seed), read_images(recipe, seed, folder))


def _all(part) -> torch.Tensor:  # (n, C, H, W)
    return part.draw(torch.arange(len(part)))[0]


def test_rows_of_a_seed_differ_in_the_method_alone() -> None:
    configs = [cell_config(DIGITS, parse_row(row), 7).model_dump() for row in DEFAULT_ROWS]
    methods = [config.pop("method") for config in configs]
    assert all(config == configs[0] for config in configs)
    assert len({repr(method) for method in methods}) == len(DEFAULT_ROWS)
    assert [method["name"] for method in methods] == ["fixed", "standard"] + ["madao"] * (len(DEFAULT_ROWS) - 2)
    learning = [
        {k: method[k] for k in ("every", "lr", "warmup", "temperature", "operations")} for method in methods[2:]
    ]
    assert all(method == learning[0] for method in learning)


def test_the_committed_recipe_reaches_the_run() -> None:
    recipe = RECIPES["fashion-mnist:rotated"]
    config = cell_config(recipe, parse_row("control:flipped:alpha=0.3,outer_batch=256,selection=relaxed"), 3)
    wanted = {
        "data": {
            "name": "fashion-mnist", "train_size": 2000, "validation": 1000, "test_size": 4000, "shift_degrees": 25.0,
            "workers": 0,
        },
        "model": {"name": "small-cnn"},
        "standard": {"crop": 0, "flip": False},
        "method": {
            "name": "madao", "solver": "neumann", "solver_options": {"alpha": 0.3, "num_hvps": 5}, "every": 5,
            "warmup": 0.1, "optimizer": "rmsprop", "lr": 0.03, "selection": "relaxed", "temperature": 0.5,
            "val_batch_size": 256, "outer_batch_size": 256, "control": "flipped", "stages": 2,
            "operations": recipe.operations,
        },
        "epochs": 40, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
        "device": "cpu", "seed": 3,
    }  # fmt: skip
    assert config == TrainConfig(**wanted)


def test_splits_are_a_function_of_the_seed_and_do_not_overlap(fashion: Path) -> None:
    upright = replace(ROTATED, max_angle=0.0)
    first, again, other = (_sets(fashion, upright, seed) for seed in (3, 3, 4))
    for part in ("train", "val", "test"):
        assert torch.equal(_all(getattr(first, part)), _all(getattr(again, part)))
        assert not torch.equal(_all(getattr(first, part)), _all(getattr(other, part)))
    assert [len(part) for part in (first.train, first.val, first.test)] == [40, 20, 10]
    used = torch.cat([_all(part) for part in (first.train, first.val, first.test)]).flatten(1)
    assert len(used.unique(dim=0)) == 70


def test_only_validation_and_test_images_are_rotated(fashion: Path) -> None:
    upright, turned = (_sets(fashion, replace(ROTATED, max_angle=angle)) for angle in (0.0, 25.0))
    assert torch.equal(_all(upright.train), _all(turned.train))
    for part in ("val", "test"):
        before, after = getattr(upright, part), getattr(turned, part)
        assert torch.equal(before.targets[before.rows], after.targets[after.rows])
        assert not (_all(before) == _all(after)).flatten(1).all(dim=1).any()


def test_the_committed_digits_are_all_used_once() -> None:
    first, other = (_sets(None, RECIPES["digits"], seed) for seed in (0, 1))
    assert [len(part) for part in (first.train, first.val, first.test)] == [600, 400, 797]
    assert torch.equal(first.train.targets, first.val.targets)  # one pool, apart from the test images
    assert not set(first.train.rows.tolist()) & set(first.val.rows.tolist())
    assert not torch.equal(_all(first.test), _all(other.test))


@pytest.mark.parametrize(
    ("sizes", "message"), [((60, 20, 10), "train_size asks for 60"), ((40, 20, 21), "test_size asks for 21")]
)
def test_too_few_images_are_refused(fashion: Path, sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _sets(fashion, replace(ROTATED, sizes=sizes))


def test_the_way_of_the_watched_operation_is_recorded(fashion: Path) -> None:
    cell = train_cell(ROTATED, parse_row("first_order"), 0, read_images(ROTATED, 0, fashion))
    assert cell["steps"] == 20 and cell["updates"] == 18  # after 10 % of the steps
    assert [point["step"] for point in cell["trace"]] == [10, 18]
    assert len({point["pi"] for point in cell["trace"]}) == 2
    assert cell["matvecs"] == 0 and sum(cell["statuses"].values()) == 18


def test_a_larger_outer_batch_takes_more_memory_in_the_outer_step_only() -> None:
    dataset = read_images(DIGITS, 0, None)
    short = replace(DIGITS, epochs=1)
    small, large = (
        train_cell(short, parse_row(f"first_order:outer_batch={size}"), 0, dataset)["memory"] for size in (64, 128)
    )
    assert small["plain"] == large["plain"]
    assert large["outer"] > 1.5 * small["outer"]


def test_a_run_that_breaks_down_is_a_result_without_numbers() -> None:
    done: list[int] = []
    wild = replace(DIGITS, lr=1e20)
    cell = train_cell(wild, parse_row("fixed"), 0, read_images(wild, 0, None), done.append)
    assert cell["failure"].startswith("Inner step ") and "the loss is " in cell["failure"]
    assert all(cell[name] is None for name in ("test_error", "val_error", "seconds", "cpu_seconds", "policy"))
    assert sum(done) < wild.steps


def test_progress_adds_up_to_the_steps() -> None:
    done: list[int] = []
    cell = train_cell(DIGITS, parse_row("none"), 0, read_images(DIGITS, 0, None), done.append)
    assert done == [2, 2, 2, 2] and cell["steps"] == DIGITS.steps == 8


def test_on_the_sub_problem_rows_are_compared_with_dense() -> None:
    texts = ("dense:damping=0.01", "dense:damping=0.01,selection=relaxed", "first_order", "neumann", "control:flipped")
    rows = [parse_row(text) for text in texts]
    cells = list(probe_cells(DIGITS, rows))
    assert [cell["row"] for cell in cells] == [row.label for row in rows]
    cosines = [cell["cosine"] for cell in cells]
    assert cosines[0] == pytest.approx(1, abs=1e-9) and cosines[1] == pytest.approx(1, abs=1e-9)
    assert cosines[2] < 0.999 and cosines[3] == pytest.approx(-cosines[4], abs=1e-9)
    assert len({(cell["inner_gradient_norm"], cell["lambda_max"]) for cell in cells}) == 1
    assert cells[0]["hyperparameters"] == 3 * 2 * len(DIGITS.operations)


def test_the_sub_problem_goes_to_a_minimum() -> None:
    early, late = (
        next(probe_cells(replace(DIGITS, probe_steps=20, probe_rounds=rounds), [parse_row("first_order")]))
        for rounds in (1, 10)
    )
    assert late["inner_gradient_norm"] < early["inner_gradient_norm"] / 2
    assert early["lambda_min"] < -1e-2 * early["lambda_max"]
    assert late["lambda_min"] > -1e-3 * late["lambda_max"]


def test_the_fixed_policy_is_the_learned_one_that_is_never_updated() -> None:
    # Also: its noise is new in every step. A study before this one drew each image's noise once for the whole run.
    never = replace(DIGITS, every=1000)
    dataset = read_images(never, 0, None)
    fixed, learned = (train_cell(never, parse_row(name), 0, dataset) for name in ("fixed", "first_order"))
    assert learned["updates"] == 0
    for name in ("train_loss", "val_error", "test_error", "policy"):
        assert fixed[name] == learned[name]
