"""The unrolled estimator against Neumann's formula, central differences and torch.optim's own trajectories."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from hypergrad.errors import InvalidInputError, NonFiniteError
from hypergrad.estimators.base import Estimator
from hypergrad.estimators.implicit import hypergradient
from hypergrad.estimators.inner_optimizers import SGD, Adam
from hypergrad.estimators.unroll import Unrolled, unrolled
from hypergrad.solvers.neumann import Neumann

D = torch.float64


def spd(n: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=D))
    return q @ torch.diag(torch.linspace(0.3, 3.0, n, dtype=D)) @ q.T


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_on_a_quadratic_it_is_neumann(steps):
    """At the stationary point: T steps of SGD with learning rate a = the Neumann series of T terms with alpha = a."""
    n, alpha = 6, 0.4
    A, B, c = spd(n), torch.randn(n, 3, dtype=D), torch.randn(n, dtype=D)
    h = torch.randn(3, dtype=D)
    w = torch.linalg.solve(A, B @ h)

    def inner(p, q):
        return 0.5 * p["w"] @ A @ p["w"] - p["w"] @ (B @ q["h"])

    def outer(p, q):
        return 0.5 * (p["w"] - c).square().sum() + (q["h"] ** 3).sum() + p["w"][:3] @ q["h"]

    result = unrolled(inner, outer, {"w": w}, {"h": h}, steps=steps, optimizer=SGD(lr=alpha))
    v = w - c + torch.cat([h, torch.zeros(3, dtype=D)])
    M = torch.eye(n, dtype=D) - alpha * A
    x = alpha * sum(torch.linalg.matrix_power(M, j) @ v for j in range(steps))
    direct = 3 * h**2 + w[:3]
    torch.testing.assert_close(result.direct["h"], direct, rtol=1e-12, atol=0)
    torch.testing.assert_close(result.grads["h"], direct + B.T @ x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.implicit["h"], result.direct["h"] - result.grads["h"], rtol=0, atol=0)
    assert result.stationarity < 1e-12
    neumann = hypergradient(inner, outer, {"w": w}, {"h": h}, solver=Neumann(num_hvps=steps - 1, alpha=alpha))
    torch.testing.assert_close(result.grads["h"], neumann.grads["h"], rtol=1e-10, atol=1e-12)


# A small net with a smooth loss; hyperparameters: a decay (in f), a temperature (in g), a learning rate (in the steps).
MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def data(count: int):
    made = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, 3, dtype=D, generator=made), torch.randn(8, 1, dtype=D, generator=made)) for _ in range(count)
    ]


def inner_loss(p, h, x, y):
    fit = (functional_call(MODEL, p, (x,)) - y).square().mean()
    return fit + 0.5 * h["log_decay"].exp() * sum(v.square().sum() for v in p.values())


def outer_loss(p, h, x, y):
    return ((functional_call(MODEL, p, (x,)) - y) * h["log_temperature"].exp()).square().mean()


def start():
    made = torch.Generator().manual_seed(6)
    params = {k: torch.randn(v.shape, dtype=D, generator=made) for k, v in MODEL.named_parameters()}
    hparams = {"log_decay": torch.tensor(-2.0, dtype=D), "log_temperature": torch.tensor([0.3], dtype=D)}
    return params, hparams | {"log_lr": torch.tensor(-1.5, dtype=D), "momentum": torch.tensor(0.8, dtype=D)}


def lr(h):
    return h["log_lr"].exp()


RULES = {
    "sgd": SGD(lr=lr),
    "momentum": SGD(lr=lr, momentum=lambda h: h["momentum"]),
    "dampening": SGD(lr=lr, momentum=0.7, dampening=lambda h: h["momentum"]),
    "nesterov": SGD(lr=lr, momentum=lambda h: h["momentum"], nesterov=True),
    "adam": Adam(lr=lr, beta1=lambda h: h["momentum"], beta2=0.9, eps=1e-3),
}


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("steps", [1, 4])
def test_central_differences_of_the_whole_map(name, steps):
    """Against the outer loss after the steps, itself re-run at h +/- eps."""
    params, hparams = start()
    batches, validation = data(steps), data(steps + 1)[-1]
    if name == "sgd":
        del hparams["momentum"]

    def run(h):
        given = {"steps": steps, "optimizer": RULES[name], "inner_batches": batches, "outer_batch": validation}
        return unrolled(inner_loss, outer_loss, params, h, **given)

    if steps == 1 and name in ("momentum", "dampening"):
        with pytest.raises(InvalidInputError, match=r"\['momentum'\] reach neither"):
            run(hparams)  # a first step has no momentum to weigh
        return
    result = run(hparams)
    eps = 1e-5
    for key, at in hparams.items():
        ends = [run(hparams | {key: at + s * eps}).outer_loss for s in (1, -1)]
        wanted = (ends[0] - ends[1]) / (2 * eps)
        torch.testing.assert_close(result.grads[key].sum(), wanted, rtol=1e-7, atol=1e-9)
        assert result.grads[key].shape == at.shape
        # Adam corrects the bias of its first moment, so that beta1 cancels in the first step.
        cancels = key == "momentum" and steps == 1 and name == "adam"
        assert (abs(float(wanted)) < 1e-8) == cancels


OPTIMIZERS = {
    "sgd": (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        SGD(lr=0.1, momentum=0.9, dampening=0.2),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.2),
    ),
    "nesterov": (
        SGD(lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (
        Adam(lr=0.05, beta1=0.8, beta2=0.95, eps=1e-6),
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6),
    ),
    "adamw": (Adam(lr=0.05), lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0)),
    "tensor lr": (SGD(lr=torch.tensor(0.1, dtype=D)), lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1, dtype=D))),
}


def trajectory_end(optimizer, params, h, batches):
    """The parameters after torch's own steps."""
    for batch in batches:
        optimizer.zero_grad()
        inner_loss(params, h, *batch).backward()
        optimizer.step()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("history", [0, 3])
