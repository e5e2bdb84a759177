"""The fixed policies: what they draw, against their definitions; what they do to images, one at a time."""

import itertools
import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.augmentation.auto.autoaugment import autoaugment as kornia
from torch import Tensor

from hypergrad import keys
from hypergrad.augment import (
    COMMON_OPERATIONS,
    PAPER_OPERATIONS,
    FixedPolicy,
    auto_augment,
    get_operation,
    rand_augment,
    trivial_augment_wide,
)
from hypergrad.augment.autoaugment import SUB_POLICIES
from hypergrad.augment.mixture import Choice
from hypergrad.errors import InvalidInputError, UnknownNameError

PUBLISHED = {"cifar10": kornia.cifar10_policy, "svhn": kornia.svhn_policy, "imagenet": kornia.imagenet_policy}
# A policy, and the range that its operations have.
POLICIES = {
    "auto cifar10": (auto_augment("cifar10"), "autoaugment"),
    "auto svhn": (auto_augment("svhn"), "autoaugment"),
    "auto imagenet": (auto_augment("imagenet"), "autoaugment"),
    "rand": (rand_augment(3, 14), "randaugment"),
    "trivial": (trivial_augment_wide(), "trivialaugment-wide"),
}
EXTREMES = (2.0**-24, 1 - 2.0**-24)  # the smallest and the largest number that the noise holds


def eight_bit(*shape: int) -> Tensor:
    return torch.randint(256, shape) / 255


def drawn(policy: FixedPolicy, n: int) -> list[Choice]:
    return policy.choose(keys.uniform(1, torch.arange(n), policy.slots))


def assert_frequencies(count: Counter, share: dict) -> None:
    """Every outcome as often as its probability says (chi-square, within four of its standard deviations)."""
    n = sum(count.values())
    share = {outcome: p for outcome, p in share.items() if p > 0}
    assert sum(share.values()) == pytest.approx(1)
    assert min(share.values()) * n > 4, "too few draws for the test to mean anything"
    assert set(count) == set(share)
    statistic = sum((count[outcome] - n * p) ** 2 / (n * p) for outcome, p in share.items())
    freedom = len(share) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def named(name: str) -> str:
    """ "auto_contrast" as "AutoContrast"."""
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_autoaugment_is_the_published_table(name: str) -> None:
    wanted = [tuple((named(op), p, 9 if bin_ is None else bin_) for op, p, bin_ in pair) for pair in PUBLISHED[name]]
    assert len(wanted) == 25
    assert list(SUB_POLICIES[name]) == wanted
    policy = auto_augment(name)
    pi, p, mu = policy.get_buffer("pi"), policy.get_buffer("p"), policy.get_buffer("mu")
    assert pi.shape[:2] == (25, 2)
    for s, k in itertools.product(range(25), range(2)):
        operation, probability, bin_ = wanted[s][k]
        place = policy.operations.index(operation)
        assert pi[s, k].tolist() == [float(i == place) for i in range(len(policy.operations))]
        assert p[s, k, place].item() == pytest.approx(probability)
        assert mu[s, k, place].tolist() == pytest.approx([bin_ / 9])


@pytest.mark.parametrize("name", PUBLISHED)
def test_autoaugment_applies_what_has_no_strength_in_full_whatever_the_range(name: str) -> None:
    policy = auto_augment(name, ranges="madao")
    column = policy.operations.index("Equalize")
    assert (policy.mu[policy.pi[:, :, column] == 1][:, column] == 1).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_autoaugment_draws_its_table(name: str) -> None:
    # Both stages together: what is applied and at which bin, None where nothing is.
    share: Counter = Counter()
    for first, second in PUBLISHED[name]:
        for use in itertools.product((False, True), repeat=2):
            outcome = tuple((named(s[0]), s[2]) if u else None for s, u in zip((first, second), use, strict=True))
            share[outcome] += math.prod(s[1] if u else 1 - s[1] for s, u in zip((first, second), use, strict=True)) / 25
    policy = auto_augment(name)
    bare = {"Invert", "AutoContrast", "Equalize"}
    stages = []
    for choice in drawn(policy, 40_000):
        names = [(*policy.operations, None)[i] for i in choice.pick.tolist()]
        bins = (choice.magnitude * 9).tolist()
        assert all(abs(b - round(b)) < 1e-5 for b in bins)
        stages.append([op and (op, None if op in bare else round(b)) for op, b in zip(names, bins, strict=True)])
    assert_frequencies(Counter(zip(*stages, strict=True)), share)


