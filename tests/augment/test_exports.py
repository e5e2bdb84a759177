"""Exports agree with the tensor version: operations by pixel, draws by frequency, the whole by its mean image."""

import copy
import itertools
import math
import pickle
import random
import re
import sys
import types
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hypergrad.augment import (
    PAPER_OPERATIONS,
    FixedPolicy,
    Policy,
    auto_augment,
    get_operation,
    rand_augment,
    trivial_augment_wide,
)
from hypergrad.augment.pillow_export import PillowPolicy
from hypergrad.augment.torchvision_export import TorchvisionPolicy
from hypergrad.errors import InvalidInputError, MissingLibraryError

RGB = np.ascontiguousarray(load_sample_image("china.jpg")[::10, ::12][:41, :53])
GREY = np.kron(np.concatenate(load_digits().images[:5] / 16 * 255, 1).round().astype(np.uint8), np.ones((4, 1), "u1"))
IMAGES = {"RGB": RGB, "L": GREY}


def as_tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:  # (C, H, W)
    return (torch.from_numpy(array.copy().reshape(*array.shape[:2], -1)).to(dtype) / 255).permute(2, 0, 1)


def levels(image: Tensor) -> np.ndarray:  # (C, H, W) -> (H, W, C)
    return (image * 255).round().permute(1, 2, 0).numpy().astype(np.int64)


def pixels(image: Image.Image) -> np.ndarray:  # (H, W, C)
    return np.asarray(image).astype(np.int64).reshape(image.height, image.width, -1)


def constant(*operations: Any, mu: float = 0.5, stages: int = 1) -> FixedPolicy:
    """Every operation equally likely, always applied, at one magnitude."""
    shape = (1, stages, len(operations))
    return FixedPolicy(
        operations, pi=torch.full(shape, 1 / shape[2]), p=torch.ones(shape), mu=torch.full((*shape, 1), mu)
    )


def learned(stages: int = 2) -> Policy:
    policy = Policy(stages=stages)
    with torch.no_grad():
        for p in policy.parameters():
            p.normal_()
    return policy


# What each operation gives


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize("ranges", ["madao", "autoaugment", "trivialaugment-wide"])
@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_an_operation_on_a_pillow_image_is_within_one_level(name: str, ranges: str, mode: str) -> None:
    operation, array = get_operation(name, ranges), IMAGES[mode]
    exported = constant(operation).to_pillow()
    compared = 0.0
    for m, sign in itertools.product([k / 8 for k in range(9)] + [0.3, 0.77], (-1.0, 1.0)):
        magnitude, direction = torch.tensor([m], dtype=torch.float64), torch.tensor([sign], dtype=torch.float64)
        amount = operation.amount(magnitude, direction).item()
        result = exported.apply(Image.fromarray(array), [(name, amount)])
        assert result.mode == mode
        off = np.abs(pixels(result) - levels(operation(as_tensor(array)[None], magnitude, direction)[0]))
        if operation.kind == "geometric":
            # Where all four neighbours lie inside: Pillow repeats the border, the tensor version fades to black.
            inside = operation(torch.ones(1, 1, *array.shape[:2], dtype=torch.float64), magnitude, direction)[0, 0]
            off = off[inside.numpy() > 1 - 1e-9]
        compared += off.size / array.size / 22
        assert off.max(initial=0) <= 1, (m, sign)
    assert compared > 0.45  # of the pixels; translations and wide rotations move many out


# What is drawn


def amount_of(policy: FixedPolicy, n: int, magnitude: float, sign: int) -> float:
    operation = policy.mixture.operations[n]
    magnitude = magnitude * sign if operation.signed else magnitude
    return operation.identity + (operation.strongest - operation.identity) * magnitude


def key_of(name: str, amount: float) -> tuple[str, float]:
    return name, round(amount, 6) + 0.0  # no negative zero