def test_the_trajectory_is_that_of_torch(name, history):
    """From the start by our own rule; after a history by conversion, with its momentum and moments."""
    rule, make = OPTIMIZERS[name]
    params, hparams = start()
    del hparams["log_lr"], hparams["momentum"]
    batches, validation = data(history + 4), data(1)[0]
    theirs = {k: v.clone().requires_grad_() for k, v in params.items()}
    optimizer = make(list(theirs.values()))
    trajectory_end(optimizer, theirs, hparams, batches[:history])
    before = copy.deepcopy(optimizer.state_dict())
    given = {"steps": 4, "inner_batches": batches[history:], "outer_batch": validation}
    results = [unrolled(inner_loss, outer_loss, theirs, hparams, optimizer=optimizer, **given)]
    if history == 0:
        results.append(unrolled(inner_loss, outer_loss, theirs, hparams, optimizer=rule, **given))
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    trajectory_end(optimizer, theirs, hparams, batches[history:])
    wanted = outer_loss(theirs, hparams, *validation).detach()
    for result in results:
        torch.testing.assert_close(result.outer_loss, wanted, rtol=1e-12, atol=0)
    for result in results[1:]:
        torch.testing.assert_close(result.grads, results[0].grads, rtol=1e-13, atol=1e-15)


def test_parameter_groups_keep_their_own_options():
    params, hparams = start()
    del hparams["log_lr"], hparams["momentum"]
    theirs = {k: v.clone().requires_grad_() for k, v in params.items()}
    held = list(theirs.values())
    optimizer = torch.optim.SGD([{"params": held[:2], "lr": 0.3}, {"params": held[2:], "momentum": 0.9}], lr=0.02)
    batches = data(3)
    result = unrolled(
        inner_loss,
        outer_loss,
        params,
        hparams,
        steps=3,
        optimizer=optimizer,
        inner_batches=batches,
        outer_batch=batches[0],
    )
    trajectory_end(optimizer, theirs, hparams, batches)
    torch.testing.assert_close(result.outer_loss, outer_loss(theirs, hparams, *batches[0]).detach(), rtol=1e-12, atol=0)


def test_one_batch_in_every_step_and_the_estimator_object():
    params, hparams = start()
    batch, validation = data(2)
    options = {"optimizer": RULES["nesterov"], "steps": 3}
    one = unrolled(inner_loss, outer_loss, params, hparams, inner_batch=batch, outer_batch=validation, **options)
    three = unrolled(
        inner_loss, outer_loss, params, hparams, inner_batches=[batch] * 3, outer_batch=validation, **options
    )
    estimator = Unrolled(**options)
    assert isinstance(estimator, Estimator)
    same = estimator.estimate(inner_loss, outer_loss, params, hparams, inner_batch=batch, outer_batch=validation)
    for other in (three, same):
        assert all(torch.equal(one.grads[k], other.grads[k]) for k in hparams)
    leaf = {k: v.clone().requires_grad_() for k, v in params.items()}
    loss = inner_loss(leaf, hparams, *batch)
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaf.values()))]).norm()
    torch.testing.assert_close(one.inner_loss, loss.detach())
    torch.testing.assert_close(one.stationarity, norm)
    assert one.solution is None and Unrolled(optimizer=SGD(lr=0.1)).steps == 1