def test_randaugment_draws_n_of_fourteen_at_one_magnitude() -> None:
    published = (
        "Identity AutoContrast Equalize Rotate Solarize Color Posterize Contrast Brightness Sharpness "
        "ShearX ShearY TranslateX TranslateY"
    )
    assert sorted(COMMON_OPERATIONS) == sorted(published.split())
    policy = rand_augment(2, 9)
    assert policy.operations == COMMON_OPERATIONS
    assert len(policy.operations) == 14
    first, second = drawn(policy, 40_000)
    outcomes = torch.stack([first.pick, second.pick, first.sign.long(), second.sign.long()], 1)
    # With replacement, always applied (14 would stand for "none"), signs even, and all of it independent.
    cells = itertools.product(range(14), range(14), (-1, 1), (-1, 1))
    assert_frequencies(Counter(map(tuple, outcomes.tolist())), dict.fromkeys(cells, 1 / (14 * 14 * 4)))
    for choice in (first, second):
        assert torch.equal(choice.magnitude, torch.full((40_000,), 9 / 29))


@pytest.mark.parametrize(
    ("magnitude", "bins", "wanted"), [(0, 30, 0.0), (29, 30, 1.0), (5, 11, 0.5), (14, 30, 14 / 29)]
)
def test_randaugment_counts_bins(magnitude: int, bins: int, wanted: float) -> None:
    choices = drawn(rand_augment(3, magnitude, bins=bins), 5)
    assert len(choices) == 3
    assert all(torch.equal(c.magnitude, torch.full((5,), wanted)) for c in choices)


def test_trivialaugment_draws_one_of_fourteen_at_one_of_thirty_one() -> None:
    policy = trivial_augment_wide()
    assert policy.operations == COMMON_OPERATIONS
    (choice,) = drawn(policy, 60_000)
    levels = (choice.magnitude * 30).round()
    assert torch.allclose(choice.magnitude, levels / 30, atol=1e-6)
    assert choice.magnitude.aminmax() == (0, 1)
    outcomes = torch.stack([choice.pick, levels.long(), choice.sign.long()], 1)
    cells = itertools.product(range(14), range(31), (-1, 1))
    assert_frequencies(Counter(map(tuple, outcomes.tolist())), dict.fromkeys(cells, 1 / (14 * 31 * 2)))


