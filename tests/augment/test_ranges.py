"""The named ranges against the published formulas, written out here; and the two other sources of a gradient."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image
from torch import Tensor

from hypergrad.augment import PAPER_OPERATIONS, RANGES, Operation, Policy, get_operation, operation_names, rand_augment
from hypergrad.augment.mixture import Choice, Mixture
from hypergrad.errors import UnknownNameError

BINS = {"autoaugment": 10, "randaugment": 30, "trivialaugment-wide": 31}
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
COLOUR = ("Color", "Contrast", "Brightness", "Sharpness")
FULL = ("Invert", "AutoContrast", "Equalize")
DISCRETE = ("Solarize", "Posterize", "Equalize")
EXACT = [name for name in PAPER_OPERATIONS if name not in DISCRETE]


def published(name: str, ranges: str, m: float, sign: int) -> float:
    """The amount at magnitude m; translations in parts of the side (wide: pixels), solarize in levels."""
    wide = ranges == "trivialaugment-wide"
    if name in COLOUR:
        return 1 + (0.99 if wide else 0.9) * m * sign
    return {
        "ShearX": (0.99 if wide else 0.3) * m * sign,
        "ShearY": (0.99 if wide else 0.3) * m * sign,
        "TranslateX": (32 if wide else 150 / 331) * m * sign,
        "TranslateY": (32 if wide else 150 / 331) * m * sign,
        "Rotate": (135 if wide else 30) * m * sign,
        "Posterize": 8 - round((6 if wide else 4) * m),
        "Solarize": 255 * (1 - m),
        "Invert": 1,
        "AutoContrast": 1,
        "Equalize": 1,
    }[name]


def photograph() -> np.ndarray:
    """A colour photograph, 44 x 53 (not square)."""
    return np.ascontiguousarray(load_sample_image("china.jpg")[::9, ::12][:44, :53])


def as_tensor(array: np.ndarray) -> Tensor:  # (1, 3, H, W)
    return (torch.from_numpy(array.copy()) / 255).permute(2, 0, 1)[None]


def as_levels(images: Tensor) -> np.ndarray:  # (H, W, 3)
    return (images[0].permute(1, 2, 0) * 255).round().numpy().astype(np.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ranges", BINS)
@pytest.mark.parametrize("name", PAPER_OPERATIONS)
def test_amounts_are_the_published_ones(name: str, ranges: str, dtype: torch.dtype) -> None:
    bins = BINS[ranges]
    magnitude = torch.arange(bins, dtype=dtype) / (bins - 1)
    for sign in (-1, 1):
        amount = get_operation(name, ranges).amount(magnitude, torch.full_like(magnitude, sign)).double()
        wanted = torch.tensor([published(name, ranges, i / (bins - 1), sign) for i in range(bins)]).double()
        if name == "Posterize":
            assert torch.equal(amount.round(), wanted)  # the operation rounds
        elif name == "Solarize":
            assert (amount * 255 - wanted).abs().max() < 0.51  # which is not a whole level
        elif name in FULL:
            assert torch.equal(amount, wanted)
        else:
            assert torch.allclose(amount, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ranges", [*BINS, "madao"])
def test_records_other_than_the_amounts(ranges: str) -> None:
    for name in PAPER_OPERATIONS:
        record = get_operation(name, ranges)
        assert record.signed == (name in (*GEOMETRIC, *COLOUR))
        bare = ranges != "madao" and name in FULL
        discrete = "straight-through" if name in DISCRETE else "exact"
        assert record.gradient == ("none" if bare else discrete)
        assert record.unit == get_operation(name).unit or (ranges, record.unit) == ("trivialaugment-wide", "pixels")
    assert get_operation("Identity", ranges) == get_operation("Identity")


def test_ranges_name_operations_and_fields_that_exist() -> None:
    fields = {field.name for field in dataclasses.fields(Operation)}
    assert set(RANGES) == {*BINS, "madao"}
    for changes in RANGES.values():
        assert set(changes) <= set(operation_names())
        assert all(set(entry) < fields - {"name"} for entry in changes.values())
    assert all(get_operation(name, "madao") == get_operation(name) for name in operation_names())


@pytest.mark.parametrize("ranges", BINS)
@pytest.mark.parametrize("name", [*COLOUR, *FULL, "Posterize"])
def test_images_equal_pillow(name: str, ranges: str) -> None:
    picture, bins = Image.fromarray(photograph()), BINS[ranges]
    calls: dict[str, Callable[[float], Image.Image]] = {
        "Invert": lambda _: ImageOps.invert(picture),
        "AutoContrast": lambda _: ImageOps.autocontrast(picture),
        "Equalize": lambda _: ImageOps.equalize(picture),
        "Posterize": lambda bits: ImageOps.posterize(picture, int(bits)),
        "Color": lambda factor: ImageEnhance.Color(picture).enhance(factor),
        "Contrast": lambda factor: ImageEnhance.Contrast(picture).enhance(factor),
        "Brightness": lambda factor: ImageEnhance.Brightness(picture).enhance(factor),
        "Sharpness": lambda factor: ImageEnhance.Sharpness(picture).enhance(factor),
    }
    record = get_operation(name, ranges)
    for i in range(bins):
        m, sign = torch.tensor([i / (bins - 1)]), torch.tensor([(-1.0) ** i])
        theirs = np.asarray(calls[name](published(name, ranges, i / (bins - 1), (-1) ** i))).astype(np.int64)
        # Pillow's autocontrast and enhancements cut off instead of rounding.
        levels = 0 if name in ("Invert", "Equalize", "Posterize") else 1
        assert np.abs(as_levels(record(as_tensor(photograph()), m, sign)) - theirs).max() <= levels
        exported = np.asarray(record.pillow(picture, record.amount(m, sign).item())).astype(np.int64)
        assert np.abs(exported - theirs).max() <= levels


@pytest.mark.parametrize("ranges", BINS)
def test_solarize_differs_from_the_published_at_the_threshold_only(ranges: str) -> None:
    array, bins = photograph().astype(np.int64), BINS[ranges]
    array[:4, :, :] = np.arange(4 * 53 * 3).reshape(4, 53, 3) % 256  # every level
    for i in range(bins):
        threshold = published("Solarize", ranges, i / (bins - 1), 1)
        wanted = np.where(array >= threshold, 255 - array, array)
        ours = as_levels(get_operation("Solarize", ranges)(as_tensor(array), torch.tensor([i / (bins - 1)])))
        far = np.abs(array - threshold) > 1
        assert np.array_equal(ours[far], wanted[far])
        assert far.mean() > 0.9
    assert np.array_equal(ours, 255 - array)  # at magnitude 1 all is inverted
    assert torch.equal(
        get_operation("Solarize", ranges)(torch.ones(1, 1, 2, 2), torch.zeros(1)), torch.ones(1, 1, 2, 2)
    )


@pytest.mark.parametrize("ranges", BINS)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_equals_pillow_inside(name: str, ranges: str) -> None:
    array = photograph()
    height, width, _ = array.shape
    planes = [Image.fromarray(array[..., c].astype(np.float32)) for c in range(3)]
    record = get_operation(name, ranges)
    for m in (1 / 3, 2 / 3, 1.0):
        for sign in (-1, 1):
            v = published(name, ranges, m, sign)
            side = 1 if ranges == "trivialaugment-wide" else {"TranslateX": width, "TranslateY": height}.get(name, 1)
            coefficients = {
                "ShearX": (1, v, -v * height / 2, 0, 1, 0),
                "ShearY": (1, 0, 0, v, 1, -v * width / 2),
                "TranslateX": (1, 0, v * side, 0, 1, 0),
                "TranslateY": (1, 0, 0, 0, 1, v * side),
            }
            bilinear = Image.Resampling.BILINEAR
            theirs = [
                plane.rotate(v, bilinear)
                if name == "Rotate"
                else plane.transform(plane.size, Image.Transform.AFFINE, coefficients[name], bilinear)
                for plane in planes
            ]
            strength = torch.tensor([m], dtype=torch.float64), torch.tensor([sign], dtype=torch.float64)
            ours = record(as_tensor(array).double(), *strength)[0] * 255
            # Inside: where all four neighbours lie in the image. Pillow repeats the border, the warp fades to black.
            inside = record(torch.ones(1, 1, height, width, dtype=torch.float64), *strength)[0, 0] > 1 - 1e-9
            assert inside.double().mean() > 0.2
            difference = (ours - torch.from_numpy(np.stack(theirs)))[:, inside].abs().max()
            assert difference < 0.05  # Pillow rotates in 16.16 fixed point or float32
            picture = record.pillow(Image.fromarray(array), record.amount(*strength).item())
            exported = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            assert (ours - exported)[:, inside].abs().max() < 1.05


@pytest.mark.parametrize("size", [40, 57, 24])
def test_the_wide_translation_is_by_pixels(size: int) -> None:
    images = torch.rand(2, 3, size, size + 3, dtype=torch.float64)
    full, signs = torch.ones(2), torch.tensor([1.0, -1.0])
    for name, dimension in (("TranslateX", 2), ("TranslateY", 1)):
        result = get_operation(name, "trivialaugment-wide")(images, full, signs)
        length = images.shape[dimension + 1]
        wanted = torch.zeros_like(images)
        if length > 32:
            wanted[0].narrow(dimension, 0, length - 32).copy_(images[0].narrow(dimension, 32, length - 32))
            wanted[1].narrow(dimension, 32, length - 32).copy_(images[1].narrow(dimension, 0, length - 32))
        assert torch.allclose(result, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranges", ["autoaugment", "randaugment"])
def test_the_translation_is_by_150_of_331(ranges: str) -> None:
    images = torch.rand(1, 1, 3, 331, dtype=torch.float64)
    result = get_operation("TranslateX", ranges)(images, torch.ones(1, dtype=torch.float64))
    wanted = torch.cat([images[..., 150:], torch.zeros(1, 1, 3, 150)], -1)
    assert torch.allclose(result, wanted, rtol=0, atol=1e-10)


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    """Images, magnitudes and signs, for gradients."""
    images = (torch.rand(6, 3, 20, 17, dtype=torch.float64) * 0.9 + 0.05).requires_grad_()
    magnitude = torch.linspace(0.15, 0.95, 6, dtype=torch.float64).requires_grad_()
    return images, magnitude, torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("name", DISCRETE)
def test_the_unit_rule_passes_the_magnitude_straight_through(name: str, ranges: str) -> None:
    images, magnitude, sign = leaves()
    record = get_operation(name, ranges)
    plain, unit = (record(images, magnitude, sign, straight_through=rule) for rule in ("surrogate", "unit"))
    assert torch.equal(plain, unit)
    upstream = torch.randn_like(images)
    to_images, to_magnitude = torch.autograd.grad(unit, (images, magnitude), upstream, allow_unused=True)
    if ranges != "madao" and name == "Equalize":
        assert to_magnitude is None  # it has no strength there
    else:
        assert torch.allclose(to_magnitude, upstream.sum((1, 2, 3)), rtol=1e-12)
        (other,) = torch.autograd.grad(plain, magnitude, upstream, retain_graph=True)
        assert not torch.allclose(to_magnitude, other, rtol=0.1)
    assert torch.equal(to_images, torch.autograd.grad(plain, images, upstream)[0])


@pytest.mark.parametrize("name", EXACT)
def test_the_unit_rule_leaves_exact_operations_alone(name: str) -> None:
    images, magnitude, sign = leaves()
    record = get_operation(name)
    upstream = torch.randn_like(images)
    plain, unit = (record(images, magnitude, sign, straight_through=rule) for rule in ("surrogate", "unit"))
    assert torch.equal(plain, unit)
    plain_grads, unit_grads = (torch.autograd.grad(r, (images, magnitude), upstream) for r in (plain, unit))
    assert all(map(torch.equal, plain_grads, unit_grads))
    assert (unit_grads[1] != 0).all()


@pytest.mark.parametrize("name", [*FULL, "Identity"])
@pytest.mark.parametrize("ranges", BINS)
def test_without_a_strength_there_is_no_magnitude_gradient(name: str, ranges: str) -> None:
    images, magnitude, _ = leaves()
    record = get_operation(name, ranges)
    for rule in ("surrogate", "unit"):
        result = record(images, magnitude, straight_through=rule)
        assert torch.equal(result, get_operation(name)(images, torch.ones(6)))
        to_magnitude, to_images = torch.autograd.grad(result.square().sum(), (magnitude, images), allow_unused=True)
        assert to_magnitude is None
        assert (to_images != 0).double().mean() > 0.9
        assert not record(images.detach(), magnitude, straight_through=rule).requires_grad


def test_one_operation_per_image_follows_the_same_rules() -> None:
    images, magnitude, sign = leaves()
    records = [get_operation(name) for name in DISCRETE] + [get_operation("AutoContrast", "autoaugment")]
    pick = torch.tensor([0, 1, 2, 3, 4, 1])  # 4: none
    upstream = torch.randn_like(images)
    total = upstream.sum((1, 2, 3))
    result = Mixture(records, "unit")(images, Choice(pick, magnitude, sign))
    (grad,) = torch.autograd.grad(result, magnitude, upstream)
    assert torch.allclose(grad, torch.where(pick < 3, total, 0), rtol=1e-12)
    assert torch.equal(Mixture(records)(images, Choice(pick, magnitude, sign)), result)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_operation("Rotate", "wide"), "Unknown ranges 'wide'"),
        (lambda: get_operation("Rotate", "randaugmnt"), "Did you mean 'randaugment'?"),
        (lambda: get_operation("Rotate", "auto"), "There are: madao, autoaugment, randaugment, trivialaugment-wide."),
        (lambda: get_operation("Rotate", None), "Unknown ranges None"),
        (lambda: Policy(ranges="paper"), "Unknown ranges 'paper'"),
        (lambda: rand_augment(ranges="RandAugment"), "Unknown ranges 'RandAugment'. Did you mean 'randaugment'?"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        call()
