"""Training of small cells on the digits, in this process: pairing, resumption, and what a cell records."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from _cells import cell_digest, cell_path, read_cell, write_json
from _recipe import RECIPES, smoke
from _rows import parse_row
from _workers import Plan, missing_rows, run_seed

RECIPE = replace(smoke(RECIPES["digits"]), sizes=(128, 64, 64), epochs=4, warmup_fraction=0.25)
ROWS = ("fixed", "none", "neumann", "unrolled")


def _run(plan: Plan, seed: int = 0) -> list[str]:
    """The cells that were told of."""
    told: list[tuple[str, int, str]] = []
    run_seed(plan, seed, told.append)
    return [text for kind, _, text in told if kind == "cell"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan = Plan(recipe=RECIPE, rows=ROWS, seeds=(0,), output=tmp_path_factory.mktemp("cells"))
    assert len(_run(plan)) == len(ROWS)
    return plan


def _cell(plan: Plan, text: str, seed: int = 0) -> dict:
    row = parse_row(text)
    cell = read_cell(cell_path(plan.output, row, seed), cell_digest(plan.recipe, row, seed))
    assert cell is not None
    return cell


def test_a_cell_says_what_was_measured(finished: Plan) -> None:
    cell = _cell(finished, "neumann")
    assert cell["steps"] == 8 and cell["updates"] == 2  # after 2 steps of warm-up, every third
    assert cell["matvecs"] == 10 and sum(cell["statuses"].values()) == 2
    assert 0 <= cell["test_error"] <= 100 and cell["failure"] is None
    assert 0 < cell["residual"] <= 1.5
    assert cell["memory"]["outer"] > cell["memory"]["plain"] > 0
    assert cell["seconds"] > 0 and cell["fixed_cpu_seconds"] > 0
    pi = cell["policy"]["pi"]
    assert len(pi) == 2 and len(pi[0]) == len(RECIPE.operations)
    assert all(sum(stage) == pytest.approx(1, abs=1e-2) for stage in pi)


def test_the_fixed_policy_stays_where_it_starts(finished: Plan) -> None:
    cell = _cell(finished, "fixed")
    assert cell["updates"] == cell["matvecs"] == 0 and cell["statuses"] == {}
    assert all(
        x == pytest.approx(1 / len(RECIPE.operations), abs=1e-4) for stage in cell["policy"]["pi"] for x in stage
    )
    assert all(x == 0.5 for name in ("mu", "p") for stage in cell["policy"][name] for x in stage)
    assert _cell(finished, "neumann")["policy"] != cell["policy"]


def test_rows_without_a_policy_or_a_solve_say_so(finished: Plan) -> None:
    assert _cell(finished, "none")["policy"] is None
    unrolled = _cell(finished, "unrolled")
    assert unrolled["updates"] == 2 and unrolled["statuses"] == {} and unrolled["residual"] is None


def test_nothing_is_done_twice(finished: Plan) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*.json")}
    assert _run(finished) == []
    assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*.json")} == before


def test_only_what_is_missing_is_done_after_a_fresh_fixed_run(finished: Plan, tmp_path: Path) -> None:
    plan = replace(finished, output=tmp_path)
    for path in finished.output.rglob("*.json"):
        copy = tmp_path / path.relative_to(finished.output)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    lost = cell_path(tmp_path, parse_row("neumann"), 0)
    held = json.loads(lost.read_text())
    lost.unlink()
    told = _run(plan)
    assert len(told) == 2 and "fixed" in told[0] and "for its time" in told[0] and "neumann" in told[1]
    again = json.loads(lost.read_text())
    timed = {"seconds", "cpu_seconds", "fixed_seconds", "fixed_cpu_seconds", "commit"}
    # The same cell, bit for bit: nothing depends on which process it ran in, or on what ran before.
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in held.items() if k not in timed}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"digest": "another"}', '{"test_error": 1.0}'], ids=lambda c: c or "empty"
)
def test_a_torn_or_foreign_cell_counts_as_missing(tmp_path: Path, content: str) -> None:
    plan = Plan(recipe=RECIPE, rows=("fixed",), seeds=(0,), output=tmp_path)
    path = cell_path(tmp_path, parse_row("fixed"), 0)
    path.parent.mkdir()
    path.write_text(content)
    assert [row.label for row in missing_rows(plan, plan.parsed(), 0)] == ["fixed"]


def test_another_recipe_row_or_seed_is_another_cell_and_the_number_of_seeds_is_not() -> None:
    row = parse_row("neumann")
    digest = cell_digest(RECIPE, row, 0)
    assert digest == cell_digest(replace(RECIPE, seeds=99), row, 0)
    others = [
        cell_digest(RECIPE, row, 1),
        cell_digest(RECIPE, parse_row("neumann:alpha=0.1"), 0),
        cell_digest(replace(RECIPE, lr=0.06), row, 0),
        cell_digest(replace(RECIPE, operations=RECIPE.operations[::-1]), row, 0),
    ]
    assert len({digest, *others}) == 5
    # An option that repeats the default changes the label and not what is computed.
    assert cell_digest(RECIPE, parse_row("neumann:alpha=0.001"), 0) == digest


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cell.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
