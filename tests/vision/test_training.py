"""The training loop: what it minimises, what it repeats, what it refuses."""

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad.errors import InvalidInputError, NonFiniteError, UnknownNameError
from hypergrad.keys import derive
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.evaluation import evaluate
from hypergrad.vision.splits import make_splits
from hypergrad.vision.training import TrainResult, _Trainer, selection_entropy, train


def squares(n: int = 240, channels: int = 1, side: int = 12) -> Dataset:
    """Three classes: a bright bar at the top, in the middle or at the bottom, with noise."""
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 3
    images = torch.rand((n, channels, side, side), generator=g) * 120
    for i, t in enumerate(targets.tolist()):
        images[i, :, 4 * t + 1 : 4 * t + 3] += 110
    both = ImageSet(images.round().to(torch.uint8), targets)
    rows = torch.arange(n)
    return Dataset(
        name="squares",
        classes=("top", "middle", "bottom"),
        train=both.take(rows[: 3 * n // 4]),
        test=both.take(rows[3 * n // 4 :]),
        val=None,
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
        flip=True,
    )


def config(method: dict[str, Any] | str = "madao", **changes: Any) -> TrainConfig:
    method = {"name": method} if isinstance(method, str) else method
    if method["name"] == "madao":
        method = {"every": 3, "operations": ["TranslateY", "Brightness", "Invert"], **method}
    settings = {"method": method, "epochs": 2, "batch_size": 16, "standard": {"crop": 1}, "data": {"validation": 40}}
    return TrainConfig(**{**settings, **changes})


def run(*args: Any, **kwargs: Any) -> TrainResult:
    return train(config(*args, **kwargs), dataset=squares(), progress=False)


def weights(result: TrainResult) -> Tensor:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def trainer(*args: Any, **kwargs: Any) -> _Trainer:
    made = config(*args, **kwargs)
    return _Trainer(made, make_splits(made.data, 0, squares()), None)


@pytest.mark.parametrize("cutout", [0, 3])
def test_an_inner_step_minimises_the_objective_that_the_outer_step_differentiates(cutout: int) -> None:
    ours = trainer(standard={"crop": 1, "cutout": cutout}, weight_decay=0.01)
    assert ours.stepper is not None
    (positions,) = ours.train_order.batch(0)
    batch = ours._prepared(ours.splits.train, positions, derive(ours.config.seed, "crop", 0))
    ours.network.train()
    wanted = ours.stepper.loss(batch)
    grads = torch.autograd.grad(wanted, list(ours.network.parameters()))
    optimizer = torch.optim.SGD(ours.network.parameters(), lr=1.0)
    before = [p.detach().clone() for p in ours.network.parameters()]
    loss = ours._step(0, optimizer, [])
    decay = 0.005 * sum(p.square().sum() for p in before)
    assert torch.allclose(loss + decay, wanted, rtol=1e-6)
    for p, old, grad in zip(ours.network.parameters(), before, grads, strict=True):
        assert torch.allclose(old - p, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["standard", "randaugment", "trivialaugment", "fixed", "madao", "faster-autoaugment"]
)
def test_every_method_trains_and_repeats_bit_for_bit(method: str) -> None:
    options: dict[str, Any] = {"name": method}
    if method == "faster-autoaugment":
        options |= {"search_epochs": 1, "search_batch_size": 32, "subset": 60, "operations": ["Rotate", "Invert"]}
    first = run(options)
    again = run(options)
    assert torch.equal(weights(first), weights(again))
    assert first.history[-1].train_loss == again.history[-1].train_loss
    assert first.test is not None and again.test is not None
    assert first.test.confusion == again.test.confusion
    assert (first.policy is None) == (method == "standard")
    assert [e.updates for e in first.history] == ([2, 5] if method == "madao" else [0, 0])
    assert not torch.equal(weights(first), weights(run(options, seed=1)))


def test_methods_share_the_start_and_the_order() -> None:
    for method in ("standard", "randaugment", "fixed"):
        ours, plain = trainer(method), trainer("standard")
        assert all(
            torch.equal(a, b) for a, b in zip(ours.network.parameters(), plain.network.parameters(), strict=True)
        )
        assert torch.equal(ours.train_order.batch(3)[0], plain.train_order.batch(3)[0])


def test_a_policy_that_is_never_updated_is_the_fixed_one() -> None:
    operations = ["TranslateY", "Brightness", "Invert"]
    never = run({"name": "madao", "every": 10_000})
    fixed = run({"name": "fixed", "operations": operations})
    assert torch.equal(weights(never), weights(fixed))


def test_it_learns() -> None:
    result = run("standard", epochs=8)
    assert result.test is not None
    assert result.test.error < 10  # chance: 67
    assert result.history[-1].train_loss < result.history[0].train_loss / 2
    assert [e.epoch for e in result.history] == list(range(1, 9))


def test_controls_take_other_directions_of_the_same_length() -> None:
    policies = {}
    for control in ("none", "flipped", "random"):
        ours = trainer({"name": "madao", "every": 1, "warmup": 0.0, "optimizer": "sgd", "lr": 1.0, "control": control})
        ours.network.train()
        ours._step(0, torch.optim.SGD(ours.network.parameters(), lr=0.0), [])
        policies[control] = {k: p.detach() for k, p in ours.policy.named_parameters()}
    for name, step in policies["none"].items():
        assert step.norm() > 0
        assert torch.allclose(policies["flipped"][name], -step)
        assert policies["random"][name].norm().item() == pytest.approx(step.norm().item(), rel=1e-4)
        assert not torch.allclose(policies["random"][name], step, rtol=0.1)


@pytest.mark.parametrize(
    "solver",
    [
        {"solver": "cg", "solver_options": {"max_steps": 2}, "damping": 0.1},
        {"solver": "first_order"},
        {"solver": "unrolled", "solver_options": {"steps": 1}},
        {"solver": "neumann", "solver_options": {"alpha": "auto"}},
        {"outer_batch_size": 64, "val_batch_size": 20},
    ],
)
def test_solvers_and_batches_of_the_outer_step(solver: dict[str, Any]) -> None:
    result = run({"name": "madao", **solver})
    assert result.history[-1].updates == 5
    assert result.policy is not None
    assert all(p.abs().max() > 0 for p in result.policy.parameters())
    assert result.history[-1].hypergradient is not None


def test_each_update_is_told_with_the_policy_of_that_moment() -> None:
    told: list[tuple[int, int, float]] = []

    def norm(policy: Any) -> float:
        return float(policy.pi.detach().norm())

    result = train(
        config({"name": "madao", "every": 3, "warmup": 0.0}),
        dataset=squares(),
        progress=False,
        on_update=lambda record, policy: told.append((record.outer_step, record.inner_step, norm(policy))),
    )
    assert [entry[:2] for entry in told] == [(1, 3), (2, 6), (3, 9), (4, 12), (5, 15)]
    assert len({entry[2] for entry in told}) == 5  # each update moves it
    assert told[-1][2] == norm(result.policy)


def test_cpu_seconds_leave_evaluation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock[0] += 100
        return evaluate(*args, **kwargs)

    inner_step = _Trainer._step

    def step(self: _Trainer, *args: Any) -> Tensor:
        clock[0] += 1
        return inner_step(self, *args)

    monkeypatch.setattr("hypergrad.vision.clock.time.process_time", lambda: clock[0])
    monkeypatch.setattr("hypergrad.vision.inner_loop.evaluate", slow)
    monkeypatch.setattr(_Trainer, "_step", step)
    result = run("standard", epochs=3)
    assert result.cpu_seconds == result.history[-1].step == 24


def test_schedule_warms_up_and_ends_at_zero() -> None:
    ours = trainer("standard", epochs=10, warmup_epochs=2, lr=0.5)
    factors = [ours._lr_factor(step) for step in range(ours.steps + 1)]
    top = 2 * ours.per_epoch
    assert all(a < b for a, b in pairwise(factors[: top + 1]))
    assert factors[top] == 1
    assert all(a > b for a, b in pairwise(factors[top:]))
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert 0 < factors[0] < 0.2


def test_options_change_what_they_say() -> None:
    plain = run("standard")
    assert torch.allclose(weights(run("standard", channels_last=True)), weights(plain), atol=1e-4)
    half = weights(run("standard", precision="bfloat16"))
    assert not torch.equal(half, weights(plain))
    assert torch.allclose(half, weights(plain), atol=0.05)
    padded = run("standard", data={"validation": 40, "pad_to": 16, "channels": 3})
    assert padded.splits.side == 16
    assert padded.splits.channels == 3


def test_central_crops_are_evaluated_where_random_ones_train() -> None:
    result = run("standard", standard={"resized_crop": 8})
    assert result.model(torch.rand(1, 1, 8, 8)).shape == (1, 3)


def test_entropy_of_the_selection() -> None:
    ours = trainer()
    assert selection_entropy(ours.policy) == pytest.approx(1)
    with torch.no_grad():
        ours.policy.pi[:, 0] = 50.0
    assert selection_entropy(ours.policy) == pytest.approx(0, abs=1e-12)


def test_a_loss_that_is_not_finite_is_reported() -> None:
    with pytest.raises(NonFiniteError, match=r"Inner step 1, .*A lower lr \(1e\+30 now\)"):
        run("standard", lr=1e30)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 500}, InvalidInputError, "batch_size=500 is larger than the 140 training images"),
        ({"device": "gpu"}, InvalidInputError, "device='gpu' is none that torch knows"),
        ({"model": {"name": "wrn-28-3"}}, UnknownNameError, "wrn-28-3"),
        ({"model": {"options": {"breadth": 3}}}, InvalidInputError, "breadth"),
        ({"standard": {"resized_crop": 50}}, InvalidInputError, "standard.resized_crop=50 is larger than the images"),
        ({"standard": {"crop": 7}}, InvalidInputError, "standard.crop=7 is more than half of the images' 12 pixels"),
        ({"method": {"name": "madao", "solver": "neuman"}}, UnknownNameError, "Did you mean 'neumann'?"),
        ({"method": {"name": "madao", "operations": ["Rotat"]}}, UnknownNameError, "Did you mean 'Rotate'?"),
        ({"method": {"name": "madao", "solver": "unrolled", "damping": 0.1}}, InvalidInputError, "no damping"),
        ({"method": {"name": "madao", "solver_options": {"alfa": 1}}}, InvalidInputError, "alfa"),
        (
            {"method": {"name": "madao", "solver": "unrolled", "solver_options": {"steps": 1.5}}},
            InvalidInputError,
            "steps must be an integer; got 1.5",
        ),
        ({"method": {"name": "policy", "path": "none.json"}}, InvalidInputError, "none.json"),
        ({"data": {"validation": 180}}, InvalidInputError, "data.validation"),
        ({"data": {"validation": 40, "train_size": 1000}}, InvalidInputError, "data.train_size asks for 1000 images"),
        ({"data": {"validation": 40, "test_size": 100}}, InvalidInputError, "data.test_size asks for 100 images"),
    ],
)
def test_errors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    method = changes.pop("method", "standard")
    with pytest.raises(error, match=re.escape(message)):
        run(method, **changes)