def test_any_policy_draws_what_its_tables_say() -> None:
    names = ["Rotate", "Invert", "Color"]
    pi = torch.tensor([[[0.2, 0.5, 0.3], [0.0, 0.6, 0.4]], [[1.0, 0.0, 0.0], [0.7, 0.3, 0.0]]])
    p = torch.tensor([[[0.5, 0.9, 1.0], [0.3, 0.2, 0.6]], [[0.8, 0.5, 0.5], [0.0, 1.0, 0.5]]])
    mu = torch.arange(24).view(2, 2, 3, 2) / 24
    first, second = drawn(FixedPolicy(names, pi=pi, p=p, mu=mu), 60_000)
    share: Counter = Counter()
    for s, i, j, a, b, u, v in itertools.product(range(2), range(3), range(3), range(2), range(2), range(2), range(2)):
        use = math.prod(q if w else 1 - q for q, w in ((p[s, 0, i].item(), u), (p[s, 1, j].item(), v)))
        outcome = (i if u else 3, round(24 * mu[s, 0, i, a].item()), j if v else 3, round(24 * mu[s, 1, j, b].item()))
        share[outcome] += pi[s, 0, i].item() * pi[s, 1, j].item() * use / 8
    columns = (first.pick, (24 * first.magnitude).round(), second.pick, (24 * second.magnitude).round())
    assert_frequencies(Counter(zip(*(c.long().tolist() for c in columns), strict=True)), share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", EXTREMES)
def test_what_has_probability_zero_never_happens(u: float, dtype: torch.dtype) -> None:
    names = PAPER_OPERATIONS[:5]
    pi = torch.tensor([[[0, 0.3, 0, 0.7, 0]], [[1.0, 0, 0, 0, 0]], [[0, 0, 0, 0, 1.0]], [[0.1, 0.2, 0.3, 0.4, 0]]])
    for certain in (0.0, 1.0):
        policy = FixedPolicy(names, pi=pi, p=torch.full_like(pi, certain), mu=torch.zeros(*pi.shape, 3))
        uniform = torch.full((4, policy.slots), u, dtype=dtype)
        uniform[:, 0] = (torch.arange(4) + 0.5) / 4  # each sub-policy once
        (choice,) = policy.choose(uniform)
        wanted = [1, 0, 4, 0] if u < 0.5 else [3, 0, 4, 3]
        assert choice.pick.tolist() == (wanted if certain else [5] * 4)
        uniform[:, 0] = u  # the first sub-policy, or the last
        assert policy.choose(uniform)[0].pick.tolist() == [(1 if u < 0.5 else 3) if certain else 5] * 4


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-12, 1e-7, 0.1, 1.0, 3.0]), min_size=14, max_size=14).filter(any),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    key=st.integers(0, 1000),
)
def test_only_what_has_a_probability_is_picked(weights: list[float], dtype: torch.dtype, key: int) -> None:
    pi = (torch.tensor(weights, dtype=torch.float64) / sum(weights)).to(dtype)
    shaped = pi.view(1, 1, -1)
    policy = FixedPolicy(PAPER_OPERATIONS, pi=shaped, p=torch.ones_like(shaped), mu=torch.zeros(1, 1, 14, 1))
    uniform = keys.uniform(key, torch.arange(300), policy.slots, dtype)
    uniform[0], uniform[1] = EXTREMES
    edges = pi.double().cumsum(0).to(dtype)  # and numbers on the edges between two picks
    uniform[2:16, 1] = edges.clamp(*EXTREMES)
    pick = policy.choose(uniform)[0].pick
    assert (pi[pick] > 0).all()


def by_hand(policy: FixedPolicy, ranges: str, images: Tensor, uniform: Tensor) -> Tensor:
    """The slow twin: one image, one stage, one public operation at a time."""
    choices = policy.choose(uniform)
    rows = []
    for i in range(len(images)):
        x = images[i : i + 1]
        for choice in choices:
            if choice.pick[i] < len(policy.operations):
                operation = get_operation(policy.operations[int(choice.pick[i])], ranges)
                x = operation(x, choice.magnitude[i : i + 1], choice.sign[i : i + 1])
        rows.append(x)
    return torch.cat(rows)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_one_image_at_a_time(name: str, channels: int) -> None:
    policy, ranges = POLICIES[name]
    images = eight_bit(60, channels, 19, 16).double().requires_grad_()
    index = torch.arange(60) + 300
    result = policy(images, key=5, index=index)
    wanted = by_hand(policy, ranges, images, keys.uniform(5, index, policy.slots, torch.float64))
    # Thresholds may fall differently on values that differ by rounding: a handful of pixels.
    assert ((result - wanted).abs() > 1e-9).double().mean() < 1e-3
    assert (result != images).flatten(1).any(1).double().mean() > 0.4
    weight = torch.randn_like(images)
    grad, wanted_grad = (torch.autograd.grad(r, images, weight)[0] for r in (result, wanted))
    assert ((grad - wanted_grad).abs() > 1e-6).double().mean() < 1e-2
    assert (grad != 0).double().mean() > 0.5


