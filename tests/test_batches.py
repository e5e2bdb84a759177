"""Where the drawing of batches stands, and how it is found again."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from hypergrad.batches import Drawing, KeyedBatches

DATA = TensorDataset(torch.arange(10.0))


class Noisy(torch.utils.data.Dataset):
    """Augments with torch's global generator."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(()) + index


def loader(**options):
    return DataLoader(DATA, batch_size=3, **options)


def own():
    return torch.Generator().manual_seed(4)


SOURCES = {
    "nothing": lambda: None,
    "keyed": lambda: KeyedBatches(DATA.tensors[0], batch_size=3),
    "list": lambda: [(torch.tensor(float(i)),) for i in range(4)],
    "loader": loader,
    "shuffling": lambda: loader(shuffle=True),
    "own generator": lambda: loader(shuffle=True, generator=own()),
    "sampler": lambda: loader(sampler=RandomSampler(DATA, replacement=True, num_samples=40, generator=own())),
    "workers": lambda: loader(shuffle=True, num_workers=1),
    "augmented": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_drawing_goes_on_from_any_place(source):
    places = (0, 2, 4, 9) if source != "workers" else (6,)
    states, drawn, generators = [], [], []
    draw = Drawing(SOURCES[source](), "data")
    draw(0)  # a trial, as the preflight makes
    for t in range(12):
        states.append(draw.state_dict())
        generators.append(torch.get_rng_state())
        drawn.append(draw(t))
    for place in places:
        torch.manual_seed(77)
        again = Drawing(SOURCES[source](), "data")
        before = torch.get_rng_state()
        again.load_state_dict(states[place])
        assert torch.equal(torch.get_rng_state(), before)
        torch.set_rng_state(generators[place])
        if place:
            assert same(again.last, drawn[place - 1])
        for t in range(place, 12):
            assert same(again(t), drawn[t]), f"batch {t} after {place}"


def same(a, b) -> bool:
    if a is None or b is None:
        return a is b
    return all(torch.equal(x, y) for x, y in itertools.zip_longest(a, b))


def test_two_loaders_may_share_a_generator():
    def pair():
        shared = own()
        return [Drawing(loader(shuffle=True, generator=shared), name) for name in ("train", "val")]

    train, val = pair()
    for t in range(6):
        train(t)
        if t == 1:
            val(0)
    states = train.state_dict(), val.state_dict()
    expected = [train(6), val(1), val(2), val(3), val(4), train(7), train(8)]
    train, val = pair()
    for draw, state in zip((train, val), states, strict=True):
        draw.load_state_dict(state)
    found = [train(6), val(1), val(2), val(3), val(4), train(7), train(8)]
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
