"""The outer step in anyone's loop: when it is taken, what it changes, resume, warm start."""

import copy
import functools

import pytest
import torch
from torch import nn

import hypergrad
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.result import Hypergradient

DOUBLE = torch.float64
SGD = functools.partial(torch.optim.SGD, lr=0.1)
BATCH = (torch.randn(8, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4))


def make(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 2)).double()
    problem = hypergrad.BilevelProblem.for_model(model, WeightDecay(model, per="layer", initial=0.1))
    return problem, problem.stepper(options.pop("outer", SGD), **options)


def run(problem, stepper, optimizer, steps):
    records = []
    for _ in range(steps):
        optimizer.zero_grad()
        stepper.loss(BATCH).backward()
        optimizer.step()
        records.append(stepper.step(BATCH, lambda: BATCH))
    return [r for r in records if r is not None]


def test_an_outer_step_is_taken_every_so_many_calls_after_the_warmup_and_draws_then_only():
    drawn = []
    _, stepper = make(every=3, warmup=4)
    taken = [
        t for t in range(1, 14) if stepper.step(lambda: BATCH, lambda t=t: drawn.append(t) or BATCH) is not None
    ]  # fmt: skip
    assert taken == drawn == [7, 10, 13]
    assert (stepper.inner_step, stepper.outer_step) == (13, 3)


def test_the_outer_optimizer_gets_the_hypergradient():
    problem, stepper = make(every=1)
    before = {k: h.detach().clone() for k, h in problem.hparams.items()}
    expected = stepper.hypergradient(BATCH, BATCH)
    record = stepper.step(BATCH, BATCH)
    for name, h in problem.hparams.items():
        torch.testing.assert_close(h.detach(), before[name] - 0.1 * expected.grads[name])
        assert torch.equal(h.grad, expected.grads[name])
    assert record.inner_loss == float(expected.inner_loss)
    assert record.grad_norm == pytest.approx(float(expected.grads["log_decay"].norm()))
    assert record.row()["status"] == "truncated"
    assert record.matvecs == 5 and record.memory is None


def test_preflight_changes_nothing_and_measures():
    problem, stepper = make(every=1, warm_start=True)
    twin_problem, twin = make(every=1, warm_start=True)
    seen = stepper.preflight(BATCH, lambda: BATCH)
    assert seen.memory > 0 and seen.seconds > 0
    assert seen.memory == stepper.preflight(BATCH, BATCH).memory
    assert (stepper.inner_step, stepper.outer_step) == (0, 0)
    stepper.step(BATCH, BATCH)
    twin.step(BATCH, BATCH)
    assert torch.equal(problem.hparams["log_decay"], twin_problem.hparams["log_decay"])


@pytest.mark.parametrize("solver", ["neumann", hypergrad.solvers.get("neumann", alpha="auto"), "nystrom"])
def test_a_resumed_stepper_goes_on_bit_for_bit(solver):
    outer = functools.partial(torch.optim.Adam, lr=0.05)
    options = {"every": 2, "solver": solver, "warm_start": True, "outer": outer, "seed": 4, "damping": 2.0}
    problem, stepper = make(**options)
    optimizer = torch.optim.Adam(problem.params.values(), lr=0.05)
    run(problem, stepper, optimizer, 6)
    saved = stepper.state_dict()
    model = {k: p.detach().clone() for k, p in problem.params.items()}
    inner_state = copy.deepcopy(optimizer.state_dict())

    resumed, second = make(**options | {"seed": 99})
    with torch.no_grad():
        for k, p in resumed.params.items():
            p.copy_(model[k])
    again = torch.optim.Adam(resumed.params.values(), lr=0.05)
    again.load_state_dict(inner_state)
    second.load_state_dict(saved)
    rows = run(resumed, second, again, 6)
    expected = run(problem, stepper, optimizer, 6)
    for k in problem.params:
        assert torch.equal(problem.params[k], resumed.params[k])
    assert torch.equal(problem.hparams["log_decay"], resumed.hparams["log_decay"])
    assert [r.grad_norm for r in rows] == [r.grad_norm for r in expected]
    assert [r.inner_step for r in rows] == [8, 10, 12]


