"""The order of a stream: each sample once in each pass, the same wherever one begins, and the same for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitok.latents.index import read_index
from vitok.latents.order import StreamOrder, lay_blocks, shuffled

COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def order_of(counts, seed=0, window=3, shuffle=True):
    return StreamOrder(np.array(counts), entropy=(seed, 0, 1, 1, 1), window=window, shuffle=shuffle)


def pairs(places):
    return list(zip(places.block.tolist(), places.number.tolist(), strict=True))


@given(COUNTS, st.integers(0, 5), st.integers(1, 5), st.booleans())
def test_each_pass_holds_each_sample_once(counts, number, window, shuffle):
    order, total = order_of(counts, window=window, shuffle=shuffle), sum(counts)
    places = order.places(number * total, (number + 1) * total)
    assert sorted(pairs(places)) == [(block, row) for block, count in enumerate(counts) for row in range(count)]
    assert set(places.round.tolist()) == {number}


@given(COUNTS, st.data())
def test_any_piece_is_that_piece_of_the_whole(counts, data):
    end = 3 * sum(counts)
    start = data.draw(st.integers(0, end))
    stop = data.draw(st.integers(start, end))
    whole, piece = order_of(counts).places(0, end), order_of(counts).places(start, stop)
    assert pairs(piece) == pairs(whole)[start:stop]
    for name in ("round", "window"):
        assert getattr(piece, name).tolist() == getattr(whole, name).tolist()[start:stop]


@given(COUNTS, st.integers(1, 5))
def test_a_window_mixes_so_many_blocks_and_none_comes_back(counts, window):
    places = order_of(counts, window=window).places(0, 2 * sum(counts))
    assert (np.diff(places.window) >= 0).all()
    held = {}
    for number, block in zip(places.window.tolist(), places.block.tolist(), strict=True):
        held.setdefault(number, set()).add(block)
    assert max(map(len, held.values())) <= window
    assert sum(map(len, held.values())) == 2 * len(counts)


def test_passes_seeds_and_windows_differ():
    counts = [50] * 20
    first = pairs(order_of(counts).places(0, 1000))
    assert pairs(order_of(counts).places(1000, 2000)) != first
    assert pairs(order_of(counts, seed=1).places(0, 1000)) != first
    assert pairs(order_of(counts, window=4).places(0, 1000)) != first


def test_without_shuffling_it_is_the_stores_order():
    places = order_of([2, 3], shuffle=False).places(0, 10)
    assert pairs(places) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)] * 2


def test_the_order_is_the_one_that_it_always_was():
    # Golden: a run that goes on with a later version must find the same order.
    assert shuffled(10, (1, 2, 3)).tolist() == [1, 8, 2, 4, 6, 5, 0, 9, 7, 3]
    assert pairs(order_of([2, 3, 1]).places(0, 6)) == [(2, 0), (1, 1), (1, 0), (0, 0), (0, 1), (1, 2)]


@pytest.fixture(scope="module")
def index(tmp_path_factory, write_latent_store):
    path = tmp_path_factory.mktemp("order") / "latents"
    return read_index(write_latent_store(path, shards=[((1, 1, 1), 7), ((1, 1, 2), 3), ((1, 1, 1), 8)]).url)


@pytest.mark.parametrize("block_rows", [1, 3, 4, 7, 100, None])
def test_blocks_cover_a_bucket(index, block_rows):
    for bucket, shards in enumerate([(0, 2), (1,)]):
        blocks = lay_blocks(index, bucket, block_rows=block_rows, positions=None)
        rows = [
            (shard, row)
            for shard, first, stop in zip(blocks.shard, blocks.first, blocks.stop, strict=True)
            for row in range(first, stop)
        ]
        clips = np.diff(index.offsets)
        assert rows == [(shard, row) for shard in shards for row in range(clips[shard])]
        assert (blocks.counts == blocks.stop - blocks.first).all()
        assert (blocks.counts <= (block_rows or 100)).all()


@given(st.sets(st.integers(0, 17)), st.sampled_from([1, 3, 5, None]))
def test_blocks_of_chosen_samples_name_those_and_no_others(index, chosen, block_rows):
    found = set()
    for bucket in range(2):
        positions = np.array(sorted(chosen), dtype=np.int64)
        blocks = lay_blocks(index, bucket, block_rows=block_rows, positions=positions)
        assert (blocks.counts > 0).all()
        for block, count in enumerate(blocks.counts):
            rows = blocks.rows(np.full(count, block), np.arange(count))
            assert ((rows >= blocks.first[block]) & (rows < blocks.stop[block])).all()
            found |= set((index.offsets[blocks.shard[block]] + rows).tolist())
    assert found == chosen
