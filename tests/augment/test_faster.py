"""Faster AutoAugment: the critic's losses against closed forms, the search's bookkeeping, and planted experiments."""

import copy
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergrad import keys
from hypergrad.augment import Policy
from hypergrad.augment.density import (
    TwoHeads,
    critic_loss,
    judge,
    policy_losses,
    score_function_surrogate,
    slope_penalty,
)
from hypergrad.augment.faster import FasterResult, faster_auto_augment, stratified_subset
from hypergrad.errors import InvalidInputError, NonFiniteError, UnsupportedModelError

PLANTED = ["Brightness", "Invert", "TranslateX"]
SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Linear(nn.Module):
    """D(x) = <w, x>, and logits that are the same for every image."""

    def __init__(self, weight: Tensor, logits: tuple[float, ...] = (0.0, 0.0)) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.logits = torch.tensor([logits], dtype=weight.dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1) @ self.weight, self.logits.expand(len(images), -1)


class Recorder(nn.Module):
    """A critic of scores alone that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        return self.weight * images.mean((1, 2, 3))


def convolutional(seed: int, *, dropout: float = 0.0) -> TwoHeads:
    """For 12 x 12 grey images of two classes."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(288, 32), nn.Softplus()]
    return TwoHeads(nn.Sequential(*layers, nn.Dropout(dropout)), 32, 2)


def blobs(seed: int, *, moving: bool, samples: int = 512) -> tuple[Tensor, Tensor]:
    """A bright rectangle; its brightness varies, or else its horizontal place. Its vertical place is the class."""
    g = torch.Generator().manual_seed(seed)
    level = torch.full((samples,), 0.5) if moving else torch.rand(samples, generator=g) * 0.6 + 0.2
    left = torch.randint(0, 9, (samples,), generator=g) if moving else torch.full((samples,), 4)
    targets, at = torch.arange(samples) % 2, torch.arange(12)
    top = 6 - 3 * targets
    columns = (at >= left[:, None]) & (at < left[:, None] + 4)
    rows = (at >= top[:, None]) & (at < top[:, None] + 3)
    return (level[:, None, None] * rows[:, :, None] * columns[:, None, :])[:, None], targets


def search(images: Tensor, targets: Tensor, critic: nn.Module, policy: Policy | None = None, **options) -> FasterResult:
    """One epoch of two steps, unless told otherwise."""
    defaults = {"epochs": 1, "batch_size": len(images) // 2, "progress": False}
    return faster_auto_augment(images, targets, critic, policy=policy, **defaults | options)


# The losses.


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (2, 1, 1, 1)])
def test_penalty_of_a_linear_critic(shape: tuple[int, ...]) -> None:
    """(||w|| - 1)^2, with the gradient 2 (||w|| - 1) w / ||w||; the norm is that over the whole image."""
    weight = torch.randn(math.prod(shape[1:]), dtype=torch.float64)
    critic, norm = Linear(weight.clone()), weight.norm()
    penalty = slope_penalty(critic, torch.rand(shape, dtype=torch.float64))
    (grad,) = torch.autograd.grad(penalty, critic.weight)
    assert torch.allclose(penalty, (norm - 1) ** 2, rtol=1e-12)
    assert torch.allclose(grad, 2 * (norm - 1) * weight / norm, rtol=1e-12)


def test_penalty_where_the_slope_is_zero() -> None:
    critic = Linear(torch.zeros(4, dtype=torch.float64))
    penalty = slope_penalty(critic, torch.rand(2, 1, 2, 2, dtype=torch.float64))
    (grad,) = torch.autograd.grad(penalty, critic.weight)
    assert penalty == 1
    assert torch.equal(grad, torch.zeros(4, dtype=torch.float64))