def test_a_dead_unit_does_not_poison_adam():
    """A gradient of exactly 0 has v = 0, where sqrt has no derivative."""

    def inner(p, h):
        return ((p["w"] * torch.tensor([1.0, 0.0], dtype=D) - 1) ** 2).sum() * h["a"]

    params, hparams = {"w": torch.tensor([0.5, 0.5], dtype=D)}, {"a": torch.tensor(2.0, dtype=D)}
    result = unrolled(
        inner, lambda p, h: p["w"].square().sum(), params, hparams, steps=3, optimizer=Adam(lr=0.1, eps=0.1)
    )
    alone = unrolled(
        lambda p, h: (p["w"] - 1).square().sum() * h["a"],
        lambda p, h: p["w"].square().sum(),
        {"w": params["w"][:1]},
        hparams,
        steps=3,
        optimizer=Adam(lr=0.1, eps=0.1),
    )
    torch.testing.assert_close(result.grads["a"], alone.grads["a"], rtol=1e-13, atol=0)
    assert abs(float(alone.grads["a"])) > 1e-3


def test_a_parameter_without_gradient_stays_as_in_torch():
    params = {"w": torch.ones(2, dtype=D), "unused": torch.full((1,), 7.0, dtype=D)}
    hparams = {"a": torch.tensor(2.0, dtype=D)}
    result = unrolled(
        lambda p, h: h["a"] * p["w"].square().sum(),
        lambda p, h: p["w"].sum() + p["unused"].sum(),
        params,
        hparams,
        steps=2,
        optimizer=SGD(lr=0.1, momentum=0.9),
    )
    # w_1 = 1 - 0.4 = 0.6; w_2 = 0.6 - 0.1 (0.9 * 4 + 2.4) = 0; twice, plus 7.
    torch.testing.assert_close(result.outer_loss, torch.tensor(7.0, dtype=D))


def test_nothing_is_left_behind():
    params, hparams = start()
    params = {k: v.requires_grad_() for k, v in params.items()}
    hparams = {k: v.requires_grad_() for k, v in hparams.items()}
    before = {k: v.detach().clone() for k, v in (params | hparams).items()}
    (x, y), validation = data(2)

    def noisy(p, h, x, y):
        return inner_loss(p, h, x + 0.1 * torch.randn_like(x), y)

    state = torch.get_rng_state()
    with torch.no_grad():
        result = unrolled(
            noisy,
            outer_loss,
            params,
            hparams,
            steps=2,
            optimizer=RULES["nesterov"],
            inner_batch=(x, y),
            outer_batch=validation,
        )
    assert torch.equal(state, torch.get_rng_state())
    for k, v in (params | hparams).items():
        assert v.grad is None and v.requires_grad and torch.equal(v, before[k])
    for part in (result.grads, result.direct, result.implicit):
        assert list(part) == list(hparams)
        assert not any(v.requires_grad for v in part.values())
    assert not (result.inner_loss.requires_grad or result.outer_loss.requires_grad)


def good(**changes):
    params = {"w": torch.tensor([1.0, 2.0])}
    options = {
        "inner_loss": lambda p, h, *b: h["a"] * p["w"].square().sum() + sum(x.sum() for x in b),
        "outer_loss": lambda p, h, *b: p["w"].sum(),
        "params": params,
        "hparams": {"a": torch.tensor(2.0)},
        "steps": 2,
        "optimizer": SGD(lr=0.1),
    }
    options |= changes
    first = [options.pop(k) for k in ("inner_loss", "outer_loss", "params", "hparams")]
    return unrolled(*first, **options)


