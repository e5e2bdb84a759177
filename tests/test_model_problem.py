"""Problems over a model: BatchNorm, dropout and noise, composition, what is left alone, and what is refused."""

import copy
import functools

import pytest
import torch
from torch import nn

import hypergrad
from hypergrad.families import Compose
from hypergrad.families.sample_weights import SampleWeights
from hypergrad.families.weight_decay import WeightDecay
from hypergrad.keys import uniform
from hypergrad.linearization import Linearization
from hypergrad.objective import score_weights

DOUBLE = torch.float64


class NoisyScale(hypergrad.HyperparameterFamily):
    """Random augmentation with a learned strength: inputs plus keyed noise."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))

    def transform(self, inputs, targets, ctx):
        index = torch.arange(len(inputs)) if ctx.index is None else ctx.index
        noise = uniform(ctx.key, index, inputs[0].numel(), dtype=inputs.dtype).view_as(inputs) - 0.5
        return inputs + self.strength * noise, targets


def make(family=None, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(5, 8),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    ).double()
    model[5].eval()  # a frozen BatchNorm: running statistics, no updates
    for p in model[5].parameters():
        p.requires_grad_(False)
    batch = (torch.randn(12, 5, dtype=DOUBLE), torch.randint(0, 3, (12,)), torch.arange(12))
    val = (torch.randn(9, 5, dtype=DOUBLE), torch.randint(0, 3, (9,)))
    problem = hypergrad.BilevelProblem.for_model(
        model, family or NoisyScale(), train_data=[batch], val_data=[val], weight_decay=0.01
    )
    return model, problem, batch, val


def snapshot(model, problem):
    return {
        "buffers": {k: b.clone() for k, b in model.named_buffers()},
        "params": {k: p.detach().clone() for k, p in model.named_parameters()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "rng": torch.get_rng_state(),
    }


def assert_same(before, after):
    for part in ("buffers", "params", "grads"):
        for name, value in before[part].items():
            other = after[part][name]
            assert (value is None and other is None) or torch.equal(value, other), (part, name)
    assert before["modes"] == after["modes"]
    assert torch.equal(before["rng"], after["rng"])


@pytest.mark.parametrize("estimator", ["implicit", "unrolled"])
def test_an_outer_step_leaves_everything_but_the_hyperparameters_alone(estimator):
    model, problem, batch, val = make()
    if estimator == "unrolled":
        optimizer = torch.optim.SGD(problem.params.values(), lr=0.1, momentum=0.9)
        estimator = hypergrad.estimators.get("unrolled", optimizer=optimizer)
    stepper = problem.stepper(functools.partial(torch.optim.Adam, lr=0.1), every=1, estimator=estimator)
    stepper.loss(batch).backward()  # so that .grad holds something
    before = snapshot(model, problem)
    strength = problem.hparams["strength"].detach().clone()
    record = stepper.step(batch, val)
    assert_same(before, snapshot(model, problem))
    assert record.outer_step == 1 and not torch.equal(problem.hparams["strength"], strength)


def test_inner_steps_update_buffers_but_leave_the_random_state_and_give_hparams_no_gradient():
    model, problem, batch, _ = make()
    stepper = problem.stepper(torch.optim.SGD, every=10)
    before = snapshot(model, problem)
    stepper.loss(batch).backward()
    after = snapshot(model, problem)
    assert torch.equal(before["rng"], after["rng"])
    assert not torch.equal(before["buffers"]["1.running_mean"], after["buffers"]["1.running_mean"])
    assert torch.equal(before["buffers"]["5.running_mean"], after["buffers"]["5.running_mean"])
    assert problem.hparams["strength"].grad is None
    assert after["grads"]["0.weight"].abs().sum() > 0


def test_the_training_loss_of_inner_steps_has_torchs_weight_decay():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    batch = (torch.randn(6, 4, dtype=DOUBLE), torch.randint(0, 3, (6,)), torch.arange(6))
    problem = hypergrad.BilevelProblem.for_model(model, SampleWeights(6), weight_decay=0.05)
    twin = copy.deepcopy(model)
    ours = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.05)
    problem.stepper(torch.optim.SGD).loss(batch).backward()
    nn.functional.cross_entropy(twin(batch[0]), batch[1]).backward()
    ours.step()
    theirs.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-7, atol=1e-8)  # weights of one are float32


def linearized(problem, batch, key=5, hparams=None):
    inner, _ = problem.objective.losses(key)
    torch.manual_seed(key)
    return Linearization(lambda w, h: inner(w, h, *batch), problem.params, hparams or problem.hparams)


def test_products_repeat_bitwise_are_symmetric_and_the_cross_term_equals_central_differences():
    _, problem, batch, _ = make()
    A = linearized(problem, batch)
    u, v = torch.randn(2, A.shape[0], dtype=DOUBLE)
    assert torch.equal(A @ v, A @ v)
    left, right = u @ (A @ v), v @ (A @ u)
    assert abs(left - right) <= 1e-12 * (u.norm() * (A @ v).norm())

    step = 1e-6
    moved = [
        linearized(problem, batch, hparams={"strength": problem.hparams["strength"].detach() + s * step}).gradient
        for s in (1, -1)
    ]
    expected = (moved[0] - moved[1]) @ v / (2 * step)
    torch.testing.assert_close(A.cross_vjp(v)["strength"], expected, rtol=1e-7, atol=1e-9)


def test_each_familys_part_in_a_composition_equals_the_one_it_has_alone():
    """Alone: the others are there with the same values, but as constants of the losses."""
    images = torch.rand(8, 1, 6, 6, dtype=DOUBLE)
    targets, index = torch.randint(0, 3, (8,)), torch.arange(8)
    val = (torch.rand(8, 1, 6, 6, dtype=DOUBLE), torch.randint(0, 3, (8,)))
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()
    madao = hypergrad.families.get("madao", stages=2).double()
    members = [WeightDecay(model, per="layer", initial=0.01), SampleWeights(8).double(), madao]
    solver = hypergrad.solvers.get("cg", max_steps=20, tol=0.0)
    together = hypergrad.BilevelProblem.for_model(model, members)
    options = {"batch": (images, targets, index), "val": val, "damping": 1.0, "seed": 11, "on_failure": "ignore"}
    whole = together.hypergradient(solver, **options).grads
    for chosen in members:
        for member in members:
            member.requires_grad_(member is chosen)
        part = hypergrad.BilevelProblem.for_model(model, members).hypergradient(solver, **options).grads
        assert part and set(part) < set(whole)
        for name, gradient in part.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-14)
            assert gradient.abs().sum() > 0, name


def test_a_random_family_draws_alone_what_it_draws_composed():
    _, alone, batch, val = make(NoisyScale())
    _, composed, *_ = make([NoisyScale(), SampleWeights(12).double()])
    got = composed.hypergradient("first_order", batch=batch, val=val, seed=2).grads
    want = alone.hypergradient("first_order", batch=batch, val=val, seed=2).grads["strength"]
    torch.testing.assert_close(got["members.noisy_scale.strength"], want, rtol=1e-6, atol=0)


def test_score_weights_are_one_and_carry_the_leave_one_out_gradient():
    losses = torch.tensor([1.0, 3.0, 8.0], dtype=DOUBLE)
    log_prob = torch.tensor([-0.1, -2.0, -1.0], dtype=DOUBLE, requires_grad=True)
    weights = score_weights(log_prob, 3)
    assert torch.equal(weights, torch.ones(3, dtype=DOUBLE))
    (gradient,) = torch.autograd.grad((losses * weights).sum(), log_prob)
    baseline = torch.stack([(losses.sum() - loss) / 2 for loss in losses])
    torch.testing.assert_close(gradient, losses - baseline)
    (single,) = torch.autograd.grad((losses[:1] * score_weights(log_prob[:1], 1)).sum(), log_prob)
    torch.testing.assert_close(single, torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE))


class Coin(hypergrad.HyperparameterFamily):
    """Scales each sample by 2 with a learned probability, else not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.4, dtype=DOUBLE))

    def transform(self, inputs, targets, ctx):
        p = torch.sigmoid(self.logit)
        heads = uniform(ctx.key, torch.arange(len(inputs)), 1, dtype=DOUBLE)[:, 0] < p.detach()
        log_prob = torch.where(heads, p, 1 - p).log()
        return inputs * (1 + heads.to(inputs.dtype))[:, None], targets, log_prob


