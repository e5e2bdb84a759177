"""Stratified parts against their definition, and the helpers against slow twins."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data import (
    ImageSet,
    pad_images,
    resize_images,
    rotated,
    stratified_split,
    stratified_subset,
    to_channels,
)
from hypergrad.vision.data.base import channel_statistics

labels = st.lists(st.integers(0, 6), min_size=2, max_size=80)


def is_largest_remainder(taken: Counter, counts: Counter, total: int, limit: dict) -> bool:
    """Each class has the floor of its share (or its limit); those with one more have the largest remainders."""
    size = sum(counts.values())
    share = {c: Fraction(counts[c] * total, size) for c in counts}
    limited = any(taken[c] == limit[c] < math.ceil(share[c]) for c in counts)
    if limited:  # a limit bites: what it cuts off may go to any class that has room, none goes below its floor
        return all(taken[c] >= min(math.floor(share[c]), limit[c]) for c in counts)
    extra = [share[c] % 1 for c in counts if taken[c] == math.floor(share[c]) + 1]
    plain = [share[c] % 1 for c in counts if taken[c] == math.floor(share[c])]
    return len(extra) + len(plain) == len(counts) and min(extra, default=1) >= max(plain, default=0)


@given(labels, st.integers(1, 80), st.integers(0, 5))
def test_the_split_is_stratified_by_largest_remainder(values: list[int], count: int, seed: int) -> None:
    counts = Counter(values)
    limit = {c: n - 1 for c, n in counts.items()}
    targets = torch.tensor(values)
    if count > sum(limit.values()):
        with pytest.raises(InvalidInputError, match="cannot be held out"):
            stratified_split(targets, count, seed=seed)
        return
    rest, held_out = stratified_split(targets, count, seed=seed)
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(len(values)))
    assert len(held_out) == count and rest.equal(rest.sort().values) and held_out.equal(held_out.sort().values)
    assert set(targets[rest].tolist()) == set(values)  # one of each class stays
    assert is_largest_remainder(Counter(targets[held_out].tolist()), counts, count, limit)


@given(labels, st.data())
def test_the_subset_is_stratified_by_largest_remainder(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    targets = torch.tensor(values)
    rows = stratified_subset(targets, count, seed=3)
    assert len(set(rows.tolist())) == count
    assert is_largest_remainder(Counter(targets[rows].tolist()), Counter(values), count, Counter(values))


def test_the_split_is_a_function_of_its_arguments() -> None:
    targets = torch.arange(200) % 7
    first = stratified_split(targets, 0.25, seed=1)[1]
    torch.rand(3)  # the global generator has no part in it
    assert first.equal(stratified_split(targets, 0.25, seed=1)[1])
    assert first.equal(stratified_split(targets, 50, seed=1)[1])
    assert not first.equal(stratified_split(targets, 0.25, seed=2)[1])
    # Every image is held out by some seed.
    assert len(set(torch.cat([stratified_split(targets, 0.25, seed=s)[1] for s in range(40)]).tolist())) == 200


def test_a_tiny_share_holds_out_one() -> None:
    assert len(stratified_split(torch.tensor([0, 0, 1, 1]), 0.01, seed=0)[1]) == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), True])
def test_impossible_shares(value: float) -> None:
    with pytest.raises(InvalidInputError, match=r"share in \(0, 1\) or a whole number"):
        stratified_split(torch.tensor([0, 0, 1]), value, seed=0)


@pytest.mark.parametrize("value", [0, 4, 1.0])
def test_impossible_subsets(value: int) -> None:
    with pytest.raises(InvalidInputError, match="1 to 3 images"):
        stratified_subset(torch.tensor([0, 0, 1]), value, seed=0)


@pytest.mark.parametrize(
    "targets", [torch.zeros(3), torch.zeros(0).long(), torch.zeros(2, 2).long(), -torch.ones(2).long()]
)
def test_targets_that_are_none(targets: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="targets must be class numbers"):
        stratified_split(targets, 1, seed=0)


def test_statistics_equal_the_definition() -> None:
    images = torch.randint(0, 256, (700, 3, 4, 5), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    pixels = images.double().permute(1, 0, 2, 3).flatten(1) / 255
    assert mean == pytest.approx(pixels.mean(1).tolist(), abs=6e-5)
    assert std == pytest.approx([*pixels.std(1, correction=0)[:2].tolist(), 1.0], abs=6e-5)  # constant: 1
    # A part of them stands for all; another seed draws another part.
    parts = [channel_statistics(images, limit=100, seed=s)[0] for s in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2] and parts[0][0] == pytest.approx(mean[0], abs=0.05)


def test_resizing_halves_by_a_triangle_and_keeps_constants() -> None:
    images = torch.randint(0, 256, (5, 2, 12, 12), dtype=torch.uint8)
    small = resize_images(images, 6)
    for image, result in zip(images.flatten(0, 1), small.flatten(0, 1), strict=True):
        pillow = np.asarray(Image.fromarray(image.numpy()).resize((6, 6), Image.Resampling.BILINEAR))
        assert np.abs(pillow.astype(int) - result.numpy()).max() <= 1  # Pillow works with fixed-point weights
    assert resize_images(images, 12) is images
    assert resize_images(torch.full((600, 1, 8, 8), 7, dtype=torch.uint8), 3).unique().tolist() == [7]
    with pytest.raises(InvalidInputError, match="at least 1; got 0"):
        resize_images(images, 0)


def test_padding_is_black_around_the_image() -> None:
    images = torch.randint(1, 256, (2, 1, 28, 28), dtype=torch.uint8)
    padded = pad_images(images, 33)
    assert padded.shape == (2, 1, 33, 33) and padded[:, :, 2:30, 2:30].equal(images)
    assert padded.long().sum() == images.long().sum()
    with pytest.raises(InvalidInputError, match="28 x 28 cannot be padded to 27"):
        pad_images(images, 27)


def test_channels() -> None:
    grey = torch.randint(0, 256, (4, 1, 3, 3), dtype=torch.uint8)
    colour = to_channels(grey, 3)
    assert colour.equal(torch.cat([grey] * 3, 1)) and colour.data_ptr() == grey.data_ptr()
    assert to_channels(colour, 3) is colour
    with pytest.raises(InvalidInputError, match="3 channels for 1"):
        to_channels(colour, 1)


@pytest.mark.parametrize("shape", [(31, 31), (30, 44)])
def test_rotation_turns_rigidly(shape: tuple[int, int]) -> None:
    # A smooth bump off the centre: it keeps its distance from the centre, and its angle moves by at most the range.
    height, width = shape
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    bump = (255 * torch.exp(-((x - 8) ** 2 + y**2) / 8)).to(torch.uint8)
    turned = rotated(ImageSet(bump.expand(700, 1, -1, -1), torch.zeros(700).long()), 40, seed=5).images[:, 0].double()
    weight = turned.sum((1, 2))
    cx, cy = (turned * x).sum((1, 2)) / weight, (turned * y).sum((1, 2)) / weight
    radius, angle = (cx**2 + cy**2).sqrt(), torch.atan2(cy, cx) * 180 / math.pi
    assert (radius - 8).abs().max() < 0.15
    assert angle.abs().max() < 41 and angle.min() < -35 and angle.max() > 35
    assert abs(angle.std() - 80 / math.sqrt(12)) < 2  # uniform in +/- 40


def test_rotation_is_keyed_by_row_and_seed() -> None:
    images = torch.randint(0, 256, (6, 1, 9, 9), dtype=torch.uint8)
    whole = ImageSet(images, torch.arange(6))
    assert rotated(whole, 0, seed=0).images.equal(images)
    first = rotated(whole, 30, seed=0)
    assert first.images.equal(rotated(whole, 30, seed=0).images) and first.targets.equal(whole.targets)
    assert not first.images.equal(rotated(whole, 30, seed=1).images)
    assert rotated(whole.take(torch.arange(3)), 30, seed=0).images.equal(first.images[:3])
    with pytest.raises(InvalidInputError, match="0 to 180 degrees; got 181"):
        rotated(whole, 181, seed=0)
