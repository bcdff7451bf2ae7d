"""Which clips make which step: every clip once an epoch, no worker twice, and the same again after a stop."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.order import Mixture, Shard, Stream, epoch_units, worker_units


def stream(sizes, store=0, bucket="grid=1x8x8"):
    shards = tuple(Shard(path=f"{store}/{bucket}/{place}", num_clips=size) for place, size in enumerate(sizes))
    return Stream(store=store, bucket=bucket, shards=shards)


SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(sizes=SIZES, unit_clips=st.integers(1, 100), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_shard_once(sizes, unit_clips, epoch):
    units = epoch_units(stream(sizes), seed=3, epoch=epoch, unit_clips=unit_clips)
    paths = Counter(shard.path for unit in units for shard in unit.shards)
    assert paths == Counter(shard.path for shard in stream(sizes).shards)
    assert all(unit.num_clips >= unit_clips for unit in units[:-1])


@given(sizes=SIZES, unit_clips=st.integers(1, 100), world_size=st.integers(1, 5))
def test_workers_divide_the_units_among_them(sizes, unit_clips, world_size):
    each = [
        list(
            islice(
                worker_units(stream(sizes), seed=3, unit_clips=unit_clips, rank=rank, world_size=world_size, skip=0),
                12,
            )
        )
        for rank in range(world_size)
    ]
    alone = list(
        islice(
            worker_units(stream(sizes), seed=3, unit_clips=unit_clips, rank=0, world_size=1, skip=0),
            12 * world_size,
        )
    )
    assert [unit for turn in zip(*each, strict=True) for unit in turn] == alone


@given(sizes=SIZES, unit_clips=st.integers(1, 100), world_size=st.integers(1, 5), skip=st.integers(0, 500))
def test_a_later_start_goes_on_where_the_earlier_one_stopped(sizes, unit_clips, world_size, skip):
    def clips(start, count):
        units = worker_units(
            stream(sizes), seed=3, unit_clips=unit_clips, rank=world_size - 1, world_size=world_size, skip=start
        )
        numbered = ((unit.epoch, unit.number, place) for unit in units for place in range(unit.skip, unit.num_clips))
        return list(islice(numbered, count))

    assert clips(skip, 100) == clips(0, skip + 100)[skip:]


def test_epochs_have_orders_of_their_own():
    orders = {
        tuple(
            shard.path
            for unit in epoch_units(stream([1] * 9), seed=0, epoch=epoch, unit_clips=1)
            for shard in unit.shards
        )
        for epoch in range(5)
    }
    assert len(orders) == 5


def test_clips_come_in_the_shares_asked_for():
    small, large = stream([100]), stream([100] * 50, store=1)
    by_size, by_weight = Counter(), Counter()
    for step in range(500):
        by_size.update(Mixture([small, large], weights=(), seed=0).draw(step, num_clips=16))
        by_weight.update(Mixture([small, large], weights=(1, 7), seed=0).draw(step, num_clips=16))
    assert abs(by_size[small.name] / by_size.total() - 1 / 51) < 0.01
    assert abs(by_weight[small.name] / by_weight.total() - 1 / 8) < 0.02


def test_a_step_is_of_one_bucket_and_the_same_whatever_came_before():
    streams = [stream([30]), stream([10], bucket="grid=2x8x8"), stream([40], store=1)]
    mixture = Mixture(streams, weights=(), seed=7)
    drawn = [mixture.draw(step, num_clips=8) for step in range(400)]
    assert all(len({name.partition("/")[2] for name in counts}) == 1 for counts in drawn)
    assert all(sum(counts.values()) == 8 for counts in drawn)
    assert abs(sum("1/grid=1x8x8" in counts for counts in drawn) / 400 - 7 / 8) < 0.06
    backward = [mixture.draw(step, num_clips=8) for step in reversed(range(400))]
    assert drawn == backward[::-1]
    assert drawn != [Mixture(streams, weights=(), seed=8).draw(step, num_clips=8) for step in range(400)]