def enumerated(policy: FixedPolicy) -> dict[tuple[Any, ...], float]:
    """The probability of every sequence of operations that an image may get, by the definition of a fixed policy."""
    pi, p, mu = (policy.get_buffer(k).double().tolist() for k in ("pi", "p", "mu"))
    total: Counter[tuple[Any, ...]] = Counter()
    for s in range(len(pi)):
        so_far: Counter[tuple[Any, ...]] = Counter({(): 1 / len(pi)})
        for k in range(len(pi[s])):
            stage: Counter[tuple[Any, ...]] = Counter()
            for n, name in enumerate(policy.operations):
                stage[()] += pi[s][k][n] * (1 - p[s][k][n])
                for m, sign in itertools.product(mu[s][k][n], (-1, 1)):
                    drawn = (key_of(name, amount_of(policy, n, m, sign)),)
                    stage[drawn] += pi[s][k][n] * p[s][k][n] / len(mu[s][k][n]) / 2
            joint: Counter[tuple[Any, ...]] = Counter()
            for (a, x), (b, y) in itertools.product(so_far.items(), stage.items()):
                joint[a + b] += x * y
            so_far = joint
        total.update(so_far)
    return {drawn: share for drawn, share in total.items() if share > 0}


DRAWN = {
    "learned": (lambda: learned(), 2),
    "learned, one stage": (lambda: learned(1), 1),
    "rand_augment": (rand_augment, 1),
    "trivial_augment_wide": (trivial_augment_wide, 1),
    "auto_augment": (auto_augment, 1),
    "auto_augment imagenet": (lambda: auto_augment("imagenet"), 1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_policy_s_frequencies(name: str) -> None:
    policy = DRAWN[name][0]()
    exported = policy.to_pillow(seed=0)
    shares = enumerated(policy.freeze() if isinstance(policy, Policy) else policy)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    n = 40_000
    seen = Counter(tuple(key_of(*drawn) for drawn in exported.draw()) for _ in range(n))
    assert set(seen) <= set(shares)
    # Pearson's chi-square, with what is rarely expected in one cell.
    cells = [(seen[drawn], n * share) for drawn, share in shares.items() if n * share >= 5]
    rest = (n - sum(o for o, _ in cells), n - sum(e for _, e in cells))
    cells += [rest] if rest[1] >= 5 else []
    statistic, degrees = sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1
    assert degrees > 20
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_a_random_sign_only_where_there_is_one_and_levels_equally_often() -> None:
    policy = FixedPolicy(
        ["Rotate", "Solarize"],
        pi=torch.tensor([[[0.25, 0.75]]]),
        p=torch.tensor([[[0.8, 0.4]]]),
        mu=torch.tensor([[[[0.5, 1.0], [0.0, 1.0]]]]),
    )
    n = 40_000
    exported = policy.to_pillow(seed=1)
    seen = Counter(tuple(key_of(*drawn) for drawn in exported.draw()) for _ in range(n))
    wanted = {(("Rotate", a),): 0.25 * 0.8 / 4 for a in (-30.0, -15.0, 15.0, 30.0)}
    wanted |= {(key_of("Solarize", a),): 0.75 * 0.4 / 2 for a in (255.5 / 255, -0.5 / 255)}
    wanted[()] = 0.25 * 0.2 + 0.75 * 0.6
    assert set(seen) == set(wanted)
    for drawn, share in wanted.items():
        assert seen[drawn] / n == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))


def test_what_has_probability_zero_or_one() -> None:
    policy = FixedPolicy(
        ["Invert", "Rotate", "Color"],
        pi=torch.tensor([[[0.0, 1.0, 0.0]]]),
        p=torch.ones(1, 1, 3),
        mu=torch.ones(1, 1, 3, 1),
    )
    exported = policy.to_pillow(seed=0)
    assert {exported.draw()[0][0] for _ in range(200)} == {"Rotate"}
    never = constant("Invert")
    never.get_buffer("p").zero_()
    assert {never.to_pillow(seed=0).draw() for _ in range(200)} == {()}


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize("name", ["learned", "rand_augment", "trivial_augment_wide", "auto_augment"])
def test_the_mean_image_agrees(name: str, mode: str) -> None:
    policy = DRAWN[name][0]()
    array = np.ascontiguousarray(IMAGES[mode][4:24, 4:24])
    n = 3000
    image = Image.fromarray(array)
    exported = policy.to_pillow(seed=0)
    pillow = np.stack([pixels(exported(image)) for _ in range(n)]).astype(np.float64)
    tensors = policy(as_tensor(array, torch.float32).expand(n, -1, -1, -1), soft=False, key=0).double()
    tensor = (tensors * 255).permute(0, 2, 3, 1).numpy()
    error = np.sqrt((pillow.var(0) + tensor.var(0)) / n)
    off = np.abs(pillow.mean(0) - tensor.mean(0))
    # Pillow rounds down in places, and at the border it repeats where the tensor version fades to black.
    inside = np.s_[2:-2, 2:-2]
    assert error.max() < 4
    assert (off[inside] < 1 + 4 * error[inside]).all()


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize("name", ["learned", "rand_augment", "trivial_augment_wide", "auto_augment"])
def test_the_same_draw_gives_the_same_image(name: str, mode: str) -> None:
    transform = DRAWN[name][0]().to_torchvision()
    array = IMAGES[mode]
    image, tensor = Image.fromarray(array), (as_tensor(array) * 255).round().byte()
    off = []
    for seed in range(200):
        torch.manual_seed(seed)
        pillow = pixels(transform(image))
        torch.manual_seed(seed)
        off.append(np.abs(pillow - levels(transform(tensor).double() / 255)))
    share = (np.stack(off) > 2).mean((1, 2, 3))
    # A level for each of two operations. On some pixels a second one that decides on a level decides otherwise, and the
    # border may have been moved in. In a few images the second stretches what the first left of the contrast (Invert
    # at a strength of 0.7, then AutoContrast), and the first's rounding with it.
    assert np.median(share) < 0.03
    assert (share > 0.1).mean() < 0.06


