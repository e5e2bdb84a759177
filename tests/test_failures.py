"""Numbers that stop being finite: what is said of them, and what the policies leave as it was."""

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hypergrad
from hypergrad import BilevelProblem, KeyedBatches, families
from hypergrad.errors import NonFiniteError
from hypergrad.failures import IN_A_ROW, Failure
from hypergrad.failures.guard import Behind, Guard, all_finite
from hypergrad.failures.tracing import trace
from hypergrad.result import StepRecord

SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
OUTER = functools.partial(torch.optim.Adam, lr=0.05)
STEPS = {"outer_steps": 4, "inner_steps": 2, "progress": False}


def batches(seed: int = 0, *, bad: tuple[int, ...] = (), size: int = 4, value: float = math.nan) -> KeyedBatches:
    """Batches of which those with the rows ``bad`` are not finite."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(24, 3, generator=g), torch.randint(2, (24,), generator=g)
    x[list(bad), 1] = value
    return KeyedBatches(x, y, batch_size=size, seed=seed)


def steps_with(data: KeyedBatches, row: int, steps: int) -> list[int]:
    return [t for t in range(steps) if row in data.batch(t)[2].tolist()]


def late_row(steps: int, seed: int = 0) -> int:
    """One that is in some batch, and not in the first."""
    data = batches(seed)
    return next(r for r in range(24) if (found := steps_with(data, r, steps)) and found[0] > 0)


def model_problem(train: Any, val: Any = None, seed: int = 0) -> BilevelProblem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    family = families.get("weight_decay", model=model, initial=1e-2)
    return BilevelProblem.for_model(model, family, train_data=train, val_data=val or batches(1))


def tensors(problem: BilevelProblem) -> list[Tensor]:
    objective: Any = problem.objective
    return [t.detach() for t in (*objective.model.state_dict().values(), *problem.hparams.values())]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_bad_sample_is_named_with_its_batch_and_nothing_is_changed() -> None:
    row = late_row(8)
    data = batches(bad=(row,))
    first = steps_with(data, row, 8)[0]
    problem = model_problem(data)
    with pytest.raises(NonFiniteError) as caught:
        problem.solve("neumann", inner_optimizer=SGD, outer_optimizer=OUTER, **STEPS)
    failure = caught.value.failure
    assert isinstance(failure, Failure)
    assert (failure.level, failure.step, failure.batch, failure.data) == ("inner", first, first, "train_data")
    assert failure.holders == (("inputs", 1),) and failure.samples == (row,) and failure.indexed
    assert re.search(rf"Inner step {first}, train_data, batch {first}: .*inputs \(1 entries\)\. Samples: {row}\.",
                     str(caught.value))  # fmt: skip
    assert all(bool(t.isfinite().all()) for t in tensors(problem))


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * 60000).float()


@pytest.mark.parametrize(
    ("layer", "row", "stage", "operation", "words"),
    [
        (lambda: nn.Sequential(nn.Identity(), Log()), -2.0, "loss", "log", "in the module model.1.1 .*test_failures"),
        (lambda: Root(), 0.0, "gradient", "div", "backward pass of Sqrt, in the module model.1 .*test_failures"),
        (lambda: Half(), 50.0, "loss", "mul", "mul in float16, in the module model.1 .*overflow of float16.*65504"),
        (lambda: Divide(), -2.0, "loss", "div_", "div_ in float32, in the module model.1 "),
    ],
)
def test_the_operation_and_its_module_and_line(
    layer: Callable[[], nn.Module], row: float, stage: str, operation: str, words: str
) -> None:
    x = torch.ones(6, 2)
    x[4, 1] = row
    model = nn.Sequential(nn.Linear(2, 2), layer(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    family = families.get("weight_decay", model=model, initial=1e-2)
    problem = BilevelProblem.for_model(model, family)
    stepper = problem.stepper(OUTER)
    index = torch.arange(10, 16)
    batch = (x, torch.tensor([0, 1] * 3), index)
    loss = stepper.loss(batch)
    loss.backward()
    with pytest.raises(NonFiniteError, match=words) as caught:
        stepper.accepts(loss, batch)
    failure = caught.value.failure
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.cause.operation, failure.samples) == (stage, operation, (14,))
    assert failure.holders == () and Failure.of(failure.row()) == failure
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks  # the watch is gone


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1.5).log()


class Divide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        return y.div_(torch.where(x == -2.0, 0.0, 1.0))


def test_parameters_that_were_bad_before_are_named() -> None:
    problem = model_problem(batches())
    with torch.no_grad():
        problem.params["0.bias"][2] = math.inf
    with pytest.raises(NonFiniteError, match=r"parameter 0\.bias \(1 entries\).*An earlier step made them so"):
        problem.solve("neumann", inner_optimizer=SGD, outer_optimizer=OUTER, **STEPS)


def by_hand(problem: BilevelProblem, train: KeyedBatches, val: KeyedBatches, leave: set[int], schedule: Any) -> None:
    """The loop of ``solve`` without the steps ``leave``, of both levels."""
    stepper = problem.stepper(OUTER, every=2)
    inner = SGD(problem.params.values())
    lr = schedule(inner)
    model = problem.objective.model  # type: ignore[attr-defined]
    for t in range(8):
        before = {k: b.clone() for k, b in model.named_buffers()}
        inner.zero_grad()
        stepper.loss(train.batch(t)).backward()
        if t in leave:
            for k, b in model.named_buffers():
                b.copy_(before[k])
            if stepper.due():
                stepper.outer_step += 1
            stepper.inner_step += 1
        else:
            inner.step()
            stepper.step(train.batch(t), lambda: val.batch(stepper.outer_step))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lr.step()


@pytest.mark.parametrize("row", range(0, 24, 5))
def test_a_step_that_is_skipped_changes_nothing_else(row: int) -> None:
    schedule = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.7)
    clean, dirty = batches(), batches(bad=(row,))
    leave = set(steps_with(dirty, row, 8))
    assert leave
    wanted, got = model_problem(clean), model_problem(dirty)
    by_hand(wanted, clean, batches(1), leave, schedule)
    result = got.solve(
        "neumann", inner_optimizer=SGD, outer_optimizer=OUTER, scheduler=schedule, on_nonfinite="skip", **STEPS
    )
    assert same(tensors(wanted), tensors(got))
    assert [f.step for f in result.failures if f.level == "inner"] == sorted(leave)
    outer = [t // 2 for t in sorted(leave) if t % 2]
    assert [i for i, r in enumerate(result.history) if r.left_out] == outer
    assert [f.step for f in result.failures if f.level == "outer"] == outer
    assert all(f.action == "left out" for f in result.failures)


def test_a_bad_validation_sample_leaves_out_the_outer_step_only() -> None:
    val = batches(1, bad=(3,))
    bad = steps_with(val, 3, 4)
    problem = model_problem(batches(), val)
    result = problem.solve("neumann", inner_optimizer=SGD, outer_optimizer=OUTER, on_nonfinite="skip", **STEPS)
    assert bad and [i for i, r in enumerate(result.history) if r.left_out] == bad
    assert {(f.level, f.data, f.samples) for f in result.failures} == {("outer", "val_data", (3,))}
    assert [r.outer_step for r in result.history] == [1, 2, 3, 4]
    with pytest.raises(NonFiniteError, match=f"outer_loss is nan.*Outer step {bad[0]}, val_data, batch {bad[0]}"):
        model_problem(batches(), val).solve("neumann", inner_optimizer=SGD, outer_optimizer=OUTER, **STEPS)


@pytest.mark.parametrize("policy", ["skip", "halve"])
def test_a_training_that_leaves_out_all_is_dead(policy: Any) -> None:
    problem = model_problem(batches(bad=tuple(range(24))))
    with pytest.raises(NonFiniteError, match=f"{IN_A_ROW} inner steps in a row were left out, and one more") as caught:
        problem.solve("neumann", inner_optimizer=SGD, outer_optimizer=OUTER, on_nonfinite=policy, progress=False,
                      outer_steps=40, inner_steps=1, warmup_steps=30)  # fmt: skip
    assert caught.value.failure.step == IN_A_ROW  # type: ignore[attr-defined]


def test_a_finite_step_begins_the_row_anew() -> None:
    guard = Guard("skip")
    failure = Failure("inner", 0, 0, "train_data", "loss", "nan")
    for _ in range(3):
        for _ in range(IN_A_ROW):
            guard.handle(failure)
        guard.taken("inner")
    assert guard.left_out == {"inner": 3 * IN_A_ROW, "outer": 0}
    again = Guard("skip")
    again.load_state_dict(guard.state_dict())
    assert again.left_out == guard.left_out and list(again.failures) == list(guard.failures)


def quadratic(alpha: float, policy: Any, on_failure: Any = "warn") -> tuple[BilevelProblem, StepRecord | None, Any]:
    """Curvature 4: the series diverges from alpha = 0.5 on."""
    problem = BilevelProblem(
        lambda w, h: (2 * w["w"] ** 2).sum() + (h["h"] * w["w"]).sum(),
        lambda w, h: ((w["w"] - 2) ** 2).sum(),
        {"w": torch.ones(2)},
        {"h": torch.ones(2)},
    )
    solver = hypergrad.solvers.get("neumann", alpha=alpha, num_hvps=200)
    stepper = problem.stepper(OUTER, solver, every=1, on_nonfinite=policy, on_failure=on_failure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hypergrad.SolverWarning)
        record = stepper.step(None, None)
    return problem, record, stepper


def test_halving_alpha_takes_the_step_that_the_smaller_alpha_would() -> None:
    halved, record, stepper = quadratic(1.6, "halve")
    assert record is not None and record.halvings == 2 and not record.left_out
    plain, expected, _ = quadratic(0.4, "raise")
    assert expected is not None and expected.halvings == 0
    assert torch.equal(halved.hparams["h"], plain.hparams["h"]) and record.grad_norm == expected.grad_norm
    assert stepper.estimator.solver.alpha == 1.6  # the next solve begins with it again


@pytest.mark.parametrize("policy", ["raise", "skip", "halve"])
def test_what_a_failed_solve_leaves_is_on_failures(policy: Any) -> None:
    problem, record, stepper = quadratic(1000.0, policy)  # five halvings are not enough
    assert record is not None and record.left_out and not math.isfinite(record.grad_norm) and record.halvings == 0
    assert torch.equal(problem.hparams["h"], torch.ones(2)) and not stepper.guard.failures
    with pytest.raises(hypergrad.SolverError):
        quadratic(1000.0, policy, on_failure="raise")


class Throws:
    """An iterable data set that fails once, at a batch."""

    def __init__(self, at: int, shuffled: bool = False) -> None:
        self.at, self.left = at, 1
        data = batches()
        self.held = [data.batch(t) for t in range(6)]

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Any]:
        for t, batch in enumerate(self.held):
            if t == self.at and self.left:
                self.left = 0
                raise OSError("the disk is gone")
            yield batch


def solved(problem: BilevelProblem, folder: Path | None, **options: Any) -> Any:
    return problem.solve(
        "neumann", inner_optimizer=SGD, outer_optimizer=OUTER, checkpoint=folder, checkpoint_every=1e9,
        on_failure="ignore", **{**STEPS, **options},
    )  # fmt: skip


def rows(result: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.rows()]


@pytest.mark.parametrize("level", ["train", "val"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_loader_that_throws_loses_nothing(tmp_path: Path, level: str, at: int) -> None:
    def problem(data: Any) -> BilevelProblem:
        return model_problem(data) if level == "train" else model_problem(batches(), data)

    wanted = solved(problem(Throws(-1)), None)
    data = Throws(at)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        solved(problem(data), tmp_path / "c")
    notes = " ".join(caught.value.__notes__)
    steps = at if level == "train" else 2 * at + 1
    assert f"batch {at} of {level}_data" in notes and f"after {steps} inner steps, is in " in notes
    got = problem(data)
    assert rows(solved(got, tmp_path / "c")) == rows(wanted)
    assert all(torch.equal(wanted.params[k], p) for k, p in got.params.items())


def test_a_callback_that_throws_loses_nothing(tmp_path: Path) -> None:
    wanted = solved(model_problem(batches()), None)
    seen: list[int] = []

    def callback(record: StepRecord) -> None:
        seen.append(record.outer_step)
        if seen == [1, 2]:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        solved(model_problem(batches()), tmp_path / "c", callbacks=[callback])
    assert "after 4 inner steps" in caught.value.__notes__[0]
    got = solved(model_problem(batches()), tmp_path / "c", callbacks=[callback])
    assert rows(got) == rows(wanted) and seen == [1, 2, 3, 4]


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("level", ["inner", "outer"])
def test_after_an_error_the_run_goes_on_with_another_policy(tmp_path: Path, keyed: bool, level: str) -> None:
    dirty: Any = batches(bad=(late_row(4),))
    if not keyed:
        dirty = [dirty.batch(t) for t in range(6)]

    def problem() -> BilevelProblem:
        return model_problem(dirty) if level == "inner" else model_problem(batches(1), dirty)

    wanted = solved(problem(), None, on_nonfinite="skip")
    assert wanted.failures
    with pytest.raises(NonFiniteError) as caught:
        solved(problem(), tmp_path / "c")
    assert "The state before the failed step" in caught.value.__notes__[0]
    got = solved(problem(), tmp_path / "c", on_nonfinite="skip")
    assert repr(rows(got)) == repr(rows(wanted))
    assert [dataclasses.replace(f, cause=wanted.failures[0].cause) for f in got.failures] == [
        dataclasses.replace(f, cause=wanted.failures[0].cause) for f in wanted.failures
    ]
    assert all(torch.equal(wanted.params[k], p) for k, p in got.params.items())


def test_what_was_left_out_is_part_of_the_state(tmp_path: Path) -> None:
    data = batches(bad=(late_row(2),))
    first = solved(model_problem(data), tmp_path / "c", on_nonfinite="skip", outer_steps=1)
    assert first.failures
    longer = solved(model_problem(data), tmp_path / "c", on_nonfinite="skip")
    assert longer.failures[: len(first.failures)] == first.failures
    stepper = model_problem(data).stepper(OUTER, on_nonfinite="skip")
    stepper.guard.in_a_row["inner"] = 4
    other = model_problem(data).stepper(OUTER, on_nonfinite="skip")
    other.load_state_dict(stepper.state_dict())
    assert other.guard.in_a_row == {"inner": 4, "outer": 0}
    old = {k: v for k, v in stepper.state_dict().items() if k != "left_out"}
    other.load_state_dict({**old, "version": 2})
    assert other.guard.in_a_row == {"inner": 0, "outer": 0}


def test_a_loop_of_ones_own_is_told_not_to_step() -> None:
    problem = model_problem(batches())
    stepper = problem.stepper(OUTER, on_nonfinite="skip")
    for t, wanted in ((0, True), (1, False), (2, True)):
        batch = batches(bad=() if wanted else tuple(range(24))).batch(t)
        loss = stepper.loss(batch)
        loss.backward()
        assert stepper.accepts(loss, batch) is wanted
        assert all((p.grad is not None) is wanted for p in problem.params.values())
        for p in problem.params.values():
            p.grad = None
        stepper.step(batch, batches(1).batch(0))


def test_all_finite() -> None:
    big = torch.full((3,), 3e38)
    assert bool(all_finite([big, None, torch.ones(2, dtype=torch.float64), torch.zeros(0)]))  # no square overflows
    assert bool(all_finite([torch.full((4,), 6e4, dtype=torch.float16)])) and bool(all_finite([big * -1, big]))
    for value in (math.nan, math.inf, -math.inf):
        assert not bool(all_finite([big, torch.tensor([1.0, value])]))
        assert not bool(all_finite([torch.tensor([math.inf, -math.inf, value])]))
        assert not bool(all_finite([torch.tensor(value), torch.ones(1, dtype=torch.float64)]))


def test_a_gpu_is_read_behind_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags of a GPU, played on the CPU: what it is through with is read, in order, and the rest is waited for."""
    through = [0]

    class Event:
        def __init__(self) -> None:
            self.number = 0

        def record(self, stream: Any) -> None:
            Event.made += 1
            self.number = Event.made

        def query(self) -> bool:
            return self.number <= through[0]

        def synchronize(self) -> None:
            through[0] = max(through[0], self.number)

        made = 0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    original = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: original(*a, **k))
    behind = Behind()
    for step in range(6):
        behind.note(torch.tensor(step not in (3, 5)), step)
    assert behind.first() is None  # not through with any
    through[0] = 3
    assert behind.first() is None  # those were finite
    through[0] = 6
    assert behind.first() == 3 and behind.first(wait=True) is None
    for step in range(9):
        behind.note(torch.tensor(step > 0), step)
    assert behind.first() == 0  # the host waits where it is too far ahead
    behind.note(torch.tensor(False), 9)
    assert behind.first() is None and behind.first(wait=True) == 9


