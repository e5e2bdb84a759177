"""Crop and flip, Cutout, random erasing and Compose: against their definitions, image by image."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hypergrad import keys
from hypergrad.augment import Policy, rand_augment
from hypergrad.augment.standard import Compose, CropFlip, Cutout, RandomErasing
from hypergrad.errors import InvalidInputError

ALL = [
    CropFlip(3),
    CropFlip(2, fill="reflect"),
    Cutout(5),
    Cutout(4, p=0.4, fill=0.7),
    RandomErasing(0.8),
    RandomErasing(1.0, area=(0.1, 0.9), fill=0.45),
    Compose(CropFlip(3), Cutout(3), RandomErasing()),
]
NAMES = [f"{type(a).__name__}{i}" for i, a in enumerate(ALL)]


def eight_bit(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def chi_square(count: Tensor) -> float:
    """Of counts that should be equal, in standard deviations from its mean (for many cells nearly normal)."""
    expected = count.double().mean()
    statistic = ((count - expected) ** 2 / expected).sum().item()
    cells = count.numel()
    return (statistic - (cells - 1)) / math.sqrt(2 * (cells - 1))


def crop_by_hand(augment: CropFlip, images: Tensor, key: int) -> Tensor:
    """The slow twin: pads, cuts and mirrors one image after another."""
    height, width = images.shape[2:]
    result = []
    for image, u in zip(images, keys.uniform(key, torch.arange(len(images)), 3), strict=True):
        mode = {"zeros": "constant", "reflect": "reflect"}[augment.fill]
        padded = F.pad(image[None].double(), (augment.padding,) * 4, mode=mode)[0]
        top, left = (int(v * (2 * augment.padding + 1)) for v in u[:2])
        cut = padded[:, top : top + height, left : left + width]
        result.append(cut.flip(2) if augment.flip and u[2] < 0.5 else cut)
    return torch.stack(result).to(images.dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 3, 12, 17), (40, 1, 5, 5), (40, 4, 7, 6)])
@pytest.mark.parametrize(
    "augment",
    [
        CropFlip(4),
        CropFlip(3, fill="reflect"),
        CropFlip(2, flip=False),
        CropFlip(0),
        CropFlip(4, fill="reflect", flip=False),
        CropFlip(9),
    ],
    ids=repr,
)
def test_crop_equals_one_image_at_a_time(augment: CropFlip, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = eight_bit(*shape) if dtype == torch.uint8 else torch.rand(shape).to(dtype)
    before = images.clone()
    assert torch.equal(augment(images, key=4), crop_by_hand(augment, images, 4))
    assert torch.equal(images, before)


def test_offsets_and_flips_are_uniform() -> None:
    # Where the one white pixel of a 9 x 9 image goes tells the offset; the pixel right of it, the flip.
    n, padding = 20_000, 2
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, 4, 4], images[0, 0, 4, 5] = 1, 0.5
    result = CropFlip(padding)(images.expand(n, -1, -1, -1), key=1)
    place = result.flatten(1).argmax(1)
    row, column = place // 9, place % 9
    flipped = result[torch.arange(n), 0, row, column - 1] == 0.5
    assert torch.equal(~flipped, result[torch.arange(n), 0, row, column + 1] == 0.5)
    down, right = row - 4, torch.where(flipped, 4 - column, column - 4)
    assert down.abs().max() == right.abs().max() == padding
    # All three together: each of the 5 x 5 x 2 cases as often as any other.
    cell = ((down + padding) * 5 + right + padding) * 2 + flipped
    assert abs(chi_square(torch.bincount(cell, minlength=50))) < 4
    assert flipped.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)


def test_half_of_the_noise_flips() -> None:
    images = torch.rand(2, 3, 5, 5)
    below, above = 0.5 - 2.0**-24, 0.5 + 2.0**-24
    result = CropFlip(1).augment(images, torch.tensor([[0.5, 0.5, below], [0.5, 0.5, above]]))
    assert torch.equal(result, torch.stack([images[0].flip(2), images[1]]))


def test_no_offset_exceeds_the_last() -> None:
    images, noise = torch.rand(1, 1, 2, 2), torch.tensor([[1 - 2.0**-24, 1 - 2.0**-24, 0.9]])
    for padding in range(300):  # a product that rounded up would be out of bounds
        assert (CropFlip(padding).augment(images, noise) == 0).sum() == (4 if padding > 1 else 3 if padding else 0)


@pytest.mark.parametrize("u", [2.0**-24, 1 - 2.0**-24])
def test_the_extreme_noise_stays_inside(u: float) -> None:
    images = torch.rand(1, 3, 7, 7)
    for padding in (0, 1, 3, 4, 6):
        noise = torch.tensor([[u, u, 0.9]])
        wanted = F.pad(images, (padding,) * 4)[..., -7:, -7:] if u > 0.5 else F.pad(images, (padding,) * 4)[..., :7, :7]
        assert torch.equal(CropFlip(padding).augment(images, noise), wanted)
    corner = (slice(-1, None), slice(-1, None)) if u > 0.5 else (slice(1), slice(1))
    cut = Cutout(1).augment(images, torch.tensor([[0.5, u, u]])) == 0
    assert cut.sum() == 3
    assert cut[0, 0][corner].all()
    erased = RandomErasing(1.0, area=(0.25, 0.25), ratio=(1, 1)).augment(images, torch.full((1, 23), u)) == 0
    assert erased.sum() == 3 * 16  # 3.5 is rounded to 4
    assert erased[0, 0][corner].all()


@pytest.mark.parametrize("size", [1, 2, 5, 8, 40])
def test_cutout_equals_its_definition(size: int) -> None:
    images = eight_bit(60, 3, 11, 8).float() / 255
    result = Cutout(size, p=0.6, fill=0.4)(images, key=2)
    noise = keys.uniform(2, torch.arange(60), 3)
    for image, got, u in zip(images, result, noise, strict=True):
        row, column = int(u[1] * 11), int(u[2] * 8)
        top, left = row - size // 2, column - size // 2
        wanted = image.clone()
        if u[0] < 0.6:
            wanted[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0.4
        assert torch.equal(got, wanted)


def test_cutout_centres_are_uniform_and_squares_are_clipped() -> None:
    n = 20_000
    ones = torch.ones(n, 1, 6, 7)
    centre = (Cutout(1)(ones, key=0) == 0).flatten(1)
    assert (centre.sum(1) == 1).all()
    assert abs(chi_square(centre.sum(0))) < 4
    # A square of 3 loses a row at each of two of the 6 rows, and a column at each of two of the 7 columns.
    area = (Cutout(3)(ones, key=0) == 0).sum((1, 2, 3)).double()
    assert set(area.tolist()) == {4.0, 6.0, 9.0}
    mean, deviation = (3 - 2 / 6) * (3 - 2 / 7), area.std().item()
    assert area.mean().item() == pytest.approx(mean, abs=4 * deviation / n**0.5)


@pytest.mark.parametrize("augment", [Cutout(3, p=0.3), RandomErasing(0.3)], ids=repr)
def test_share_of_changed_images(augment: Cutout | RandomErasing) -> None:
    n = 20_000
    changed = (augment(torch.ones(n, 1, 8, 8), key=6) == 0).flatten(1).any(1).double().mean().item()
    assert changed == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / n))
    for p in (0.0, 1.0):
        augment = Cutout(3, p=p) if isinstance(augment, Cutout) else RandomErasing(p)
        changed = (augment(torch.ones(500, 1, 16, 16), key=6) == 0).flatten(1).any(1)
        assert (changed == bool(p)).all()


def erase_by_hand(augment: RandomErasing, images: Tensor, key: int) -> tuple[Tensor, list[int]]:
    """The slow twin, as the algorithm is written; also which attempt fitted (-1: none)."""
    height, width = images.shape[2:]
    noise = keys.uniform(key, torch.arange(len(images)), 23).double()
    result, attempts = images.clone(), []
    for i, u in enumerate(noise.tolist()):
        attempts.append(-1)
        for attempt in range(10):
            area = (augment.area[0] + (augment.area[1] - augment.area[0]) * u[3 + attempt]) * height * width
            ratio = augment.ratio[0] * (augment.ratio[1] / augment.ratio[0]) ** u[13 + attempt]
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h <= height and w <= width:
                attempts[-1] = attempt
                if u[0] < augment.p:
                    top, left = int(u[1] * (height - h + 1)), int(u[2] * (width - w + 1))
                    result[i, :, top : top + h, left : left + w] = augment.fill
                break
    return result, attempts


@pytest.mark.parametrize(
    ("augment", "shape"),
    [
        (RandomErasing(0.6, fill=0.25), (200, 3, 32, 32)),
        (RandomErasing(1.0, area=(0.3, 1.0)), (200, 1, 9, 31)),  # rarely fits
        (RandomErasing(1.0, area=(0.9, 1.0), ratio=(4, 8)), (50, 2, 12, 12)),  # never fits
    ],
)
def test_erasing_equals_one_image_at_a_time(augment: RandomErasing, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    wanted, attempts = erase_by_hand(augment, images, 3)
    assert torch.equal(augment(images, key=3), wanted)
    if shape[2] == 9:
        assert {-1, 0, 1, 5} <= set(attempts)  # the case does what it is for
    if shape[2] == 12:
        assert torch.equal(wanted, images)


def test_erased_rectangles_follow_area_ratio_and_place() -> None:
    n, side = 6000, 75
    augment = RandomErasing(1.0, area=(0.05, 0.2), ratio=(0.25, 4.0))  # always fits: no attempt is repeated
    erased = augment(torch.ones(n, 1, side, side), key=0)[:, 0] == 0
    rows, columns = erased.any(2), erased.any(1)
    h, w = rows.sum(1), columns.sum(1)
    assert torch.equal(erased.sum((1, 2)), h * w)  # rectangles
    assert (erased.flatten(1).sum(1) > 0).all()
    share = (h * w).double() / side**2
    logarithm = (h.double() / w).log() / math.log(4)
    top, left = (v.int().argmax(1).double() for v in (rows, columns))
    for name, values, low, high, rounding in (
        ("area", share, 0.05, 0.2, 0.01),
        ("ratio", logarithm, -1, 1, 0.05),
        ("top", top / (side - h + 1), 0, 1, 0.02),
        ("left", left / (side - w + 1), 0, 1, 0.02),
    ):
        assert low - rounding <= values.min() < low + 3 * rounding, name
        assert high - 3 * rounding < values.max() <= high + rounding, name
        # Kolmogorov's distance from the uniform distribution; 99.99 % quantile, and the rounding to whole pixels.
        grid = torch.linspace(low, high, 41, dtype=torch.float64)[1:-1]
        distance = ((values[:, None] <= grid).double().mean(0) - (grid - low) / (high - low)).abs().max()
        assert distance < 2.2 / n**0.5 + rounding / (high - low), name


@pytest.mark.parametrize("augment", ALL, ids=NAMES)
def test_a_shard_draws_what_the_whole_batch_draws(augment) -> None:
    images, index = eight_bit(12, 3, 11, 13), torch.randperm(1000)[:12]
    whole = augment(images, key=3, index=index)
    for part in (slice(6), slice(6, 12), [7, 2, 9]):
        assert torch.equal(augment(images[part], key=3, index=index[part]), whole[part])
    assert not torch.equal(augment(images, key=4, index=index), whole)
    assert not torch.equal(augment(images, key=3, index=index + 1), whole)
    assert torch.equal(augment(images, key=3), augment(images, key=3, index=torch.arange(12)))
    assert torch.equal(augment(images, key=3, index=index, soft=True), whole)


@pytest.mark.parametrize("augment", ALL, ids=NAMES)
def test_without_a_key_the_global_generator_decides(augment) -> None:
    images = eight_bit(12, 3, 11, 13)
    state = torch.get_rng_state()
    augment(images, key=3)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = augment(images), augment(images)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    images = eight_bit(12, 3, 11, 13)
    assert torch.equal(augment(images), first)


@pytest.mark.parametrize("augment", ALL, ids=NAMES)
def test_eight_bit_equals_float(augment) -> None:
    images = eight_bit(30, 3, 11, 13)
    for dtype in (torch.float32, torch.float64):
        result = augment(images.to(dtype) / 255, key=8)
        assert torch.equal((result * 255).round().byte(), augment(images, key=8))


@pytest.mark.parametrize("augment", ALL, ids=NAMES)
def test_the_gradient_goes_to_the_pixels_that_are_seen(augment) -> None:
    # Each result is a sum of the pixels with weights 0 and 1: the gradient of its weighted sum is their transpose.
    images = torch.rand(9, 2, 10, 12, dtype=torch.float64).add(1).div(2).requires_grad_()
    result = augment(images, key=5)
    weight = torch.randn_like(result)
    (grad,) = torch.autograd.grad(result, images, weight)
    direction = torch.rand_like(images) * 0.1
    moved = augment((images - direction).detach(), key=5)
    assert torch.allclose((grad * direction).sum(), (weight * (result - moved)).sum(), rtol=1e-10)
    if isinstance(augment, Cutout | RandomErasing):
        erased = result == augment.fill
        assert torch.equal(grad, torch.where(erased, 0, weight))
        assert 0 < erased.double().mean() < 1


@pytest.mark.parametrize("augment", ALL, ids=NAMES)
@given(
    batch=st.integers(0, 4),
    channels=st.integers(1, 4),
    height=st.integers(3, 15),
    width=st.integers(3, 15),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8]),
    key=st.integers(0, 2**63 - 1),
)
def test_any_images(augment, batch: int, channels: int, height: int, width: int, dtype: torch.dtype, key: int) -> None:
    levels = torch.randint(256, (batch, channels, height, width), generator=torch.Generator().manual_seed(key % 1000))
    images = levels.byte() if dtype == torch.uint8 else (levels / 255).to(dtype)
    before = images.clone()
    result = augment(images, key=key, index=torch.arange(batch) + key // 3)
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert ((result >= 0) & (result <= (255 if dtype == torch.uint8 else 1))).all()
    assert torch.equal(images, before)
    # Nothing but the image's own values and the fill occurs.
    for image, got in zip(images, result, strict=True):
        new = got[~torch.isin(got.double(), image.double())]
        assert new.unique().numel() <= 1


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 1, 1)])
@pytest.mark.parametrize("augment", [CropFlip(4), CropFlip(0, fill="reflect"), Cutout(4), RandomErasing()], ids=repr)
def test_empty_and_tiny_images(augment, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.uint8):
        result = augment(torch.ones(shape, dtype=dtype), key=0)
        assert result.shape == shape
        assert result.dtype == dtype


def test_compose_gives_each_its_own_key() -> None:
    images, index = torch.rand(10, 3, 12, 12), torch.arange(10) + 50
    parts = [CropFlip(2), rand_augment(), CropFlip(2), Cutout(4)]
    result = Compose(*parts)(images, key=7, index=index)
    wanted = images
    for position, part in enumerate(parts):
        wanted = part(wanted, key=keys.derive(7, "compose", position), index=index)
    assert torch.equal(result, wanted)
    assert torch.equal(Compose()(images), images)
    torch.manual_seed(5)
    drawn = int(torch.randint(2**62, ()))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(Compose(*parts)(images), Compose(*parts)(images, key=drawn))
    assert torch.equal(torch.get_rng_state(), after)  # one number, however many parts


def test_compose_holds_modules_and_functions() -> None:
    def darken(images: Tensor, *, soft: bool, key: int | None, index: Tensor | None) -> Tensor:
        seen.append((soft, index))
        return images / 2

    seen: list[tuple[bool, Tensor | None]] = []
    policy = Policy(stages=1, operations=["Brightness"], selection="relaxed")
    augment = Compose(CropFlip(1), policy, darken, Compose(Cutout(2)))
    assert set(augment.state_dict()) == {f"augmentation1.{name}" for name in ("pi", "mu", "p")}
    images, index = torch.rand(6, 1, 5, 5), torch.arange(6)
    soft = augment(images, soft=True, key=1, index=index)
    assert torch.autograd.grad(soft.sum(), policy.mu)[0].abs().sum() > 0
    assert not augment(images, key=1).requires_grad
    assert [s for s, _ in seen] == [True, False]
    assert seen[0][1] is index


OK = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CropFlip(-1), "padding must be an integer of at least 0, in pixels; got -1"),
        (lambda: CropFlip(1.0), "got 1.0"),
        (lambda: CropFlip(True), "got True"),
        (lambda: CropFlip(flip=0.5), "flip must be True (mirror with probability 1/2) or False; got 0.5"),
        (lambda: CropFlip(fill="black"), "fill must be 'zeros' or 'reflect'; got 'black'"),
        (lambda: CropFlip(8, fill="reflect")(OK), "got padding=8 and images of 8 x 8"),
        (lambda: Cutout(0), "size must be an integer of at least 1, in pixels; got 0"),
        (lambda: Cutout(2.5), "got 2.5"),
        (lambda: Cutout(2, p=1.1), "p must be a number in [0, 1]; got 1.1"),
        (lambda: Cutout(2, p=float("nan")), "got nan"),
        (lambda: Cutout(2, fill=128), "fill must be a number in [0, 1]; got 128"),
        (lambda: RandomErasing("0.5"), "p must be a number in [0, 1]; got '0.5'"),
        (lambda: RandomErasing(fill=-1), "got -1"),
        (lambda: RandomErasing(area=0.3), "area must be two positive numbers, the smaller first, at most 1; got 0.3"),
        (lambda: RandomErasing(area=(0.3, 0.1)), "got (0.3, 0.1)"),
        (lambda: RandomErasing(area=(0.3, 1.1)), "got (0.3, 1.1)"),
        (lambda: RandomErasing(ratio=(0.3,)), "ratio must be two positive numbers, the smaller first; got (0.3,)"),
        (lambda: RandomErasing(ratio=(0, 3)), "got (0, 3)"),
        (lambda: RandomErasing(ratio=(1, float("inf"))), "got (1, inf)"),
        (lambda: RandomErasing(ratio=(1, float("nan"))), "got (1, nan)"),
        (lambda: Compose([CropFlip()]), "no list around them"),
        (lambda: Compose(CropFlip(), None), "got None at position 1"),
        (lambda: Compose(CropFlip), "objects, not classes"),
        (lambda: CropFlip()([1.0]), "got list"),
        (lambda: Cutout(2)(OK.byte()[0]), "(3, 8, 8)"),
        (lambda: Cutout(2)(OK[0]), "(3, 8, 8)"),
        (lambda: Cutout(2)(OK.int()), "dtype torch.int32"),
        (lambda: RandomErasing()(OK + 2), "from 2 to 2"),
        (lambda: RandomErasing()(OK / 0), "from nan to nan"),
        (lambda: CropFlip()(OK, index=torch.arange(3)), "shape (2,); got torch.int64 (3,)"),
        (lambda: Compose(CropFlip())(OK, index=torch.rand(2)), "got torch.float32"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call()