# Use with Pillow


def test_learned_policies_export_as_they_stand() -> None:
    policy = learned()
    exported = policy.to_pillow(seed=0)
    with torch.no_grad():
        policy.mu.fill_(50.0)
    assert exported.draw() != policy.to_pillow(seed=0).draw()
    assert "stages=2" in repr(exported)
    assert "Rotate" in repr(exported)


def test_a_seed_gives_a_stream_of_its_own_and_none_the_global_one() -> None:
    policy = trivial_augment_wide()
    one, two = policy.to_pillow(seed=3), policy.to_pillow(seed=3)
    random.seed(1)
    state = random.getstate()
    draws = [one.draw() for _ in range(20)]
    assert random.getstate() == state
    assert draws == [two.draw() for _ in range(20)]
    assert draws != [policy.to_pillow(seed=4).draw() for _ in range(20)]
    everyone = policy.to_pillow()
    first = [everyone.draw() for _ in range(20)]
    random.seed(1)
    assert first == [everyone.draw() for _ in range(20)]


def test_every_image_takes_as_many_numbers_whatever_is_drawn() -> None:
    # So that a change of p leaves the draws of other images as they are.
    policy = learned()
    exported, states = policy.to_pillow(), []
    with torch.no_grad():
        policy.p.fill_(-50.0)
    for one in (exported, policy.to_pillow()):
        random.seed(0)
        for _ in range(10):
            one.draw()
        states.append(random.getstate())
    assert states[0] == states[1]


def test_pickled_it_draws_on_and_holds_nothing_of_torch() -> None:
    exported = learned().to_pillow(seed=0)
    exported.draw()
    data = pickle.dumps(exported)
    assert b"torch" not in data
    again = pickle.loads(data)
    image = Image.fromarray(RGB)
    for _ in range(10):
        assert np.array_equal(np.asarray(again(image)), np.asarray(exported(image)))


def test_the_image_that_is_given_stays() -> None:
    image = Image.fromarray(RGB)
    exported = constant(*PAPER_OPERATIONS, mu=1.0, stages=3).to_pillow(seed=0)
    for _ in range(50):
        assert exported(image).size == image.size
    assert np.array_equal(np.asarray(image), RGB)


class Pictures(Dataset[Any]):
    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.transform(Image.fromarray(GREY[:12, :12]))))