def torch_optimizer(kind, *shapes, **options):
    return kind([nn.Parameter(torch.zeros(s)) for s in shapes], **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer.*got 0"),
        ({"steps": True}, "got True"),
        ({"steps": 1.5}, r"got 1\.5"),
        ({"inner_batch": (), "inner_batches": [(), ()]}, "not both"),
        ({"inner_batches": [()]}, "steps=2 batches; got 1"),
        ({"inner_batches": iter([])}, "list of steps=2 batches; got list_iterator"),
        ({"inner_batches": [(), torch.zeros(3)]}, r"inner_batches\[1\] must be a tuple.*got Tensor"),
        ({"inner_batch": torch.zeros(3)}, "inner_batch must be a tuple.*got Tensor"),
        ({"inner_loss": lambda p, h: h["a"] * p["w"]}, r"inner_loss must return .*shape \(2,\)"),
        ({"outer_loss": lambda p, h: 1.0}, "outer_loss must return a scalar tensor; got float"),
        ({"inner_loss": lambda p, h: h["a"] ** 2}, "inner_loss does not depend on params"),
        ({"inner_loss": lambda p, h: torch.zeros(())}, "inner_loss does not depend on params"),
        ({"inner_loss": lambda p, h: p["w"].sum()}, r"\['a'\] reach neither.*lr=lambda"),
        ({"outer_loss": lambda p, h: torch.zeros(())}, r"\['a'\] reach neither"),
        ({"params": {}}, "params must be a non-empty dict"),
        ({"hparams": {"a": 2.0}}, r"hparams\['a'\] must be a tensor; got float"),
        ({"optimizer": "sgd"}, r"SGD\(\.\.\.\) or Adam.*got 'sgd'"),
        ({"optimizer": SGD}, r"got <class"),
        ({"optimizer": SGD(lr=lambda h: 0.1)}, "given as lr must return a scalar tensor; got float"),
        ({"optimizer": SGD(lr=lambda h: h["a"].expand(2))}, r"got shape \(2,\)"),
        (
            {"optimizer": torch_optimizer(torch.optim.RMSprop, 2)},
            "RMSprop cannot be differentiated.*torch.optim.SGD, Adam and AdamW",
        ),
        (
            {"optimizer": torch_optimizer(torch.optim.SGD, 2, lr=0.1, weight_decay=5e-4)},
            r"SGD has weight_decay=0\.0005.*add the decay to the loss",
        ),
        ({"optimizer": torch_optimizer(torch.optim.AdamW, 2)}, r"AdamW has weight_decay=0\.01"),
        ({"optimizer": torch_optimizer(torch.optim.SGD, 2, lr=0.1, maximize=True)}, "maximize=True is not supported"),
        ({"optimizer": torch_optimizer(torch.optim.Adam, 2, amsgrad=True)}, "amsgrad=True is not supported"),
        (
            {"optimizer": torch_optimizer(torch.optim.SGD, 2, 3, lr=0.1)},
            r"shapes \[\(2,\), \(3,\)\]; params have \[\(2,\)\]",
        ),
    ],
)
def test_error_inputs(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        good(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=-0.1), r"SGD: lr must be a number in \[0, inf\).*got -0\.1"),
        (lambda: SGD(lr=math.nan), "got nan"),
        (lambda: SGD(lr="0.1"), "got '0.1'"),
        (lambda: SGD(lr=0.1, momentum=True), "momentum must be .*got True"),
        (lambda: SGD(lr=0.1, nesterov=True), "needs momentum > 0 and dampening = 0; got momentum=0.0"),
        (lambda: SGD(lr=0.1, momentum=0.9, dampening=0.1, nesterov=True), "dampening=0.1"),
        (lambda: Adam(lr=0.1, beta2=1.0), r"Adam: beta2 must be a number in \[0, 1\).*got 1\.0"),
        (lambda: Unrolled(optimizer=SGD(lr=0.1), steps=0), "positive integer"),
    ],
)
def test_error_options(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inner_batch": (torch.tensor([1.0, math.nan]),)},
            "inner_loss of step 0 is nan: of its batch, argument 0 has 1",
        ),
        ({"steps": 60, "optimizer": SGD(lr=1e3)}, r"inner_loss of step \d+ is inf on a finite batch.*learning rate"),
        ({"outer_loss": lambda p, h: p["w"].sum().log() * -math.inf}, "outer_loss is"),
        ({"outer_loss": lambda p, h: (p["w"] - p["w"]).norm() + (p["w"].sum() * 0).abs().sqrt()}, "gradient is not"),
    ],
)
def test_what_is_not_finite_is_refused(changes, message):
    with pytest.raises(NonFiniteError, match=message):
        good(**changes)
