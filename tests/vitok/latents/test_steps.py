"""Steps take every sample of every bucket once, evenly over ranks and over the epoch."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from vitok.latents.steps import epoch_span, next_bucket, num_steps, phases, share, split, step_size

SIZES = st.integers(1, 400)
BATCHES = st.integers(1, 9)
WORLDS = st.integers(1, 9)


def takes(size, batch_size, world_size):
    left, counts = size, []
    while left:
        counts.append(step_size(left, batch_size=batch_size, world_size=world_size))
        left -= counts[-1]
    return counts


@given(SIZES, BATCHES, WORLDS)
def test_steps_take_all_of_a_bucket_and_no_rank_stands_empty_if_it_can_be_helped(size, batch_size, world_size):
    counts = takes(size, batch_size, world_size)
    assert sum(counts) == size
    assert len(counts) == num_steps(size, batch_size=batch_size, world_size=world_size)
    assert max(counts) <= batch_size * world_size
    assert all(count == batch_size * world_size for count in counts[:-2])
    if size >= world_size and batch_size > 1:
        assert min(counts) >= world_size


@given(st.integers(0, 200), WORLDS)
def test_a_step_is_dealt_out_whole_and_evenly(count, world_size):
    spans = [share(count, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [place for start, stop in spans for place in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in spans]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_streams_are_merged_in_proportion_and_none_goes_back(lengths):
    total = sum(lengths)
    before = [0] * len(lengths)
    for position in range(total + 1):
        counts = split(position, lengths)
        assert sum(counts) == position
        assert all(now >= then for now, then in zip(counts, before, strict=True))
        for count, length in zip(counts, lengths, strict=True):
            assert abs(count - position * length / max(total, 1)) < len(lengths)
        before = counts
    assert before == lengths


@given(st.integers(0, 50), st.fractions(Fraction(1, 7), 5, max_denominator=20), st.integers(0, 20))
def test_epochs_follow_each_other_without_a_gap(size, weight, epoch):
    assert epoch_span(size, weight, 0)[0] == 0
    assert (
        epoch_span(size, weight, epoch)[1] == epoch_span(size, weight, epoch + 1)[0] == int((epoch + 1) * weight * size)
    )


@given(st.dictionaries(st.tuples(*[st.integers(1, 9)] * 3), SIZES, min_size=1, max_size=5), BATCHES, WORLDS)
def test_every_bucket_is_spread_over_the_epoch(sizes, batch_size, world_size):
    whole = batch_size * world_size
    phase = phases(list(sizes), seed=3, epoch=1)
    consumed, total = {}, sum(sizes.values())
    while grid := next_bucket(sizes, consumed, phase, global_batch=whole):
        left = sizes[grid] - consumed.get(grid, 0)
        consumed[grid] = consumed.get(grid, 0) + step_size(left, batch_size=batch_size, world_size=world_size)
        done = sum(consumed.values())
        for other, size in sizes.items():
            # At any time each bucket is where the epoch is, to a step of each bucket.
            assert (
                abs(consumed.get(other, 0) / size - done / total) * size <= whole * (1 + len(sizes) * size / total) + 1
            )
    assert consumed == sizes


def test_phases_belong_to_seed_epoch_and_bucket():
    grids = [(1, 2, 2), (1, 3, 3)]
    first = phases(grids, seed=0, epoch=0)
    assert all(0 <= value < 1 for value in first.values())
    values = [*first.values(), *phases(grids, seed=0, epoch=1).values(), *phases(grids, seed=1, epoch=0).values()]
    assert len(set(values)) == 6
    assert phases(grids[1:], seed=0, epoch=0)[1, 3, 3] == first[1, 3, 3]
