"""Keyed randomness: equal keys draw equal numbers, and different ones draw as if independent."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hypergrad import keys

N = 50_000
parts = st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5))


def draw(key: int, n: int = N, slots: int = 1, start: int = 0) -> np.ndarray:
    return keys.uniform(key, torch.arange(start, start + n), slots, torch.float64).numpy()


# ---- derive


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=4))
def test_derive_is_a_function_of_its_parts(a: list[int | str], b: list[int | str]) -> None:
    assert keys.derive(*a) == keys.derive(*a)
    assert 0 <= keys.derive(*a) < 2**63
    typed = [[(type(p), p) for p in x] for x in (a, b)]
    assert (keys.derive(*a) == keys.derive(*b)) == (typed[0] == typed[1])


def test_derive_is_pinned() -> None:
    # A change of this number would break the resumption of every saved run.
    assert keys.derive(0, "policy", 3) == 2081693468894179552
    assert keys.derive(1) != keys.derive("1")
    assert keys.derive("a", "b") != keys.derive("ab")


def test_uniform_is_pinned() -> None:
    got = keys.uniform(12345, torch.tensor([0, 1, 2**40]), 2, torch.float64)
    assert torch.equal(
        got,
        torch.tensor(
            [
                [0.6605543494224548, 0.3733188509941101],
                [0.24720114469528198, 0.7226062417030334],
                [0.8120881915092468, 0.07272392511367798],
            ],
            dtype=torch.float64,
        ),
    )


# ---- uniform: shape, type, range


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), st.integers(0, 5))
def test_open_interval_for_every_key_and_index(key: int, index: list[int], slots: int) -> None:
    u = keys.uniform(key, torch.tensor(index, dtype=torch.int64), slots)
    assert u.shape == (len(index), slots) and u.dtype == torch.float32
    assert bool(((u > 0) & (u < 1)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_extreme_draws_stay_inside_and_leave_finite_gumbel_noise(dtype: torch.dtype) -> None:
    u = keys.uniform(0, torch.tensor([28850603, 1417099]), 1, dtype)[:, 0]  # found by search
    assert u.tolist() == [2.0**-24, 1 - 2.0**-24]  # the ends of the grid of 23 bits
    assert torch.isfinite(-torch.log(-torch.log(u))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_low_precision_is_drawn_in_float32(dtype: torch.dtype) -> None:
    u = keys.uniform(1, torch.arange(1000), 3, dtype)
    assert u.dtype == torch.float32
    assert torch.equal(u, keys.uniform(1, torch.arange(1000), 3))


def test_float32_and_float64_hold_the_same_values() -> None:
    index = torch.arange(1000)
    assert torch.equal(keys.uniform(7, index, 4, torch.float32).double(), keys.uniform(7, index, 4, torch.float64))


# ---- uniform: what it depends on


@given(st.integers(0, 2**63 - 1), st.permutations(range(12)), st.integers(1, 11))
def test_a_shard_draws_what_the_whole_batch_would(key: int, order: list[int], cut: int) -> None:
    index = torch.tensor(order) * 977
    whole = keys.uniform(key, index, 3)
    shards = [keys.uniform(key, part, 3) for part in (index[:cut], index[cut:])]
    assert torch.equal(whole, torch.cat(shards))


def test_more_slots_keep_the_first_ones() -> None:
    index = torch.arange(100)
    assert torch.equal(keys.uniform(5, index, 8)[:, :3], keys.uniform(5, index, 3))


def test_equal_indices_draw_equal_rows_and_the_integer_type_does_not_matter() -> None:
    u = keys.uniform(5, torch.tensor([3, 9, 3]), 4)
    assert torch.equal(u[0], u[2]) and not torch.equal(u[0], u[1])
    assert torch.equal(u, keys.uniform(5, torch.tensor([3, 9, 3], dtype=torch.int32), 4))


def test_the_global_random_state_is_not_used() -> None:
    before = torch.get_rng_state()
    first = keys.uniform(5, torch.arange(10), 2)
    torch.manual_seed(99)
    assert torch.equal(first, keys.uniform(5, torch.arange(10), 2))
    torch.set_rng_state(before)
    keys.uniform(5, torch.arange(10), 2)
    assert torch.equal(torch.get_rng_state(), before)


# ---- uniform: quality. Deterministic; the bounds are what true randomness would pass about always.

KEYS = [0, 1, 2**32, 2**63 - 1, keys.derive(0, "policy", 0), keys.derive(0, "policy", 1)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("start", [0, 2**31, 2**45])
def test_moments_and_kolmogorov_smirnov(key: int, start: int) -> None:
    u = draw(key, start=start)[:, 0]
    assert abs(u.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / N)
    assert abs(u.var() - 1 / 12) < 4.5 * np.sqrt(1 / 180 / N)
    assert stats.kstest(u, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("key", KEYS)
def test_one_sample_over_many_slots_is_uniform(key: int) -> None:
    u = draw(key, n=1, slots=N)[0]
    assert stats.kstest(u, "uniform").pvalue > 1e-4


def test_one_place_over_many_keys_is_uniform() -> None:
    consecutive = np.array([draw(k, n=1)[0, 0] for k in range(2000)])
    derived = np.array([draw(keys.derive(0, "policy", k), n=1)[0, 0] for k in range(2000)])
    for u in (consecutive, derived):
        assert stats.kstest(u, "uniform").pvalue > 1e-4


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's coefficient in units of its standard deviation under independence."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size)


@pytest.mark.parametrize("key", KEYS)
def test_neighbours_are_uncorrelated(key: int) -> None:
    u = draw(key, slots=8)
    for lag in (1, 2, 7, 64, 1024):
        assert abs(correlation(u[:-lag], u[lag:])) < 4.5, f"indices {lag} apart"
    for a in range(8):
        for b in range(a):
            assert abs(correlation(u[:, a], u[:, b])) < 4.5, f"slots {b} and {a}"
    for other in (key ^ 1, key ^ 2**31, key ^ 2**32, key ^ 2**62):
        assert abs(correlation(u, draw(other, slots=8))) < 4.5, f"keys {key} and {other}"


@pytest.mark.parametrize("key", KEYS)
def test_pairs_fill_the_square_evenly(key: int) -> None:
    # Sees dependence that a correlation does not.
    u = draw(key, slots=2)
    for pair in (u, np.stack([u[:-1, 0], u[1:, 0]], 1)):
        counts = np.histogram2d(pair[:, 0], pair[:, 1], bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4


@pytest.mark.parametrize("bit", [0, 1, 5, 16, 31, 32, 40])
def test_each_bit_of_the_index_reaches_the_result(bit: int) -> None:
    index = torch.arange(20_000) * 7919
    a, b = (keys.uniform(11, i, 1, torch.float64) for i in (index, index ^ (1 << bit)))
    flips = ((a * 2**23).long() ^ (b * 2**23).long())[:, 0]
    share = torch.stack([(flips >> k & 1).double().mean() for k in range(23)])  # of samples, per output bit
    assert bool(((share - 0.5).abs() < 4.5 * 0.5 / 20_000**0.5).all())


# ---- generators


def test_generator() -> None:
    a, b = (torch.rand(3, generator=keys.generator(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(3, generator=keys.generator(6)))


@pytest.mark.parametrize("key", [None, 17])
def test_preserved_rng_leaves_the_global_state_bit_equal(key: int | None) -> None:
    torch.rand(3)
    before = torch.get_rng_state()
    with keys.preserved_rng(torch.device("cpu"), key):
        inside = torch.rand(5)
        torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    after = torch.rand(5)
    # Without a key the block goes on from the outer state; with one it starts from the key.
    assert torch.equal(inside, after) == (key is None)
    with keys.preserved_rng(torch.device("cpu"), key):
        again = torch.rand(5)
    assert torch.equal(inside, again) == (key is not None)


def test_preserved_rng_restores_after_an_exception() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), keys.preserved_rng(torch.device("cpu"), 3):
        torch.rand(1)
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), before)