def test_a_step_found_late_is_named_without_its_operation() -> None:
    data = batches(bad=(late_row(8),))
    problem = model_problem(data)
    stepper = problem.stepper(OUTER)
    step = steps_with(data, late_row(8), 8)[0]
    with torch.no_grad():
        next(iter(problem.params.values())).fill_(math.nan)  # as the step has left it
    found = stepper._traced(step, data.batch(step), True)
    assert found.late and found.holders == (("inputs", 1),) and found.samples == (late_row(8),)
    clean = stepper._traced(0, batches().batch(0), True)
    assert clean.late and not clean.holders and not clean.cause.operation
    assert "on_nonfinite='skip' looks at each step first" in str(clean)


def test_an_infinity_that_is_masked_out_is_not_taken_for_the_cause() -> None:
    x, w = torch.tensor([0.0, 1.0, 2.0]), torch.ones(3, requires_grad=True)

    def loss() -> Tensor:
        innocent = torch.where(x > 0, (x * w.detach()).log(), 0.0)
        view = (innocent * w / (x - 1)).view(3, 1)
        return view[1:].sum()

    found = trace(loss, {"w": w}, (x,), level="inner", step=0, number=0)
    assert found is not None and (found.cause.operation, found.samples) == ("div", (1,))
    assert str(found.cause.line).startswith("test_failures.py")


def test_masks_with_infinities_are_no_cause() -> None:
    w = torch.zeros(2, requires_grad=True)
    found = trace(
        lambda: (w / 0).sum(), {"w": w}, None, level="inner", step=0, number=0,
        others={"buffer mask": torch.tensor(-math.inf)},
    )  # fmt: skip
    assert found is not None and found.holders == () and found.cause.operation == "div"
    assert trace(lambda: w.sum(), {"w": w}, None, level="inner", step=0, number=0) is None


def test_other_policies_are_refused() -> None:
    with pytest.raises(hypergrad.InvalidInputError, match="on_nonfinite must be one of .*'halve'.*; got 'ignore'"):
        model_problem(batches()).stepper(OUTER, on_nonfinite="ignore")  # type: ignore[arg-type]
