from pathlib import Path

import pytest
import torch
from _rows import DEFAULT_ROWS, RowError, import_files, parse_row, parse_rows

import hypergrad
from hypergrad.vision.policies import estimator

STRANGER = """
from dataclasses import dataclass

import hypergrad
from hypergrad.solvers import Solution, Status


@hypergrad.register_solver("lab:halved")
@dataclass(frozen=True, kw_only=True)
class Halved:
    factor: float = 0.5

    def solve(self, A, b, *, x0=None, state=None):
        return Solution(x=self.factor * b, status=Status.TRUNCATED, matvecs=0)
"""


def test_the_default_rows_are_all_understood() -> None:
    rows = parse_rows(DEFAULT_ROWS)
    assert [row.label for row in rows] == list(DEFAULT_ROWS)
    assert [row.name for row in rows if not row.learns] == ["fixed", "none"]
    for row in rows[2:]:
        estimator(row.madao(), lr=0.05, seed=0)


def test_defaults_are_the_papers_and_given_options_win() -> None:
    assert parse_row("neumann").options == {"alpha": 1e-3, "num_hvps": 5}
    row = parse_row("neumann:num_hvps=7,alpha=auto")
    assert row.options == {"alpha": "auto", "num_hvps": 7}
    assert row.label == "neumann:alpha=auto,num_hvps=7"
    assert estimator(row.madao(), lr=0.05, seed=0).solver == hypergrad.solvers.get("neumann", alpha="auto", num_hvps=7)


def test_order_of_options_makes_no_other_row() -> None:
    assert parse_row("neumann:alpha=0.1,num_hvps=3") == parse_row("neumann: num_hvps=3, alpha=0.1")


def test_the_studys_own_options_do_not_reach_the_solver() -> None:
    method = parse_row("cg:selection=relaxed,damping=0.5,max_steps=3,outer_batch=256").madao()
    assert (method.selection, method.outer_batch_size) == ("relaxed", 256)
    made = estimator(method, lr=0.05, seed=0)
    assert made.damping == 0.5
    assert made.solver == hypergrad.solvers.get("cg", max_steps=3, tol=0)


def test_controls_take_the_options_of_their_solver() -> None:
    row = parse_row("control:random:alpha=0.05")
    assert row.name == "control:random" and row.label == "control:random:alpha=0.05"
    assert estimator(row.madao(), lr=0.05, seed=0).inner.solver.alpha == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("neuman", r"Unknown row 'neuman'.*Did you mean 'neumann'\?.*--import FILE"),
        ("control:rnadom", r"Unknown row 'control:rnadom'.*Did you mean 'control:random'"),
        ("", r"Unknown row ''"),
        (
            "neumann:alhpa=0.1",
            r"no option 'alhpa'.*Did you mean 'alpha'.*Options of the study itself: selection, damping, outer_batch",
        ),
        ("neumann:alpha", r"'alpha' in --row neumann:alpha is not option=value"),
        ("neumann:alpha=", r"is not option=value"),
        ("neumann:alpha=0.1,,num_hvps=3", r"'' in --row .* is not option=value"),
        ("neumann:alpha=0.1,alpha=0.2", r"'alpha' is given twice"),
        ("neumann:alpha=-1", r"alpha.*-1"),
        ("neumann:alpha=fast", r"alpha.*'auto'.*'fast'"),
        ("neumann:num_hvps=1.5", r"num_hvps.*1\.5"),
        ("neumann:outer_batch=some", r"outer_batch: .*integer.*'some'"),
        ("neumann:outer_batch=0", r"outer_batch: .*greater than or equal to 1.*got 0"),
        ("neumann:selection=best", r"selection: .*'unbiased' or 'relaxed'.*'best'"),
        ("cg:damping=-1", r"damping.*-1"),
        ("fixed:alpha=1", r"'fixed' .*takes no options"),
        ("none:selection=relaxed", r"'none' .*takes no options"),
        ("unrolled:damping=0.1", r"no linear system, so it has no damping"),
        ("unrolled:steps=0", r"steps.*0"),
        ("unrolled:alpha=1", r"alpha"),
        ("first_order:tol=1", r"no option 'tol'"),
    ],
)
def test_errors_name_the_part_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_row(text)


def test_fixed_is_always_there_and_first() -> None:
    assert [row.label for row in parse_rows(["cg", "fixed", "none"])] == ["fixed", "cg", "none"]
    assert [row.label for row in parse_rows(["cg"])] == ["fixed", "cg"]


def test_a_row_asked_for_twice_is_refused() -> None:
    with pytest.raises(RowError, match="asked for twice"):
        parse_rows(["neumann:alpha=0.1,num_hvps=3", "neumann:num_hvps=3,alpha=0.1"])


def test_a_strangers_solver_comes_in_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="Unknown row 'lab'"):
        parse_row("lab:halved:factor=0.25")
    (tmp_path / "mine.py").write_text(STRANGER)
    import_files([str(tmp_path / "mine.py"), str(tmp_path / "mine.py")])
    row = parse_row("lab:halved:factor=0.25")
    assert (row.name, row.options) == ("lab:halved", {"factor": 0.25})
    assert estimator(row.madao(), lr=0.05, seed=0).solver.factor == 0.25
    with pytest.raises(RowError, match="no option 'facto'"):
        parse_row("lab:halved:facto=1")


@pytest.mark.parametrize("name", ["absent.py", "text.txt"])
def test_an_import_that_is_no_python_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(RowError, match=r"no such Python file.*register_solver"):
        import_files([str(tmp_path / name)])


def _estimate(text: str, state: dict | None = None) -> hypergrad.Hypergradient:
    target = torch.tensor([3.0, -1.0], dtype=torch.float64)
    return estimator(parse_row(text).madao(), lr=0.05, seed=5).estimate(
        lambda w, h: 0.5 * (w["w"] - target * h["a"] - h["b"]).square().sum(),
        lambda w, h: 0.5 * w["w"].square().sum(),
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([0.5, 0.7], dtype=torch.float64), "b": torch.tensor([1.0, 4.0], dtype=torch.float64)},
        state=state,
    )  # fmt: skip


def test_the_flipped_control_is_the_exact_opposite() -> None:
    plain, flipped = _estimate("neumann:alpha=0.5"), _estimate("control:flipped:alpha=0.5")
    for key, grad in plain.grads.items():
        assert float(grad.norm()) > 0.1
        assert torch.equal(flipped.grads[key], -grad)
    assert flipped.solution is not None and flipped.solution.matvecs == plain.solution.matvecs == 5


def test_the_random_control_keeps_the_norm_of_each_entry_and_draws_anew_each_step() -> None:
    plain, first = _estimate("neumann:alpha=0.5"), _estimate("control:random:alpha=0.5")
    second = _estimate("control:random:alpha=0.5", dict(first.solution.state))
    again = _estimate("control:random:alpha=0.5")
    for key, grad in plain.grads.items():
        assert float(first.grads[key].norm()) == pytest.approx(float(grad.norm()), rel=1e-12)
        assert not torch.allclose(first.grads[key], grad, rtol=1e-2)
        assert not torch.allclose(first.grads[key], second.grads[key], rtol=1e-2)
        assert torch.equal(first.grads[key], again.grads[key])


def test_a_control_hands_the_solvers_own_state_on() -> None:
    first = _estimate("control:random:alpha=auto")
    second = _estimate("control:random:alpha=auto", dict(first.solution.state))
    assert first.solution.state["draws"] == 1 and second.solution.state["draws"] == 2
    assert second.solution.matvecs < first.solution.matvecs  # alpha was not searched for again