def test_the_score_function_term_is_unbiased_for_the_cross_derivative():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    batch = (torch.randn(6, 3, dtype=DOUBLE), torch.randint(0, 2, (6,)))
    family = Coin()
    problem = hypergrad.BilevelProblem.for_model(model, family)
    x = torch.randn(8, dtype=DOUBLE)
    draws = torch.stack([linearized(problem, batch, key=k).cross_vjp(x)["logit"] for k in range(2000)])

    # d/dlogit of <grad_w E[L], x>: the expectation is a sum over both outcomes of each sample.
    p = torch.sigmoid(family.logit)
    w = [t.detach().requires_grad_() for t in model.parameters()]
    total = 0.0
    for scale, probability in ((2.0, p), (1.0, 1 - p)):
        logits = nn.functional.linear(batch[0] * scale, *w)
        total = total + probability * nn.functional.cross_entropy(logits, batch[1])
    grads = torch.autograd.grad(total, w, create_graph=True)
    (exact,) = torch.autograd.grad(torch.cat([g.reshape(-1) for g in grads]) @ x, family.logit)
    error = draws.std() / len(draws) ** 0.5
    assert abs(exact) > 10 * error  # so that the next line can fail
    assert abs(draws.mean() - exact) < 4 * error


def for_model(model=None, family=None, **options):
    model = model or nn.Linear(3, 2)
    return hypergrad.BilevelProblem.for_model(model, family or SampleWeights(4), **options)


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's class of this name, which is recognised by it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)


