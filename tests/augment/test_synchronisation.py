"""The outer step does not wait for the device unseen: on the meta device every hidden read by the host raises.

The meta device has shapes and no values. Fake CUDA tensors would do as well, but a build of torch without CUDA cannot
index them.
"""

import contextlib

import pytest
import torch
from torch import nn

from hypergrad import BilevelProblem, families, objective
from hypergrad.augment import Policy, mixture
from hypergrad.augment.counting import count_each
from hypergrad.augment.operations import operation_names
from hypergrad.estimators import implicit
from hypergrad.families import Context
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.solvers import neumann

BATCH = 48  # an image or more for each operation, whatever the stage


class Counts:
    """Stands for the sizes of the groups, which the host asks for: every operation gets images."""

    def __init__(self, reads, stages, size):
        self.reads, self.stages, self.size = reads, stages, size

    def tolist(self):
        self.reads.append("groups")
        share, rest = divmod(BATCH, self.size)
        return [[share + (i < rest) for i in range(self.size)] for _ in range(self.stages)]


@pytest.fixture
def reads(monkeypatch):
    """What the host reads from the device by design, in order; whatever else it reads raises."""
    made = []
    monkeypatch.setattr(mixture, "count_each", lambda ranks, size: Counts(made, len(ranks), size))
    return made


@pytest.fixture
def unguarded(monkeypatch):
    """Autocast knows no meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())


def fake(module):
    """The module with its tensors on the device of the mode."""
    for owner in module.modules():
        for name, p in list(owner._parameters.items()):
            if p is not None:
                owner._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"))
        for name, b in list(owner._buffers.items()):
            if b is not None:
                owner._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device="meta")
    return module


def images(count=BATCH):
    return torch.empty(count, 3, 8, 8, device="meta"), torch.zeros(count, dtype=torch.int64, device="meta")


def test_the_method_sees_a_read_that_is_not_replaced():
    policy = Policy(stages=1)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        fake(policy)(images()[0], soft=False, key=0)


def test_counting_is_that_of_bincount():
    values = torch.tensor([3, 0, 3, 3, 5])
    assert torch.equal(count_each(values, 7), torch.bincount(values, minlength=7))
    assert torch.equal(count_each(values[:0], 2), torch.zeros(2, dtype=torch.int64))
    rows = torch.tensor([[3, 0, 3], [1, 1, 2]])
    assert torch.equal(count_each(rows, 4), torch.stack([torch.bincount(row, minlength=4) for row in rows]))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("selection", ["unbiased", "relaxed"])
@pytest.mark.parametrize("straight_through", ["surrogate", "unit"])
def test_a_policy_over_all_operations_reads_the_groups_once(soft, selection, straight_through, reads):
    policy = Policy(
        stages=3,
        operations=operation_names(),
        selection=selection,
        straight_through=straight_through,
        group_size=2,
    )
    moved = fake(policy)
    index = torch.arange(BATCH, device="meta")
    result, log_prob = moved.draw(images()[0], soft=soft, key=3, index=index)
    assert result.device.type == log_prob.device.type == "meta" and result.shape == (BATCH, 3, 8, 8)
    if soft:
        result.sum().backward()
        assert moved.mu.grad.device.type == "meta"
    assert reads == ["groups"]


def test_a_fixed_policy_reads_the_groups_once(reads):
    policy = fake(Policy(stages=3, operations=operation_names()).freeze())
    assert policy(images()[0], key=3).shape == (BATCH, 3, 8, 8) and reads == ["groups"]


@pytest.mark.parametrize("soft", [False, True])
def test_families_read_nothing_of_their_own(soft, reads):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    members = [WeightDecay(model, per="layer"), SampleWeights(100), families.get("madao", mean=0.5, std=0.2)]
    family = fake(families.Compose(*members))
    inputs, targets = images()
    ctx = Context(key=1, index=torch.arange(BATCH, device="meta"), soft=soft, training=True)
    params = {k: torch.empty(p.shape, device="meta") for k, p in model.named_parameters()}
    inputs, targets, *log_prob = family.transform(inputs, targets, ctx)
    losses = family.weigh(torch.empty(BATCH, device="meta"), targets, ctx)
    for p in log_prob:
        losses = losses * objective.score_weights(p, BATCH)
    assert (losses.mean() + family.penalty(params)).device.type == "meta"
    assert all(v.device.type == "meta" for v in family.values().values())
    assert reads == ["groups"]


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("norm", [False, True])
def test_an_outer_step_reads_at_the_places_that_are_known(norm, reads, monkeypatch):
    """The groups of all stages, one test that all is finite, the solver's status, the numbers of the record."""

    def finite(losses, *norms):
        assert all(t.device.type == "meta" for t in (*norms, *(value for value, _ in losses.values())))
        reads.append("finite")

    def status(*values):
        reads.append("status")
        return [1.0] * len(values)

    monkeypatch.setattr(implicit, "check_finite", finite)
    monkeypatch.setattr(neumann, "to_host", status)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2) if norm else nn.Tanh(), nn.Flatten(), nn.Linear(72, 4))
    family = families.Compose(families.get("madao"), SampleWeights(100), WeightDecay(model))
    problem = BilevelProblem.for_model(fake(model), fake(family), weight_decay=1e-3)
    stepper = problem.stepper(torch.optim.SGD, "neumann", every=1)
    inputs, targets = images()
    batch = (inputs, targets, torch.arange(BATCH, device="meta"))
    loss = stepper.loss(batch)
    loss.backward()
    assert reads == ["groups"]  # an inner step
    reads.clear()
    result = stepper.hypergradient(batch, (inputs, targets))
    assert reads == ["groups", "finite", "status"]
    assert all(g.device.type == "meta" for g in result.grads.values())
    reads.clear()
    # The record is read in one transfer: the first read of `step` that is not replaced.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") as stopped:
        stepper.step(batch, (inputs, targets))
    assert reads == ["groups", "finite", "status"]
    assert "record_of" in {frame.name for frame in stopped.traceback}


@pytest.mark.usefixtures("unguarded")
def test_the_test_of_finiteness_reads_once(reads):
    value, batch = torch.empty((), device="meta"), (torch.empty(4, device="meta"),)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") as stopped:
        implicit.check_finite({"inner_loss": (value, batch)}, value)
    source = [f for f in stopped.traceback if f.name == "check_finite"][-1]
    assert "isfinite(total)" in str(source.statement)
