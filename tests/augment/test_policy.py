"""The policy: what it draws, and every gradient that it promises."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from hypergrad import keys
from hypergrad.augment import PAPER_OPERATIONS, Policy, get_operation
from hypergrad.errors import InvalidInputError, UnknownNameError

SMOOTH = [name for name in PAPER_OPERATIONS if get_operation(name).gradient == "exact"]


def eight_bit(*shape: int) -> Tensor:
    return torch.randint(256, shape) / 255


def randomised(policy: Policy) -> Policy:
    with torch.no_grad():
        for p in policy.parameters():
            p.normal_()
    return policy


def by_hand(policy: Policy, images: Tensor, key: int, soft: bool) -> tuple[Tensor, Tensor]:
    """The slow twin: one image, one stage, one public operation at a time."""
    values = policy.values()
    slots = len(policy.operations) + 2
    noise = keys.uniform(key, torch.arange(len(images)), policy.stages * slots, images.dtype)
    noise = noise.view(len(images), policy.stages, slots)
    rows, log_probs = [], []
    for i in range(len(images)):
        x, log_prob = images[i : i + 1], torch.zeros(())
        for k in range(policy.stages):
            u, first = noise[i, k], noise[i - i % policy.group_size, k]
            pick = int((values["pi"][k].log() - torch.log(-torch.log(first[:-2]))).argmax())
            sign = torch.ones(1) if u[-1] >= 0.5 else -torch.ones(1)
            applied = get_operation(policy.operations[pick])(x, values["mu"][k, pick : pick + 1], sign)
            z = torch.logit(values["p"][k, pick]) + torch.logit(u[-2])
            b = torch.sigmoid(z / policy.temperature) if soft else (z > 0).float()
            x = b * applied + (1 - b) * x
            log_prob = log_prob + values["pi"][k, pick].log()
        rows.append(x)
        log_probs.append(log_prob)
    return torch.cat(rows), torch.stack(log_probs)


@pytest.mark.parametrize("group_size", [1, 4, 7])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_one_image_at_a_time(channels: int, soft: bool, group_size: int) -> None:
    # An order in which geometric and other operations alternate.
    names = [PAPER_OPERATIONS[i] for i in (7, 0, 10, 3, 5, 1, 13, 4, 8, 2, 6, 9, 11, 12)]
    policy = randomised(Policy(stages=3, operations=names, group_size=group_size))
    images = eight_bit(40, channels, 18, 21)
    result, log_prob = policy.draw(images, soft=soft, key=5)
    wanted, wanted_log_prob = by_hand(policy, images, 5, soft)
    # Thresholds may fall differently on values that differ by rounding: a handful of pixels.
    assert ((result - wanted).abs() > 1e-4).double().mean() < 1e-3
    assert torch.allclose(log_prob, wanted_log_prob, atol=1e-5)


def test_starts_uniform_at_one_half() -> None:
    values = Policy(stages=2).values()
    assert {k: v.shape for k, v in values.items()} == dict.fromkeys(("pi", "mu", "p"), torch.Size([2, 14]))
    assert torch.allclose(values["pi"], torch.tensor(1 / 14))
    assert (values["mu"] == 0.5).all()
    assert (values["p"] == 0.5).all()


def test_a_shard_draws_what_the_whole_batch_draws() -> None:
    policy = randomised(Policy())
    images, index = eight_bit(24, 3, 16, 16), torch.randperm(1000)[:24]
    for soft in (False, True):
        whole, log_prob = policy.draw(images, soft=soft, key=3, index=index)
        rows = torch.randperm(24)[:9]
        part, part_log_prob = policy.draw(images[rows], soft=soft, key=3, index=index[rows])
        assert torch.allclose(part, whole[rows], rtol=0, atol=1e-6)
        assert torch.allclose(part_log_prob, log_prob[rows])
        assert not torch.allclose(policy(images, soft=soft, key=4, index=index), whole)


def test_a_group_shares_its_picks_and_nothing_else() -> None:
    policy = Policy(stages=1, operations=["Brightness", "Contrast", "TranslateX", "Invert"], group_size=4)
    images, index = eight_bit(22, 1, 9, 9), torch.randperm(1000)[:22]
    alone = Policy(stages=1, operations=policy.operations)
    with torch.no_grad():
        policy.pi.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))  # a pick is told by its probability
        alone.pi.copy_(policy.pi)
    whole, picks = policy.draw(images, soft=False, key=3, index=index)
    assert all(len(set(group.tolist())) == 1 for group in picks.split(4))
    assert torch.equal(picks[::4], alone.draw(images, soft=False, key=3, index=index)[1][::4])
    assert len(set(picks.tolist())) > 1
    # Application and sign differ within a group; a shard that begins with a group draws what the batch does.
    changed = ((whole - images).abs().amax((1, 2, 3)) > 0).tolist()
    assert any(len(set(changed[i : i + 4])) == 2 for i in range(0, 20, 4))
    part, part_log_prob = policy.draw(images[8:], soft=False, key=3, index=index[8:])
    assert torch.allclose(part_log_prob, picks[8:])
    assert torch.allclose(part, whole[8:], atol=1e-6)


def test_the_unit_rule_reaches_the_policy() -> None:
    images = eight_bit(6, 1, 4, 5)
    grads = {}
    for rule in ("surrogate", "unit"):
        policy = Policy(stages=1, operations=["Solarize"], straight_through=rule)
        with torch.no_grad():
            policy.p.fill_(40.0)  # always applied
        result = policy(images, soft=True, key=0)
        grads[rule] = torch.autograd.grad(result.sum(), policy.mu)[0]
    # One for each of the 120 pixels, times d sigmoid(mu) / d mu = 1/4.
    assert grads["unit"].item() == pytest.approx(120 / 4, rel=1e-5)
    assert grads["surrogate"].item() != pytest.approx(120 / 4, rel=0.1)


def test_ranges_reach_the_policy() -> None:
    images = torch.full((50, 1, 2, 2), 0.25)
    wide = Policy(stages=1, operations=["Brightness"], ranges="trivialaugment-wide")
    with torch.no_grad():
        wide.p.fill_(40.0)
        wide.mu.fill_(40.0)
    seen = wide(images, soft=False, key=0).unique()
    assert torch.allclose(seen, torch.tensor([0.01 * 0.25, 1.99 * 0.25]))


def test_a_frozen_policy_has_the_same_distribution() -> None:
    policy = randomised(Policy(stages=2, operations=["Brightness", "Invert", "Solarize"]))
    images = torch.full((20_000, 1, 1, 1), 0.3)
    learned = policy(images, soft=False, key=1).flatten()
    frozen = policy.freeze()(images, key=2).flatten()
    values, counts = torch.cat((learned, frozen)).mul(1e4).round().unique(return_inverse=True)
    first = torch.bincount(counts[:20_000], minlength=len(values)).double()
    second = torch.bincount(counts[20_000:], minlength=len(values)).double()
    assert len(values) > 8
    # Chi-square of two samples: mean df, standard deviation sqrt(2 df).
    chi2 = ((first - second).square() / (first + second)).sum().item()
    df = len(values) - 1
    assert chi2 < df + 4 * (2 * df) ** 0.5


def test_key_decides_and_none_takes_one_from_the_global_generator() -> None:
    policy, images = Policy(), eight_bit(8, 1, 9, 9)
    assert torch.equal(policy(images, soft=False, key=1), policy(images, soft=False, key=1))
    state = torch.get_rng_state()
    policy(images, soft=True, key=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    first, second = policy(images, soft=False), policy(images, soft=False)
    torch.manual_seed(7)
    assert torch.equal(policy(images, soft=False), first)
    assert not torch.equal(first, second)


def test_hard_and_soft_pick_the_same_and_only_soft_has_a_graph() -> None:
    images = eight_bit(16, 3, 9, 9)
    for selection in ("unbiased", "relaxed"):
        policy = Policy(selection=selection)
        hard, hard_log_prob = policy.draw(images, soft=False, key=2)
        soft, soft_log_prob = policy.draw(images, soft=True, key=2)
        assert torch.equal(hard_log_prob, soft_log_prob)
        assert not hard.requires_grad
        assert not hard_log_prob.requires_grad
        assert soft.requires_grad
        assert soft_log_prob.requires_grad == (selection == "unbiased")
        grads = torch.autograd.grad(soft.square().sum(), list(policy.parameters()), allow_unused=True)
        assert (grads[0] is not None) == (selection == "relaxed")
        assert grads[1].abs().sum() > 0
        assert grads[2].abs().sum() > 0


def test_every_operation_occurs_and_application_follows_p() -> None:
    policy = Policy(stages=1, operations=["Invert", "Brightness"])
    with torch.no_grad():
        policy.p[:] = torch.logit(torch.tensor([[0.2, 0.9]]))
        policy.pi[:] = torch.tensor([[0.7, 0.3]]).log()
    n = 20_000
    result = policy(torch.full((n, 1, 1, 1), 0.25), soft=False, key=0).flatten()
    shares = {
        "inverted": ((result - 0.375).abs() < 1e-6, 0.7 * 0.2),
        "brighter": ((result - 0.3625).abs() < 1e-6, 0.3 * 0.9 / 2),
        "darker": ((result - 0.1375).abs() < 1e-6, 0.3 * 0.9 / 2),
        "untouched": (result == 0.25, 0.7 * 0.8 + 0.3 * 0.1),
    }
    for name, (seen, share) in shares.items():
        assert seen.double().mean().item() == pytest.approx(share, abs=4 * (share / n) ** 0.5), name
    assert sum(seen.sum() for seen, _ in shares.values()) == n


def test_stage_one_learns_whatever_stage_two_picks() -> None:
    images = eight_bit(14, 3, 18, 18) * 0.8 + 0.1
    for second in PAPER_OPERATIONS:
        policy = Policy(stages=2, operations=["Brightness", second] if second != "Brightness" else ["Contrast", second])
        with torch.no_grad():
            policy.pi[0] = torch.tensor([50.0, 0.0])
            policy.pi[1] = torch.tensor([0.0, 50.0])
        result = policy(images, soft=True, key=1)
        (grad,) = torch.autograd.grad((result * torch.rand_like(result)).sum(), policy.mu)
        assert grad[0, 0].abs() > 1e-3, second


@pytest.mark.parametrize("selection", ["unbiased", "relaxed"])
def test_cross_derivative_equals_central_differences(selection: str) -> None:
    """d/dh of v . grad_w f(w, h): the product that an implicit hypergradient takes, for the raw mu and p."""
    policy = randomised(Policy(stages=2, operations=SMOOTH, selection=selection)).double()
    hparams = {k: v.detach().clone().requires_grad_() for k, v in policy.named_parameters()}
    images, targets = torch.rand(12, 3, 8, 9, dtype=torch.float64) * 0.9 + 0.05, torch.arange(12) % 3
    params = {
        "conv": torch.randn(4, 3, 3, 3, dtype=torch.float64).mul(0.3).requires_grad_(),
        "head": torch.randn(3, 4 * 6 * 7, dtype=torch.float64).mul(0.1).requires_grad_(),
    }
    v = {k: torch.randn_like(p) for k, p in params.items()}

    def inner(params: dict[str, Tensor], hparams: dict[str, Tensor]) -> Tensor:
        augmented = functional_call(policy, hparams, (images,), {"soft": True, "key": 11})
        hidden = F.softplus(F.conv2d(augmented, params["conv"])).flatten(1)
        return F.cross_entropy(hidden @ params["head"].T, targets)

    def product(hparams: dict[str, Tensor]) -> Tensor:
        grads = torch.func.grad(inner)(params, hparams)
        return sum((grads[k] * v[k]).sum() for k in v)

    names = ["mu", "p"]
    exact = torch.autograd.grad(product(hparams), [hparams[k] for k in names])
    for name, grad in zip(names, exact, strict=True):
        assert (grad != 0).sum() >= 8  # the entries of the operations that were drawn
        for _ in range(3):
            direction = torch.randn_like(grad)
            moved = [product(hparams | {name: hparams[name] + s * 1e-6 * direction}) for s in (1, -1)]
            wanted = (moved[0] - moved[1]).detach() / 2e-6
            assert torch.allclose((grad * direction).sum(), wanted, rtol=2e-6, atol=1e-9)
    # The hyperparameters may also be the ones that torch.func differentiates.
    through = torch.func.grad(lambda h: product(h))({k: h.detach() for k, h in hparams.items()})
    assert torch.allclose(through["mu"], exact[0], rtol=1e-10, atol=1e-14)


def test_unbiased_selection_gradient_equals_the_enumerated_one() -> None:
    """Monte Carlo over two stages and three operations, for a loss that is not linear in the image."""
    names = ["Invert", "Solarize", "Brightness"]
    policy = Policy(stages=2, operations=names).double()
    with torch.no_grad():
        policy.p.fill_(40.0)  # always applied, so that the picks are the only choice (and the sign)
        policy.mu.copy_(torch.tensor([[0.5, -0.3, 1.0], [0.2, 0.8, -0.5]]))
        policy.pi.copy_(torch.tensor([[0.4, -0.2, 0.0], [-0.5, 0.3, 0.1]]))
    n = 40_000
    one = torch.tensor([0.15, 0.4, 0.6, 0.9], dtype=torch.float64).view(1, 1, 2, 2)
    weight = torch.tensor([1.0, -2.0, 3.0, -1.0], dtype=torch.float64).view(1, 1, 2, 2)

    def losses(images: Tensor) -> Tensor:  # (B,)
        return ((weight * images).sum((1, 2, 3)) - 0.2) ** 2

    mu = policy.values()["mu"]
    log_pi = torch.log_softmax(policy.pi, -1)
    enumerated = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(3), repeat=2):
        for s, t in itertools.product((-1.0, 1.0), repeat=2):
            first = get_operation(names[i])(one, mu[0, i : i + 1], torch.tensor([s]))
            both = get_operation(names[j])(first, mu[1, j : j + 1], torch.tensor([t]))
            enumerated = enumerated + (log_pi[0, i] + log_pi[1, j]).exp() * losses(both)[0] / 4
    (truth,) = torch.autograd.grad(enumerated, policy.pi)

    result, log_prob = policy.draw(one.expand(n, -1, -1, -1), soft=True, key=0)
    value = losses(result).detach()
    centred = value - (value.sum() - value) / (n - 1)  # leave-one-out baseline
    (estimate,) = torch.autograd.grad((centred * log_prob).mean(), policy.pi)
    # Standard error of one component: sd of (l - mean) (1{pick} - pi) / sqrt(n), at most this.
    error = (centred.square().mean() / n).sqrt()
    assert truth.abs().max() > 20 * error
    assert ((estimate - truth).abs() < 4 * error).all()
    assert value.mean().item() == pytest.approx(enumerated.item(), abs=4 * error.item())


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_small_batches_and_dtypes(batch: int, soft: bool, dtype: torch.dtype) -> None:
    result, log_prob = Policy().draw(torch.rand(batch, 3, 5, 6).to(dtype), soft=soft, key=0)
    assert result.shape == (batch, 3, 5, 6)
    assert result.dtype == dtype
    assert log_prob.shape == (batch,)


@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_constant_images(level: float) -> None:
    policy = Policy()
    images = torch.full((64, 3, 20, 20), level, requires_grad=True)
    result, log_prob = policy.draw(images, soft=True, key=0)
    assert ((result >= 0) & (result <= 1)).all()
    grads = torch.autograd.grad(result.square().sum() + log_prob.sum(), [images, *policy.parameters()])
    assert all(g.isfinite().all() for g in grads)


def test_channels_last_and_untouched_inputs() -> None:
    images = eight_bit(12, 3, 17, 17)
    before = images.clone()
    wanted = Policy()(images, soft=False, key=0)
    assert torch.allclose(Policy()(images.to(memory_format=torch.channels_last), soft=False, key=0), wanted, atol=1e-6)
    assert torch.equal(images, before)


def test_autocast_changes_nothing() -> None:
    # Sampling positions rounded to 8 bits of mantissa would be off by a pixel.
    policy, images = Policy(), eight_bit(32, 3, 17, 17)
    wanted = policy(images, soft=True, key=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(policy(images, soft=True, key=0), wanted)


OK = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Policy(stages=0), InvalidInputError, "stages must be an integer of at least 1; got 0"),
        (lambda: Policy(stages=1.5), InvalidInputError, "got 1.5"),
        (lambda: Policy(group_size=0), InvalidInputError, "group_size must be an integer of at least 1; got 0"),
        (lambda: Policy(group_size=True), InvalidInputError, "got True"),
        (lambda: Policy(straight_through="sign"), InvalidInputError, "got 'sign'"),
        (lambda: Policy(ranges="wide"), UnknownNameError, "trivialaugment-wide"),
        (lambda: Policy(operations=[]), InvalidInputError, "got []"),
        (lambda: Policy(operations="Rotate"), InvalidInputError, "got 'Rotate'"),
        (lambda: Policy(operations=["Rotate", "Rotate"]), InvalidInputError, "different names"),
        (lambda: Policy(operations=["rotate"]), UnknownNameError, "Did you mean 'Rotate'?"),
        (lambda: Policy(selection="gumbel"), InvalidInputError, "got 'gumbel'"),
        (lambda: Policy(temperature=0), InvalidInputError, "temperature must be a positive number; got 0"),
        (lambda: Policy(selection_temperature=-1.0), InvalidInputError, "selection_temperature must be"),
        (lambda: Policy(temperature=float("nan")), InvalidInputError, "got nan"),
        (lambda: Policy()(OK.byte(), soft=False), InvalidInputError, "images.float() / 255"),
        (lambda: Policy()(OK[0], soft=False), InvalidInputError, "(3, 4, 4)"),
        (lambda: Policy()(OK + 2, soft=False), InvalidInputError, "from 2 to 2"),
        (lambda: Policy()(OK / 0, soft=False), InvalidInputError, "from nan to nan"),
        (
            lambda: Policy()(OK, soft=False, index=torch.arange(3)),
            InvalidInputError,
            "shape (2,); got torch.int64 (3,)",
        ),
        (lambda: Policy()(OK, soft=False, index=torch.rand(2)), InvalidInputError, "got torch.float32"),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
