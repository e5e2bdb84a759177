"""Which images train, validate and test: disjoint, stratified, keyed, and shifted where asked."""

import re
from dataclasses import replace

import pytest
import torch

from hypergrad.errors import InvalidInputError
from hypergrad.vision.config import DataConfig
from hypergrad.vision.data.base import Dataset, ImageSet
from hypergrad.vision.splits import Part, Splits, make_splits


def numbered(n: int, first: int = 0, channels: int = 1) -> ImageSet:
    """Images that tell their number by their first two pixels, in four classes."""
    images = torch.zeros((n, channels, 8, 8), dtype=torch.uint8)
    numbers = torch.arange(first, first + n)
    images[:, :, 0, 0] = (numbers // 256)[:, None].to(torch.uint8)
    images[:, :, 0, 1] = (numbers % 256)[:, None].to(torch.uint8)
    images[:, :, 3:5, 1:7] = 200
    return ImageSet(images, numbers % 4)


def dataset(**changes: object) -> Dataset:
    made = Dataset(
        name="numbers",
        classes=("a", "b", "c", "d"),
        train=numbered(400),
        test=numbered(100, 400),
        val=None,
        mean=(0.5,),
        std=(0.25,),
        flip=False,
    )
    return replace(made, **changes)


def numbers(part: Part) -> list[int]:
    images, _ = part.draw(torch.arange(len(part)))
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


def split(**settings: object) -> Splits:
    return make_splits(DataConfig(**settings), 3, dataset())


@pytest.mark.parametrize(("validation", "held_out"), [(0.1, 40), (0.25, 100), (60, 60)])
def test_validation_is_held_out_of_the_training_set_stratified(validation: float, held_out: int) -> None:
    splits = split(validation=validation)
    train, val = numbers(splits.train), numbers(splits.val)
    assert len(val) == held_out
    assert sorted(train + val) == list(range(400))
    assert numbers(splits.test) == list(range(400, 500))
    _, targets = splits.val.draw(torch.arange(held_out))
    assert torch.bincount(targets).tolist() == [held_out // 4] * 4


def test_the_seed_decides() -> None:
    config = DataConfig(validation=40, train_size=80, test_size=20)
    first, again, other = (make_splits(config, seed, dataset()) for seed in (3, 3, 4))
    for part in ("train", "val", "test"):
        assert numbers(getattr(first, part)) == numbers(getattr(again, part))
        assert numbers(getattr(first, part)) != numbers(getattr(other, part))
    assert (len(first.train), len(first.val), len(first.test)) == (80, 40, 20)
    assert not set(numbers(first.train)) & set(numbers(first.val))
    _, targets = first.train.draw(torch.arange(80))
    assert torch.bincount(targets).tolist() == [20] * 4


def test_a_publisher_s_validation_set_is_used() -> None:
    splits = make_splits(DataConfig(), 0, dataset(val=numbered(50, 600)))
    assert numbers(splits.val) == list(range(600, 650))
    assert len(splits.train) == 400


def test_a_set_without_test_images_has_none() -> None:
    assert make_splits(DataConfig(), 0, dataset(test=None)).test is None


def test_padding_and_channels() -> None:
    splits = split(pad_to=12, channels=3)
    assert (splits.side, splits.original_side, splits.channels) == (12, 8, 3)
    assert splits.mean == (0.5,) * 3
    images, _ = splits.train.draw(torch.arange(5))
    assert images.shape == (5, 3, 12, 12)
    assert images[:, :, :2].max() == 0
    assert torch.equal(images[:, 0], images[:, 2])


def test_only_validation_and_test_images_are_turned() -> None:
    plain, turned = split(), split(shift_degrees=30)
    assert numbers(turned.train) == numbers(plain.train)
    for part in ("val", "test"):
        before, targets = getattr(plain, part).draw(torch.arange(40))
        after, same = getattr(turned, part).draw(torch.arange(40))
        assert torch.equal(targets, same)
        changed = (before.float() - after.float()).abs().mean((1, 2, 3))
        assert (changed > 1).double().mean() > 0.8
        assert len(set(changed.tolist())) > 30  # an angle for each image


def test_batches_come_in_keyed_order() -> None:
    part = split().train
    order, again = part.order(32, 7), part.order(32, 7)
    assert torch.equal(order.batch(5)[0], again.batch(5)[0])
    assert len(order) == 360 // 32
    seen = torch.cat([order.batch(t)[0] for t in range(len(order))])
    assert len(seen.unique()) == len(seen)
    assert len(part.order(10_000, 0).batch(0)[0]) == 360


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"validation": 400},
            "a count below the 400 training images; got 400",
        ),
        ({"validation": 1.5}, "got 1.5"),
        ({"train_size": 361}, "data.train_size asks for 361 images; there are 360"),
        ({"test_size": 101}, "data.test_size asks for 101 images; there are 100"),
    ],
)
def test_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        split(**settings)


def test_colour_is_not_made_grey() -> None:
    with pytest.raises(InvalidInputError, match="holds colour images"):
        colour = dataset(train=numbered(40, channels=3), test=None, mean=(0.5,) * 3, std=(0.2,) * 3)
        make_splits(DataConfig(channels=1), 0, colour)
