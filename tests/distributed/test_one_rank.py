"""Without other ranks nothing is reduced, copied or asked; and what can be said of several without starting them."""

import pytest
import torch

import hypergrad
from hypergrad import distributed, reductions
from hypergrad.estimators.graph_over_ranks import mean_of_gradients, shared
from hypergrad.reductions import MeanOverRanks

T = torch.arange(3.0)


def test_one_rank_gets_the_very_tensors_back():
    ranks = MeanOverRanks.of((T,))
    assert ranks.single and ranks.share == 1 and ranks.offset == 0
    assert ranks.mean(T) is T
    assert ranks.mean_each([T, None], [T, T]) == [T, None]
    assert ranks.total_each([None, T], [T, T])[1] is T
    assert ranks.mean_dict({"a": T, "b": None}, {"a": T, "b": T})["a"] is T
    assert shared(ranks, {"a": T})["a"] is T
    assert mean_of_gradients(ranks, [T, None], [T, T])[0] is T


def test_one_rank_is_the_first_and_the_writer_and_waits_for_nobody():
    assert (distributed.rank(), distributed.world_size(), distributed.is_writer()) == (0, 1, True)
    distributed.barrier()
    distributed.agree({"x": "0" * 64}, {"x": ""})
    assert distributed.gather([3, 4]) == [[3, 4]]
    reductions.poll_together()


def test_shares_and_places_of_three_ranks():
    shards = [MeanOverRanks((7, 1, 6), r) for r in range(3)]
    assert [s.offset for s in shards] == [0, 7, 8]
    assert sum(s.share for s in shards) == pytest.approx(1, abs=1e-15)
    assert shards[1].samples == 14 and not shards[1].single


@pytest.mark.parametrize(("batch", "rows"), [(None, -1), ((), -1), ((3, "x"), -1), ((T.sum(),), -1), ((3, T), 3)])
def test_rows_of_a_batch(batch, rows):
    assert MeanOverRanks.rows(batch) == rows


def test_within_alone_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert (distributed.rank(), distributed.world_size(), distributed.is_writer()) == (1, 2, False)
    with distributed.alone():
        assert (distributed.rank(), distributed.world_size(), distributed.is_writer()) == (0, 1, True)
        assert MeanOverRanks.of((T,)).single
    assert distributed.world_size() == 2


@pytest.mark.parametrize(("size", "ranks", "sizes"), [(32, 3, [11, 11, 10]), (7, 2, [4, 3]), (3, 3, [1, 1, 1])])
def test_the_parts_of_keyed_batches_are_the_batch(size, ranks, sizes):
    data = hypergrad.KeyedBatches(torch.randn(40, 2), torch.arange(40), batch_size=size, seed=3)
    parts = [data.shard(r, ranks) for r in range(ranks)]
    for t in (0, 1, 45):
        whole, cut = data.batch(t), [part.batch(t) for part in parts]
        assert [len(c[0]) for c in cut] == sizes
        for k in range(3):
            assert torch.equal(torch.cat([c[k] for c in cut]), whole[k])
    assert len(parts[0]) == len(data) and not data.sharded and parts[0].sharded


@pytest.mark.parametrize(
    ("rank", "ranks", "message"),
    [(0, 5, "Batches of 4 rows cannot be cut into part 0 of 5"), (2, 2, "part 2 of 2"), (-1, 2, "part -1 of 2")],
)
def test_impossible_parts_are_refused(rank, ranks, message):
    data = hypergrad.KeyedBatches(torch.randn(9, 2), batch_size=4)
    with pytest.raises(hypergrad.InvalidInputError, match=message):
        data.shard(rank, ranks)


def test_batches_are_cut_once():
    data = hypergrad.KeyedBatches(torch.randn(9, 2), batch_size=4).shard(1, 2)
    with pytest.raises(hypergrad.InvalidInputError, match="part 1 of 2 cannot be cut into part 0 of 2.*cut once"):
        data.shard(0, 2)