def test_a_warm_start_saves_products_at_the_same_point():
    counts = {}
    for warm in (False, True):
        _, stepper = make(
            every=1, solver=hypergrad.solvers.get("cg", max_steps=200, tol=1e-8), warm_start=warm,
            outer=functools.partial(torch.optim.SGD, lr=0.0), damping=2.0,
        )  # fmt: skip
        stepper.hypergradient(BATCH, BATCH)
        stepper.step(BATCH, BATCH)
        stepper.inner_step = 0  # the same noise again
        counts[warm] = stepper.step(BATCH, BATCH).matvecs
    assert counts[True] < counts[False]


class Poison:
    """An estimator whose gradient is not finite."""

    def estimate(self, inner_loss, outer_loss, params, hparams, **_):
        grads = {k: torch.full_like(h, float("nan"), requires_grad=False) for k, h in hparams.items()}
        zero = torch.zeros((), dtype=DOUBLE)
        return Hypergradient(grads, grads, grads, zero, zero, zero)


def test_a_hypergradient_that_is_not_finite_changes_no_hyperparameter():
    problem, stepper = make(every=1, estimator=Poison(), on_nonfinite="skip")
    before = problem.hparams["log_decay"].detach().clone()
    record = stepper.step(BATCH, BATCH)
    assert torch.equal(problem.hparams["log_decay"], before)
    assert record.grad_norm != record.grad_norm and stepper.outer_step == 1 and record.left_out
    problem, stepper = make(every=1, estimator=Poison())
    with pytest.raises(hypergrad.NonFiniteError, match=r"The hypergradient is not finite \(norm nan\)"):
        stepper.step(BATCH, BATCH)
    assert stepper.pending and torch.equal(problem.hparams["log_decay"], before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every counts inner steps: .*at least 1; got 0"),
        ({"warmup": -1}, "warmup counts inner steps: .*at least 0; got -1"),
        ({"outer": 0.1}, "outer_optimizer must be a factory .* got 0.1"),
        ({"outer": lambda tensors: None}, "the factory returned None"),
        ({"outer": torch.optim.SGD([torch.ones(1)], lr=1)}, r"not over the right tensors: it lacks \['log_decay'\]"),
        ({"estimator": "implicitt"}, "Unknown estimator 'implicitt'. Did you mean 'implicit'"),
        ({"estimator": Poison(), "damping": 0.1}, r"\['damping'\] were given beside the estimator object"),
        ({"estimator": 3}, "An estimator is a registered name .* got 3"),
    ],
)
def test_error_table(options, message):
    with pytest.raises(hypergrad.InvalidInputError, match=message):
        make(**options)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    problem, stepper = make()
    before = problem.hparams["log_decay"].detach().clone()
    good = stepper.state_dict()
    for bad, message in (
        ({**good, "version": 99}, "version 99"),
        ({k: v for k, v in good.items() if k != "x"}, r"lacks \['x'\]"),
        ({**good, "hparams": {"other": before}}, r"missing \['log_decay'\], unexpected \['other'\]"),
        ({**good, "x": torch.ones(3)}, r"x of the state has shape \(3,\)"),
    ):
        with pytest.raises(hypergrad.InvalidInputError, match=message):
            stepper.load_state_dict(bad)
    assert torch.equal(problem.hparams["log_decay"], before)


def test_a_loop_that_never_steps_is_told_that_its_noise_stands_still():
    _, stepper = make(every=1000)
    first = stepper.loss(BATCH)
    assert torch.equal(stepper.loss(BATCH), first)  # dropout, of the same inner step
    for _ in range(97):
        stepper.loss(BATCH)
    with pytest.warns(hypergrad.InexactWarning, match="100 losses were taken since the last call of step"):
        stepper.loss(BATCH)
    stepper.loss(BATCH)  # told once
    stepper.step(BATCH, BATCH)
    assert not torch.equal(stepper.loss(BATCH), first)
    for _ in range(98):
        stepper.loss(BATCH)