@pytest.mark.parametrize("name", POLICIES)
def test_a_shard_draws_what_the_whole_batch_draws(name: str) -> None:
    policy, _ = POLICIES[name]
    images, index = eight_bit(24, 3, 16, 16), torch.randperm(1000)[:24]
    whole = policy(images, key=3, index=index)
    for part in (slice(12), slice(12, 24), torch.randperm(24)[:9]):
        shard = policy(images[part], key=3, index=index[part])
        assert ((shard - whole[part]).abs() > 1e-4).double().mean() < 1e-3
    for other in (policy(images, key=4, index=index), policy(images, key=3), policy(images, key=3, index=index + 1)):
        assert ((other - whole).abs() > 1e-2).double().mean() > 0.1
    assert torch.equal(policy(images, key=3, index=index, soft=True), whole)


@pytest.mark.parametrize("name", POLICIES)
def test_without_a_key_the_global_generator_decides(name: str) -> None:
    policy, _ = POLICIES[name]
    images = eight_bit(24, 3, 16, 16)
    state = torch.get_rng_state()
    policy(images, key=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    first, second = policy(images), policy(images)
    torch.manual_seed(7)
    assert torch.equal(policy(images), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", POLICIES)
def test_dtypes_draw_the_same(name: str) -> None:
    policy, _ = POLICIES[name]
    half = eight_bit(24, 3, 9, 11).bfloat16()
    single, double = policy(half.float(), key=2), policy(half.double(), key=2)
    assert torch.equal(policy(half, key=2), single.bfloat16())
    assert ((single - double).abs() > 1e-4).double().mean() < 2e-2  # values on a threshold, which rounding moves


@pytest.mark.parametrize("name", POLICIES)
@given(
    batch=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    content=st.sampled_from(["random", "zeros", "ones", "constant"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    key=st.integers(0, 2**63 - 1),
)
def test_any_images(
    name: str, batch: int, channels: int, height: int, width: int, content: str, dtype: torch.dtype, key: int
) -> None:
    shape = (batch, channels, height, width)
    random = torch.rand(shape, generator=torch.Generator().manual_seed(key % 1000))
    level = {"random": random, "zeros": 0.0, "ones": 1.0, "constant": 0.37}[content]
    images = (torch.zeros(shape) + level).to(dtype).requires_grad_()
    before = images.detach().clone()
    result = POLICIES[name][0](images, key=key)
    assert result.shape == shape
    assert result.dtype == dtype
    assert ((result >= 0) & (result <= 1)).all()  # which NaN fails
    (grad,) = torch.autograd.grad(result.sum(), images)
    assert grad.isfinite().all()
    assert torch.equal(images.detach(), before)


def test_nothing_is_learned_or_saved() -> None:
    for policy, _ in POLICIES.values():
        assert not list(policy.parameters())
        assert not policy.state_dict()
        assert not policy(eight_bit(2, 3, 8, 8), key=0).requires_grad
    pi = torch.ones(1, 1, 1)
    policy = FixedPolicy(["Brightness"], pi=pi, p=pi, mu=pi[..., None])
    pi.zero_()  # the policy has copies
    assert policy.get_buffer("pi").item() == policy.get_buffer("mu").item() == 1


def test_operations_and_ranges_can_be_chosen() -> None:
    images = eight_bit(16, 3, 9, 9)
    brightness = rand_augment(1, 29, operations=["Brightness"], ranges="trivialaugment-wide")
    result = brightness(images, key=0)
    dark = torch.isclose(result, 0.01 * images, rtol=1e-4).flatten(1).all(1)
    bright = torch.isclose(result, (1.99 * images).clamp(max=1)).flatten(1).all(1)
    assert (dark ^ bright).all()
    assert 0 < dark.sum() < 16
    record = get_operation("Invert")
    assert torch.equal(rand_augment(1, 29, operations=[record])(images, key=0), 1 - images)
    assert torch.equal(trivial_augment_wide(operations=["Identity"])(images, key=0), images)
    assert trivial_augment_wide(bins=2).get_buffer("mu").unique().tolist() == [0, 1]


ONE = torch.ones(1, 1, 2)
OK = torch.zeros(2, 3, 4, 4)
TWO = ["Rotate", "Invert"]


def fixed(pi: Tensor = ONE / 2, p: Tensor = ONE, mu: Tensor = ONE[..., None]) -> FixedPolicy:
    return FixedPolicy(TWO, pi=pi, p=p, mu=mu)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fixed(pi=ONE[0]), InvalidInputError, "(sub-policies, stages, 2 operations); got (1, 2)"),
        (lambda: fixed(pi=torch.ones(1, 1, 3)), InvalidInputError, "got (1, 1, 3)"),
        (lambda: fixed(pi=torch.ones(0, 1, 2)), InvalidInputError, "got (0, 1, 2)"),
        (lambda: fixed(p=torch.ones(1, 2, 2)), InvalidInputError, "p must have pi's shape (1, 1, 2)"),
        (lambda: fixed(mu=ONE), InvalidInputError, "got (1, 1, 2) and (1, 1, 2)"),
        (lambda: fixed(mu=torch.ones(1, 1, 2, 0)), InvalidInputError, "got (1, 1, 2) and (1, 1, 2, 0)"),
        (
            lambda: fixed(pi=torch.tensor([[[1.5, -0.5]]])),
            InvalidInputError,
            "pi must lie in [0, 1]; got values from -0.5",
        ),
        (lambda: fixed(p=ONE * 2), InvalidInputError, "p must lie in [0, 1]; got values from 2 to 2"),
        (lambda: fixed(mu=ONE[..., None] / 0 * 0), InvalidInputError, "mu must lie in [0, 1]; got values from nan"),
        (lambda: fixed(pi=ONE), InvalidInputError, "Every row of pi must sum to 1; got sums [2.0]"),
        (lambda: FixedPolicy([], pi=ONE, p=ONE, mu=ONE), InvalidInputError, "got []"),
        (lambda: FixedPolicy(["Rotate"], pi=[1.0], p=ONE, mu=ONE), InvalidInputError, "pi must be a tensor of floats"),
        (lambda: auto_augment(["cifar10"]), UnknownNameError, "Unknown AutoAugment policy ['cifar10']"),
        (lambda: FixedPolicy(["Rotat"], pi=ONE, p=ONE, mu=ONE), UnknownNameError, "Did you mean 'Rotate'?"),
        (lambda: rand_augment(0), InvalidInputError, "num_operations must be an integer of at least 1; got 0"),
        (lambda: rand_augment(2.0), InvalidInputError, "got 2.0"),
        (lambda: rand_augment(2, 30), InvalidInputError, "magnitude must be an integer from 0 to 29 (bins=30); got 30"),
        (lambda: rand_augment(2, -1), InvalidInputError, "got -1"),
        (lambda: rand_augment(2, 0.5), InvalidInputError, "got 0.5"),
        (lambda: rand_augment(bins=1), InvalidInputError, "bins must be an integer of at least 2; got 1"),
        (lambda: rand_augment(ranges="wide"), UnknownNameError, "Unknown ranges 'wide'"),
        (lambda: trivial_augment_wide(bins=1), InvalidInputError, "bins must be an integer of at least 2; got 1"),
        (lambda: trivial_augment_wide(operations="Rotate"), InvalidInputError, "got 'Rotate'"),
        (
            lambda: auto_augment("cifar"),
            UnknownNameError,
            "Unknown AutoAugment policy 'cifar'. Did you mean 'cifar10'?",
        ),
        (lambda: fixed()(OK.byte()), InvalidInputError, "images.float() / 255"),
        (lambda: fixed()(OK[0]), InvalidInputError, "(3, 4, 4)"),
        (lambda: fixed()(OK + 2), InvalidInputError, "from 2 to 2"),
        (lambda: fixed()(OK, index=torch.arange(3)), InvalidInputError, "shape (2,); got torch.int64 (3,)"),
        (lambda: fixed()(OK, index=[0, 1]), InvalidInputError, "got [0, 1]"),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