def test_penalty_against_central_differences() -> None:
    critic = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1, bias=False)).double()
    images, h = torch.rand(3, 2, 3, 3, dtype=torch.float64), 1e-5
    slope = torch.zeros(3, 18, dtype=torch.float64)
    for i in range(18):
        step = torch.zeros(18, dtype=torch.float64)
        step[i] = h
        moved = [critic(images + s * step.view(2, 3, 3))[:, 0].detach() for s in (1, -1)]
        slope[:, i] = (moved[0] - moved[1]) / (2 * h)
    penalty = slope_penalty(critic, images)
    assert torch.allclose(penalty, (slope.norm(dim=1) - 1).square().mean(), rtol=1e-8)
    # And its gradient to the critic, which takes the double backward.
    parameters = list(critic.parameters())
    grads = torch.autograd.grad(penalty, parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
            values.append(slope_penalty(critic, images).detach())
            with torch.no_grad():
                parameter -= sign * h * direction
        assert torch.allclose((grad * direction).sum(), (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-9)


def test_penalty_is_taken_outside_autocast() -> None:
    critic, images = convolutional(0), torch.rand(4, 1, 12, 12, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(images)[0].sum(), images)
    wanted = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(slope_penalty(critic, images), wanted, rtol=1e-5)
        assert judge(critic, images)[0].dtype == torch.float32  # but of bfloat16's precision


def test_signs_and_weights_by_hand() -> None:
    """D(x) = 3 x; natural images 0.75 and 0.25, augmented ones 0.5 and 0.1; two equal logits."""
    critic = Linear(torch.tensor([3.0], dtype=torch.float64))
    natural, augmented = (torch.tensor(v, dtype=torch.float64).view(2, 1, 1, 1) for v in ([0.75, 0.25], [0.5, 0.1]))
    targets, mix = torch.tensor([0, 1]), torch.tensor([0.3, 0.6], dtype=torch.float64)
    loss = critic_loss(critic, natural, targets, augmented, mix, gradient_penalty=10, classification=0.1)
    assert loss.wasserstein.item() == pytest.approx(3 * (0.5 - 0.3))
    assert loss.penalty.item() == pytest.approx(4)
    assert loss.total.item() == pytest.approx(-0.6 + 40 + 0.1 * math.log(2))
    assert loss.accuracy == 0.5
    (grad,) = torch.autograd.grad(loss.total, critic.weight)
    assert grad.item() == pytest.approx(-0.2 + 10 * 2 * 2)  # towards higher scores of natural images
    bare = critic_loss(critic, natural, targets, augmented, mix, gradient_penalty=0, classification=0)
    assert bare.total.item() == pytest.approx(-0.6)

    images = augmented.requires_grad_()
    losses = policy_losses(critic, images, targets, classification=0.1)
    assert losses.tolist() == pytest.approx([-1.5 + 0.1 * math.log(2), -0.3 + 0.1 * math.log(2)])
    (grad,) = torch.autograd.grad(losses.mean(), images)
    assert torch.allclose(grad.flatten(), torch.tensor([-1.5, -1.5], dtype=torch.float64))  # towards higher scores


def test_penalty_lies_between_natural_and_augmented() -> None:
    critic = Recorder().double()
    natural, augmented = torch.ones(2, 1, 1, 1).double(), torch.zeros(2, 1, 1, 1).double()
    mix = torch.tensor([0.25, 1.0]).double()
    augmented.requires_grad_()
    loss = critic_loss(critic, natural, torch.zeros(2).long(), augmented, mix, gradient_penalty=1, classification=0)
    assert critic.seen[-1].flatten().tolist() == [0.25, 1.0]
    loss.total.backward()
    assert critic.weight.grad != 0
    assert augmented.grad is None  # nothing flows back to the policy


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_scores_of_either_shape(shape: tuple[int, ...]) -> None:
    class Bare(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum((1, 2, 3)).view(shape)

    images = torch.rand(4, 1, 2, 2)
    score, logits = judge(Bare(), images)
    assert torch.equal(score, images.sum((1, 2, 3)))
    assert logits is None


def test_selection_gradient_reaches_pi_mu_and_p() -> None:
    critic, (images, targets) = convolutional(0), blobs(0, moving=False, samples=16)
    policy = Policy(2, PLANTED, selection="relaxed", temperature=0.5)
    losses = policy_losses(critic, policy(images, soft=True, key=0), targets, classification=0.1)
    for grad in torch.autograd.grad(losses.mean(), [policy.pi, policy.mu, policy.p]):
        assert (grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("group_size", [1, 2])
def test_score_function_is_unbiased(group_size: int) -> None:
    """Exactly: the mean over every outcome of the picks, for losses that differ from image to image."""
    batch, raw = 5, torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    group = torch.arange(batch) // group_size
    table = torch.rand(batch, 3, dtype=torch.float64)
    log_pi = torch.log_softmax(raw, 0)
    (truth,) = torch.autograd.grad((table @ log_pi.exp()).mean(), raw, retain_graph=True)
    mean, total = torch.zeros_like(raw), 0.0
    for outcome in itertools.product(range(3), repeat=int(group.max()) + 1):
        probability = log_pi.detach().exp()[list(outcome)].prod()
        pick = torch.tensor(outcome)[group]
        surrogate = score_function_surrogate(table[torch.arange(batch), pick], log_pi[pick], group_size)
        assert surrogate == 0
        mean += probability * torch.autograd.grad(surrogate, raw, retain_graph=True)[0]
        total += probability
    assert total == pytest.approx(1)
    assert truth.abs().max() > 0.01
    assert torch.allclose(mean, truth, rtol=1e-12, atol=1e-14)


def test_baseline_leaves_the_own_group_out() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    log_prob = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(score_function_surrogate(losses, log_prob, 2), log_prob)
    wanted = [1 - 28 / 3, 2 - 28 / 3, 4 - 19 / 3, 8 - 19 / 3, 16 - 15 / 4]
    assert (5 * grad).tolist() == pytest.approx(wanted)


# The search's bookkeeping.


@pytest.mark.parametrize("size", [1, 7, 30, 99, 100, 400])
def test_stratified_subset(size: int) -> None:
    """Against the definition of the largest remainder, in fractions."""
    targets = torch.tensor([4] * 5 + [7] * 62 + [0] * 20 + [2] * 13)[torch.randperm(100)]
    rows = stratified_subset(targets, size, key=3)
    counts, size = Counter(targets.tolist()), min(size, 100)
    share = {c: Fraction(n * size, 100) for c, n in counts.items()}
    wanted = {c: int(s) for c, s in share.items()}
    by_rest = sorted(share, key=lambda c: (-(share[c] - int(share[c])), c))
    for c in by_rest[: size - sum(wanted.values())]:
        wanted[c] += 1
    assert Counter(targets[rows].tolist()) == {c: n for c, n in wanted.items() if n}
    assert torch.equal(rows, torch.unique(rows))
    assert torch.equal(rows, stratified_subset(targets, size, key=3))
    if 1 < size < 99:
        assert not torch.equal(rows, stratified_subset(targets, size, key=4))


def test_every_image_of_a_class_can_be_taken() -> None:
    targets = torch.arange(40) % 4
    taken = Counter(row for key in range(200) for row in stratified_subset(targets, 20, key).tolist())
    assert set(taken) == set(range(40))
    assert min(taken.values()) > 100 - 5 * 200**0.5 / 2  # one half each, five standard deviations
    assert max(taken.values()) < 100 + 5 * 200**0.5 / 2


def test_the_halves_are_disjoint_and_each_image_comes_once_an_epoch() -> None:
    images = torch.linspace(0, 1, 24).view(24, 1, 1, 1).expand(-1, 1, 3, 3)
    critic = Recorder()
    policy = Policy(1, ["Identity"])
    result = search(images, torch.zeros(24).long(), critic, policy, batch_size=8, epochs=2, classification=0)
    assert [r.step for r in result.history] == list(range(6))
    # Calls: natural, augmented, between them for the penalty, augmented for the policy.
    seen = [batch[:, 0, 0, 0].mul(23).round().int().tolist() for batch in critic.seen]
    for epoch in (seen[:12], seen[12:]):
        together = []
        for natural, augmented, again in zip(epoch[::4], epoch[1::4], epoch[3::4], strict=True):
            assert augmented == again  # the policy answers for the images that the critic saw
            together += natural + augmented
        assert sorted(together) == list(range(24))
    assert seen[:12] != seen[12:]


def test_only_the_subset_is_used() -> None:
    images = torch.linspace(0, 1, 24).view(24, 1, 1, 1).expand(-1, 1, 3, 3)
    critic = Recorder()
    options = {"batch_size": 4, "epochs": 3, "subset": 8, "classification": 0, "gradient_penalty": 0}
    search(images, torch.arange(24) % 2, critic, Policy(1, ["Identity"]), **options)
    seen = torch.cat(critic.seen)[:, 0, 0, 0].mul(23).round().int()
    assert len(seen.unique()) == 8
    assert (seen.unique() % 2).sum() == 4


def test_the_critic_sees_normalised_images() -> None:
    images, targets = torch.rand(8, 3, 4, 4), torch.zeros(8).long()
    plain, normalised = Recorder(), Recorder()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.5, 2.0])
    search(images, targets, plain, Policy(1, PLANTED), classification=0, policy_optimizer=lambda p: SGD(p, lr=0))
    search(
        images,
        targets,
        normalised,
        Policy(1, PLANTED),
        classification=0,
        mean=mean.tolist(),
        std=std.tolist(),
        policy_optimizer=lambda p: SGD(p, lr=0),
    )
    for one, other in zip(plain.seen, normalised.seen, strict=True):
        assert torch.allclose(one, other * std.view(3, 1, 1) + mean.view(3, 1, 1), atol=1e-6)


@pytest.mark.parametrize("selection", ["relaxed", "unbiased"])
def test_reproducible_and_nothing_else_is_touched(selection: str) -> None:
    images, targets = blobs(0, moving=False, samples=32)
    policy = Policy(2, PLANTED, selection=selection, group_size=2)
    before = copy.deepcopy(policy.state_dict())

    def run(seed: int) -> tuple[FasterResult, TwoHeads]:
        critic = convolutional(0, dropout=0.3).eval()
        torch.manual_seed(seed + 100)  # does not matter
        state = torch.get_rng_state()
        with torch.no_grad():
            result = search(images, targets, critic, policy, seed=seed, policy_optimizer=SGD)
        assert torch.equal(torch.get_rng_state(), state)
        return result, critic

    (first, critic), (second, _), (other, _) = run(1), run(1), run(2)
    assert first.history == second.history
    for name in ("pi", "mu", "p"):
        value = getattr(first.policy, name)
        assert torch.equal(value, getattr(second.policy, name))
        assert not torch.equal(value, getattr(other.policy, name))
        assert not torch.equal(value, before[name])
        assert torch.equal(getattr(policy, name), before[name])
        assert value.grad is None
    assert critic.training
    assert all(p.grad is None for p in critic.parameters())
    assert all(0 <= r.accuracy <= 1 and r.gradient > 0 and r.penalty > 0 for r in first.history)


def test_a_step_is_what_it_should_be_and_the_critic_gets_no_gradient_from_the_policy() -> None:
    images, targets = blobs(0, moving=False, samples=16)
    critic = convolutional(0)
    seen = []

    class Watching(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            seen.append([p.grad.clone() for p in critic.parameters()])

    result = search(
        images,
        targets,
        critic,
        batch_size=16,
        policy_optimizer=lambda p: Watching(p, lr=0.1),
        critic_optimizer=lambda p: SGD(p, lr=0),
    )
    # With the same draws, but without the policy's step.
    again = convolutional(0)
    seed = functools.partial(keys.derive, 0, "faster")
    order = torch.randperm(16, generator=keys.generator(keys.derive(seed("order"), "order", 0)))
    x, y = images[order], targets[order]
    policy = Policy(selection="relaxed", temperature=0.05)
    augmented = policy(x[8:], soft=True, key=seed("critic step", 0))
    mix = keys.uniform(seed("mix", 0), torch.arange(8), 1)[:, 0]
    loss = critic_loss(again, x[:8], y[:8], augmented, mix, gradient_penalty=10, classification=0.1)
    for grad, wanted in zip(seen[0], torch.autograd.grad(loss.total, list(again.parameters())), strict=True):
        assert torch.allclose(grad, wanted, rtol=1e-5, atol=1e-7)
    assert result.history[0].critic_loss == pytest.approx(loss.total.item(), rel=1e-5)
    assert result.history[0].wasserstein == pytest.approx(loss.wasserstein.item(), rel=1e-5)
    assert result.history[0].penalty == pytest.approx(loss.penalty.item(), rel=1e-5)
    augmented = policy(x[8:], soft=True, key=seed("policy step", 0))
    losses = policy_losses(again, augmented, y[8:], classification=0.1)
    assert result.history[0].policy_loss == pytest.approx(losses.mean().item(), rel=1e-5)
    grads = torch.autograd.grad(losses.mean(), list(policy.parameters()))
    assert result.history[0].gradient == pytest.approx(torch.cat(grads).norm().item(), rel=1e-5)


def test_8_bit_images_equal_floats() -> None:
    images, targets = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8), torch.arange(16) % 2
    policies = [
        search(x, targets, Linear(torch.full((192,), 0.1)), policy_optimizer=SGD).policy
        for x in (images, images.float() / 255)
    ]
    assert torch.equal(policies[0].mu, policies[1].mu)
    assert not torch.equal(policies[0].mu, Policy().mu)


def test_a_float64_critic_and_what_is_not_to_be_learnt() -> None:
    images, targets = blobs(0, moving=False, samples=16)
    policy = Policy(2, PLANTED)
    policy.mu.requires_grad_(False)
    result = search(images, targets, convolutional(0).double(), policy, policy_optimizer=SGD)
    assert torch.equal(result.policy.mu, policy.mu)
    assert not torch.equal(result.policy.pi, policy.pi)


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    images, targets = blobs(0, moving=False, samples=16)
    search(images, targets, convolutional(0), progress=True)
    written = capsys.readouterr()
    assert written.out == ""
    assert "Faster AutoAugment: 2/2" in written.err


# What it must find.


@functools.cache
def effects(seed: int, *, moving: bool, selection: str, maximise: bool = False) -> dict[str, float]:
    """``pi p mu`` of each operation after 96 steps."""
    temperature = 0.05 if selection == "relaxed" else 0.5
    adam = functools.partial(torch.optim.Adam, betas=(0.0, 0.999))
    result = faster_auto_augment(
        *blobs(seed, moving=moving),
        convolutional(seed),
        policy=Policy(1, PLANTED, selection=selection, temperature=temperature),
        epochs=12,
        batch_size=64,
        subset=None,
        critic_optimizer=functools.partial(adam, lr=3e-3),
        policy_optimizer=functools.partial(adam, lr=0.03, maximize=maximise),
        seed=seed,
        progress=False,
    )
    values = result.policy.values()
    return dict(zip(PLANTED, (values["pi"] * values["p"] * values["mu"])[0].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("selection", ["relaxed", "unbiased"])
def test_what_leaves_the_density_is_given_up(selection: str, seed: int) -> None:
    found = effects(seed, moving=False, selection=selection)
    assert found["Brightness"] > 2 * max(found["Invert"], found["TranslateX"])


@pytest.mark.parametrize("seed", range(3))
def test_with_the_sign_flipped_it_is_sought(seed: int) -> None:
    found = effects(seed, moving=False, selection="relaxed", maximise=True)
    assert max(found["Invert"], found["TranslateX"]) > 2 * found["Brightness"]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_within_the_density_depends_on_the_data(seed: int) -> None:
    """TranslateX is kept where the data themselves move, and only there."""
    still, moving = (effects(seed, moving=m, selection="unbiased")["TranslateX"] for m in (False, True))
    assert moving > 2 * still


OK, CLASSES = torch.zeros(8, 1, 12, 12), torch.zeros(8).long()


def broken(output: Callable[[Tensor], object]) -> nn.Module:
    """A critic that returns whatever is asked."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> object:
            return output(images * self.weight)

    return Broken()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: search(OK.numpy(), CLASSES, Recorder()), InvalidInputError, "got ndarray"),
        (lambda: search(OK.byte()[0], CLASSES, Recorder()), InvalidInputError, "got (1, 12, 12)"),
        (lambda: search(OK.long(), CLASSES, Recorder()), InvalidInputError, "got dtype torch.int64"),
        (lambda: search(OK + 2, CLASSES, Recorder()), InvalidInputError, "from 2 to 2"),
        (lambda: search(OK, CLASSES[:7], Recorder()), InvalidInputError, "shape (8,); got torch.int64 (7,)"),
        (lambda: search(OK, CLASSES.float(), Recorder()), InvalidInputError, "got torch.float32 (8,)"),
        (lambda: search(OK, CLASSES.int(), Recorder()), InvalidInputError, "targets.long()"),
        (lambda: search(OK, [0] * 8, Recorder()), InvalidInputError, "got list"),
        (lambda: search(OK, CLASSES - 1, Recorder()), InvalidInputError, "counted from 0; got -1"),
        (lambda: search(OK, CLASSES, lambda x: x), InvalidInputError, "parameters to train; got function"),
        (lambda: search(OK, CLASSES, nn.ReLU()), InvalidInputError, "got ReLU"),
        (lambda: search(OK, CLASSES, convolutional(0).half()), InvalidInputError, "got torch.float16"),
        (lambda: search(OK, CLASSES, nn.SyncBatchNorm(1)), UnsupportedModelError, "no double backward"),
        (lambda: search(OK, CLASSES, Recorder()), InvalidInputError, "use classification=0"),
        (
            lambda: search(OK, CLASSES, broken(lambda x: x.mean((2, 3)).expand(-1, 2))),
            InvalidInputError,
            "shape (2,) or (2, 1), alone or as (score, logits); got a tensor (2, 2)",
        ),
        (lambda: search(OK, CLASSES, broken(lambda x: {"score": x})), InvalidInputError, "got dict"),
        (
            lambda: search(OK, CLASSES, broken(lambda x: (x.mean((1, 2, 3)), x))),
            InvalidInputError,
            "logits must have the shape (2, classes); got a tensor (2, 1, 12, 12)",
        ),
        (lambda: search(OK, CLASSES, Recorder(), policy="default"), InvalidInputError, "got str"),
        (lambda: search(OK, CLASSES, Recorder(), policy=Policy().freeze()), InvalidInputError, "got FixedPolicy"),
        (
            lambda: search(OK, CLASSES, convolutional(0), policy=Policy(group_size=2)),
            InvalidInputError,
            "all 2 augmented images of a batch share theirs (group_size=2)",
        ),
        (lambda: search(OK, CLASSES, Recorder(), batch_size=3), InvalidInputError, "even integer in 2..8"),
        (lambda: search(OK, CLASSES, Recorder(), batch_size=10), InvalidInputError, "got 10"),
        (lambda: search(OK, CLASSES, Recorder(), subset=2), InvalidInputError, "in 2..2 (the images in use)"),
        (lambda: search(OK, CLASSES, Recorder(), subset=0), InvalidInputError, "subset must be an integer"),
        (lambda: search(OK, CLASSES, Recorder(), epochs=0), InvalidInputError, "epochs must be"),
        (lambda: search(OK, CLASSES, Recorder(), gradient_penalty=-1), InvalidInputError, "gradient_penalty must be"),
        (lambda: search(OK, CLASSES, Recorder(), classification=math.nan), InvalidInputError, "got nan"),
        (lambda: search(OK, CLASSES, Recorder(), std=0.0), InvalidInputError, "std positive; got 0.0, 0.0"),
        (lambda: search(OK, CLASSES, Recorder(), mean=[0.1, 0.2]), InvalidInputError, "each of the 1 channels"),
        (lambda: search(OK, CLASSES, Recorder(), mean="grey"), InvalidInputError, "numbers, or one per channel"),
        (
            lambda: search(OK, CLASSES, Recorder(), policy_optimizer=SGD(Policy().parameters())),
            InvalidInputError,
            "policy_optimizer is not over the right tensors",
        ),
        (lambda: search(OK, CLASSES, Recorder(), critic_optimizer=0.1), InvalidInputError, "critic_optimizer must be"),
        (
            lambda: search(*blobs(0, moving=True), convolutional(0), critic_optimizer=lambda p: SGD(p, lr=1e30)),
            NonFiniteError,
            "Lower the learning rates",
        ),
        (lambda: TwoHeads(F.relu, 3, 2), InvalidInputError, "got function"),
        (lambda: TwoHeads(nn.Flatten(), 0, 2), InvalidInputError, "features must be an integer of at least 1; got 0"),
        (lambda: TwoHeads(nn.Flatten(), 3, 2.0), InvalidInputError, "classes must be"),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