# Python 3.12 and later warn of every fork of a process with threads.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("export", [FixedPolicy.to_pillow, FixedPolicy.to_torchvision])
def test_in_a_loader_s_workers(export: Callable[[FixedPolicy], Any]) -> None:
    loader = DataLoader(Pictures(export(trivial_augment_wide())), batch_size=6, num_workers=2)

    def epoch(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat(list(loader))

    one = epoch(1)
    assert torch.equal(one, epoch(1))
    assert not torch.equal(one, epoch(2))
    # The workers draw differently: the first batch is the first worker's, the second the second's.
    assert not torch.equal(one[:6], one[6:])


def odd() -> FixedPolicy:
    return constant(replace(get_operation("Invert"), name="Odd", pillow=None))


PICTURE = Image.fromarray(RGB)
INVERT = constant("Invert").to_pillow(seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: odd().to_pillow(), "The operation 'Odd' has no Pillow function"),
        (lambda: odd().to_torchvision()(PICTURE), "The operation 'Odd' has no Pillow function"),
        (lambda: constant("Invert").to_pillow(seed=1.5), "seed must be an integer or None"),
        (lambda: constant("Invert").to_pillow(seed=True), "seed must be an integer or None"),
        (
            lambda: INVERT(PICTURE.convert("RGBA")),
            'mode \'RGBA\'; the operations are made for "L" and "RGB". Use image.c',
        ),
        (lambda: INVERT(PICTURE.convert("1")), "mode '1'"),
        (
            lambda: INVERT(PICTURE.convert("P")),
            'mode \'P\'; the operations are made for "L" and "RGB". Use image.convert',
        ),
        (lambda: constant("Invert").to_torchvision()(PICTURE.convert("CMYK")), "mode 'CMYK'"),
        (lambda: INVERT(RGB), "Expected an image of Pillow; got ndarray. Arrays: PIL.Image.fromarray(array)"),
        (lambda: INVERT(torch.zeros(3, 4, 4)), "Expected an image of Pillow; got Tensor"),
        (lambda: INVERT.apply(PICTURE, [("Rotate", 3.0)]), "The policy has no operation 'Rotate'. It has: Invert."),
        (lambda: constant("Invert").to_torchvision()(torch.zeros(4, 4)), "got torch.float32 (4, 4)"),
        (lambda: constant("Invert").to_torchvision()(7, torch.tensor(3)), "got torch.int64 (). Where a sample's first"),
        (lambda: constant("Invert").to_torchvision()(torch.zeros(3, 4, 4) + 2), "from 2 to 2. Divide 8-bit values"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call()


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingLibraryError, match=r"Exporting a policy to Pillow needs PIL, .* pip install"):
        constant("Invert").to_pillow()
    # Tensors need no Pillow.
    assert torch.equal(constant("Invert", mu=1.0).to_torchvision()(torch.zeros(1, 2, 2)), torch.ones(1, 2, 2))


# Use with torchvision's transforms


@pytest.fixture
def tv(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand-ins for ``torchvision.tv_tensors``, which need not be installed."""
    module = types.ModuleType("torchvision.tv_tensors")

    class TVTensor(Tensor):
        pass

    module.TVTensor = TVTensor
    for name in ("Image", "Video", "BoundingBoxes", "Mask", "KeyPoints"):
        setattr(module, name, type(name, (TVTensor,), {}))
    module.wrap = lambda value, *, like: value.as_subclass(type(like))
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", module)
    return module


def next_key() -> int:
    """The key that the next call takes from torch's global generator, which stays as it is."""
    state = torch.get_rng_state()
    key = int(torch.randint(2**62, ()).item())
    torch.set_rng_state(state)
    return key


@pytest.mark.parametrize("shape", [(3, 9, 8), (4, 3, 9, 8), (2, 4, 1, 9, 8), (0, 3, 9, 8)])
@pytest.mark.parametrize("name", ["learned", "trivial_augment_wide", "auto_augment"])
def test_tensors_go_through_the_policy_itself(name: str, shape: tuple[int, ...]) -> None:
    policy = DRAWN[name][0]()
    policy = policy.freeze() if isinstance(policy, Policy) else policy
    transform = policy.to_torchvision()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.uint8):
        for _ in range(10):
            image = torch.randint(256, shape).byte() if dtype == torch.uint8 else torch.rand(shape, dtype=dtype)
            before, key = image.clone(), next_key()
            result = transform(image)
            assert result.dtype == dtype
            rows = (image / 255 if dtype == torch.uint8 else image).reshape(-1, *shape[-3:])
            # All rows of one call draw alike.
            wanted = policy(rows, key=key, index=torch.zeros(len(rows), dtype=torch.long)).reshape(shape)
            wanted = (wanted * 255).round().byte() if dtype == torch.uint8 else wanted
            assert torch.allclose(result.double(), wanted.double(), rtol=0, atol=1e-6)
            assert torch.equal(image, before)


def test_calls_draw_anew_and_the_global_seed_decides() -> None:
    transform, image = trivial_augment_wide().to_torchvision(), torch.rand(3, 9, 9)
    first = [transform(image) for _ in range(8)]
    assert any(not torch.equal(first[0], other) for other in first)
    torch.manual_seed(0)
    torch.rand(3, 9, 9)
    assert all(torch.equal(a, transform(image)) for a in first)


LOUD = constant("Invert", mu=1.0).to_torchvision()
Pair = namedtuple("Pair", ["image", "label"])


def test_samples_of_every_form() -> None:
    image, second, label, text = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), torch.tensor(3), "name"
    white = torch.ones(3, 4, 4)
    assert torch.equal(LOUD(image), white)
    result = LOUD(image, label, 3, text, None)
    assert isinstance(result, tuple)
    assert torch.equal(result[0], white)
    assert result[1] is label
    assert result[2:] == (3, text, None)
    # The first tensor only, wherever it stands.
    result = LOUD({"name": text, "deep": [(3, image), second]})
    assert torch.equal(result["deep"][0][1], white)
    assert result["deep"][1] is second
    assert result["name"] is text
    pair = LOUD(Pair(image, label))
    assert type(pair) is Pair
    assert torch.equal(pair.image, white)
    assert pair.label is label
    ordered = OrderedDict(b=image, a=label)
    assert type(LOUD(ordered)) is OrderedDict
    assert list(LOUD(ordered)) == ["b", "a"]
    grouped: defaultdict[str, Any] = defaultdict(list, image=image)
    assert LOUD(grouped)["missing"] == []
    assert torch.equal(grouped["image"], torch.zeros(3, 4, 4))  # what is given stays
    assert LOUD(3, text) == (3, text)
    assert LOUD() == ()


