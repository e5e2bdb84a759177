"""Random resized crops against their definition, a slow twin and a closed form."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from hypergrad import keys
from hypergrad.augment.resized_crop import ResizedCropFlip
from hypergrad.errors import InvalidInputError


def test_equals_cutting_and_resizing_one_by_one() -> None:
    crop = ResizedCropFlip(17, area=(0.2, 0.9))
    images = torch.rand(20, 3, 40, 33, dtype=torch.float64)
    result = crop(images, key=3)
    uniform = keys.uniform(3, torch.arange(20), crop.slots, torch.float64)
    flipped = 0
    for i, (top, left, tall, wide) in enumerate(zip(*crop.boxes(uniform, 40, 33), strict=True)):
        part = images[i : i + 1, :, top : top + tall, left : left + wide]
        wanted = F.interpolate(part, (17, 17), mode="bilinear", align_corners=False)
        if uniform[i, 0] < 0.5:
            wanted, flipped = wanted.flip(3), flipped + 1
        # At the part's edge the twin repeats its outermost pixels, the crop goes on into the image.
        inner = slice(3, -3)
        assert torch.allclose(result[i : i + 1, :, inner, inner], wanted[:, :, inner, inner], atol=1e-12)
    assert 0 < flipped < 20


def test_the_distribution_of_the_parts() -> None:
    crop = ResizedCropFlip(8)
    n, height, width = 20_000, 200, 200
    top, left, tall, wide = crop.boxes(keys.uniform(0, torch.arange(n), crop.slots), height, width)
    share = (tall * wide).double() / (height * width)
    ratio = (wide.double() / tall).log()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()
    assert share.min() > 0.078 and share.max() <= 1
    assert abs(ratio.mean()) < 0.01
    # Parts below half of the image always fit, and keep the uniform distribution of their area.
    small = share[share < 0.5]
    assert small.mean().item() == pytest.approx((0.08 + 0.5) / 2, abs=4 * 0.12 / len(small) ** 0.5)
    assert ratio.abs().max() < math.log(4 / 3) + 0.02
    place = top.double() / (height - tall).clamp(min=1)
    assert place[tall < 150].mean().item() == pytest.approx(0.5, abs=0.02)


def test_what_never_fits_gives_the_central_square() -> None:
    images = torch.rand(3, 1, 8, 64, dtype=torch.float64)
    result = ResizedCropFlip(8, area=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)(images, key=0)
    assert torch.allclose(result, images[..., 28:36], atol=1e-12)


def test_the_whole_image_is_the_identity_and_a_constant_stays() -> None:
    crop = ResizedCropFlip(9, area=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    assert torch.allclose(crop(images, key=0), images, atol=1e-12)
    flat = torch.full((4, 3, 20, 30), 0.37, dtype=torch.float64)
    assert torch.allclose(ResizedCropFlip(11)(flat, key=1), torch.tensor(0.37, dtype=torch.float64), atol=1e-12)


def test_shards_dtypes_and_gradients() -> None:
    crop, index = ResizedCropFlip(12), torch.randperm(100)[:10]
    images = torch.rand(10, 3, 16, 18)
    whole = crop(images, key=2, index=index)
    assert torch.allclose(crop(images[4:], key=2, index=index[4:]), whole[4:], atol=1e-6)
    eight_bit = (images * 255).round().to(torch.uint8)
    assert (crop(eight_bit, key=2, index=index).float() / 255 - whole).abs().max() < 1.01 / 255
    assert crop(eight_bit, key=2).dtype == torch.uint8
    for batch in (0, 1):
        assert crop(images[:batch].bfloat16(), key=2).shape == (batch, 3, 12, 12)
    images.requires_grad_()
    (grad,) = torch.autograd.grad(crop(images, key=2).sum(), images)
    assert grad.sum().item() == pytest.approx(10 * 3 * 144, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResizedCropFlip(0), "size must be an integer of at least 1, in pixels; got 0"),
        (lambda: ResizedCropFlip(8, flip=1), "flip must be True"),
        (lambda: ResizedCropFlip(8, area=(0.5, 0.1)), "area must be two positive numbers"),
        (lambda: ResizedCropFlip(8, area=(0.5, 2)), "at most 1"),
        (lambda: ResizedCropFlip(8, ratio=(0, 1)), "ratio must be two positive numbers"),
        (lambda: ResizedCropFlip(8)(torch.rand(3, 8, 8)), "(3, 8, 8)"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call()