class BadShape(hypergrad.HyperparameterFamily):
    def __init__(self):
        super().__init__()
        self.h = nn.Parameter(torch.ones(()))

    def transform(self, inputs, targets, ctx):
        return inputs * self.h, targets, inputs.sum() * self.h


class OneThing(BadShape):
    def transform(self, inputs, targets, ctx):
        return inputs * self.h


B3 = (torch.ones(4, 3), torch.zeros(4, dtype=torch.long), torch.arange(4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: for_model(FullyShardedDataParallel()), "UnsupportedModelError", "FullyShardedDataParallel.*sharded"),
        (
            lambda: for_model(nn.Sequential(nn.SyncBatchNorm(3))),
            "UnsupportedModelError",
            "'0' is a SyncBatchNorm.*GroupN",
        ),
        (lambda: for_model(nn.DataParallel(nn.Linear(3, 2))), "UnsupportedModelError", r"Pass its \.module"),
        (lambda: for_model(lambda x: x), "InvalidInputError", "must be a torch.nn.Module; got function"),
        (lambda: for_model(nn.Linear(3, 2).requires_grad_(False)), "InvalidInputError", "no inner problem"),
        (lambda: for_model(family="weight_decay"), "InvalidInputError", "family must be .*'weight_decay'.*By name"),
        (lambda: for_model(weight_decay=-1), "InvalidInputError", "weight_decay must be .* got -1"),
        (lambda: for_model(loss=nn.CrossEntropyLoss()), "InvalidInputError", "has reduction='mean'"),
        (lambda: for_model(loss=3), "InvalidInputError", "loss must be a function .* got 3"),
        (
            lambda: for_model(loss=lambda out, y: out.mean()).stepper(torch.optim.SGD).loss(B3),
            "InvalidInputError",
            r"one value a sample, shape \(4,\) or \(4, T\); got \(\)",
        ),
        (
            lambda: for_model().stepper(torch.optim.SGD).loss(B3[:2]),
            "InvalidInputError",
            "SampleWeights needs .* index",
        ),
        (
            lambda: for_model().stepper(torch.optim.SGD).loss(None),
            "InvalidInputError",
            "A batch must be .* got .nothing",
        ),
        (
            lambda: for_model().stepper(torch.optim.SGD).loss((*B3[:2], torch.ones(4))),
            "InvalidInputError",
            "index must hold one integer a sample.*float32",
        ),
        (lambda: for_model(nn.Linear(3, 2).eval()).stepper(torch.optim.SGD).loss(B3), "InvalidInputError", "eval mode"),
        (
            lambda: for_model(family=BadShape()).hypergradient(batch=B3, val=B3[:2]),
            "InvalidInputError",
            r"log_prob of transform must have shape \(4,\); got \(\)",
        ),
        (
            lambda: for_model(family=OneThing()).hypergradient(batch=B3, val=B3[:2]),
            "InvalidInputError",
            "transform must",
        ),
        (
            lambda: for_model().hypergradient(batch=(B3[0] * float("nan"), *B3[1:]), val=B3[:2]),
            "NonFiniteError",
            "inner_loss is nan: of its batch, argument 0 has 12 NaN",
        ),
        (lambda: Compose(), "InvalidInputError", "at least one family"),
        (lambda: hypergrad.functional(nn.Linear(3, 2))({"wieght": B3[0]}, B3[0]), "InvalidInputError", "wieght"),
    ],
)
def test_error_table(call, error, message):
    with pytest.raises(getattr(hypergrad, error), match=message):
        call()


def test_a_step_in_eval_mode_is_refused_before_anything_is_counted():
    model, problem, batch, val = make()
    stepper = problem.stepper(torch.optim.SGD, every=1)
    model.eval()
    with pytest.raises(hypergrad.InvalidInputError, match=r"eval mode .*model\.train\(\)"):
        stepper.step(batch, val)
    assert stepper.inner_step == 0


def test_losses_with_several_values_a_sample():
    model = nn.Linear(3, 2).double()
    problem = hypergrad.BilevelProblem.for_model(
        model, SampleWeights(4).double(), loss=functools.partial(nn.functional.mse_loss, reduction="none")
    )
    batch = (torch.randn(4, 3, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE), torch.arange(4))
    loss = problem.stepper(torch.optim.SGD).loss(batch)
    torch.testing.assert_close(loss, nn.functional.mse_loss(model(batch[0]), batch[1]), rtol=1e-7, atol=0)
    assert problem.hypergradient("cg", batch=batch, val=batch[:2]).grads["raw"].shape == (4,)


def test_tied_parameters_are_one_variable():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    model = Tied().double()
    problem = hypergrad.BilevelProblem.for_model(model, WeightDecay(model, initial=0.1))
    assert list(problem.params) == ["first.weight"]
    batch = (torch.randn(5, 3, dtype=DOUBLE), torch.randint(0, 3, (5,)))
    A = linearized(problem, batch)
    stepper = problem.stepper(torch.optim.SGD)
    stepper.loss(batch).backward()
    torch.testing.assert_close(A.gradient, model.first.weight.grad.reshape(-1))