def test_explicit_images_leave_plain_tensors_alone(tv: types.ModuleType) -> None:
    plain, label = torch.zeros(3, 4, 4), torch.tensor(3)
    marked, video = (torch.zeros(*s, 3, 4, 4).as_subclass(t) for s, t in (((), tv.Image), ((2,), tv.Video)))
    for explicit in (marked, video, Image.new("RGB", (4, 4)), Image.new("L", (4, 4))):
        result = LOUD(plain, label, explicit, {"again": explicit})
        assert result[0] is plain
        assert result[1] is label
        for changed in (result[2], result[3]["again"]):
            assert type(changed) is type(explicit)
            assert (np.asarray(changed) == (1 if isinstance(changed, Tensor) else 255)).all()
    assert LOUD(video).shape == (2, 3, 4, 4)
    eight = torch.zeros(3, 4, 4, dtype=torch.uint8).as_subclass(tv.Image)
    assert type(LOUD(eight)) is tv.Image
    assert (LOUD(eight).as_subclass(Tensor) == 255).all()


def test_all_images_of_a_sample_draw_alike(tv: types.ModuleType) -> None:
    transform = constant("Invert", "Brightness", "Contrast", mu=0.9, stages=2).to_torchvision()
    marked = as_tensor(RGB).as_subclass(tv.Image)
    changed = 0
    for _ in range(30):
        one, two, other = transform(marked, marked.clone(), Image.fromarray(RGB))
        assert torch.equal(one, two)
        off = np.abs(levels(one.as_subclass(Tensor)) - pixels(other))
        assert off.max() <= 3  # a level each, the first one's stretched by the second
        changed += not torch.equal(one, marked)
    assert changed > 25


@pytest.mark.parametrize("kind", ["BoundingBoxes", "Mask", "KeyPoints"])
def test_annotations_are_refused_where_the_geometry_changes(tv: types.ModuleType, kind: str) -> None:
    image, annotation = torch.zeros(3, 4, 4).as_subclass(tv.Image), torch.zeros(1, 4).as_subclass(getattr(tv, kind))
    message = f"{kind}, which the policy's geometric operations (Rotate) would leave in the wrong place"
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        constant("Invert", "Rotate").to_torchvision()({"image": image, "target": [annotation]})
    result = LOUD({"image": image, "target": [annotation]})
    assert result["target"][0] is annotation
    assert (result["image"].as_subclass(Tensor) == 1).all()


def test_a_module_like_others() -> None:
    transform = learned().to_torchvision()
    assert isinstance(transform, TorchvisionPolicy)
    assert not list(transform.parameters())
    assert "FixedPolicy" in repr(transform)
    image = torch.rand(3, 9, 9)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform)), transform.eval()):
        torch.manual_seed(3)
        wanted = transform(image)
        torch.manual_seed(3)
        assert torch.equal(other(image), wanted)
    assert isinstance(learned().to_pillow(), PillowPolicy)
