"""Moments of parts merge to the moments of the whole."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.store.moments import ChannelMoments

CHANNELS = 3
NUMBERS = st.floats(-65504, 65504, allow_nan=False, width=32)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(CHANNELS)), elements=NUMBERS)
CUTS = st.lists(st.integers(0, 30), max_size=5)


def merged(parts):
    return ChannelMoments.merge_all((ChannelMoments.of(part) for part in parts if len(part)), CHANNELS)


@given(ROWS, CUTS)
def test_any_partition_gives_the_moments_of_the_whole(rows, cuts):
    moments = merged(np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)))
    exact = rows.astype(np.float64)
    size = np.abs(exact).max()
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12 * size)
    np.testing.assert_allclose(moments.std, exact.std(axis=0), rtol=1e-12, atol=1e-12 * size)


@given(ROWS, ROWS)
def test_merging_is_symmetric(first, second):
    there = ChannelMoments.of(first).merge(ChannelMoments.of(second))
    back = ChannelMoments.of(second).merge(ChannelMoments.of(first))
    size = max(np.abs(first).max(), np.abs(second).max())
    np.testing.assert_allclose(there.mean, back.mean, rtol=1e-12, atol=1e-12 * size)
    np.testing.assert_allclose(there.m2, back.m2, rtol=1e-12, atol=1e-12 * size**2)


@given(ROWS)
def test_nothing_merges_to_no_change(rows):
    moments, empty = ChannelMoments.of(rows), ChannelMoments.empty(CHANNELS)
    for same in (moments.merge(empty), empty.merge(moments)):
        assert same.to_json() == moments.to_json()


@given(ROWS)
def test_moments_survive_json_to_the_bit(rows):
    moments = ChannelMoments.of(rows)
    back = ChannelMoments.from_json(json.loads(json.dumps(moments.to_json())))
    assert back.mean.tobytes() == moments.mean.tobytes()
    assert back.m2.tobytes() == moments.m2.tobytes()
    assert back.count == moments.count


def test_a_channel_with_a_large_mean_keeps_its_variance():
    values = np.random.default_rng(0).normal(0.0, 1.0, (4000, 2))
    values[:, 1] += 1e8
    moments = ChannelMoments.merge_all((ChannelMoments.of(part) for part in np.split(values, 100)), 2)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-7)
    # What sums of squares would have made of it.
    naive = np.sqrt(np.maximum(np.square(values).mean(axis=0) - np.square(values.mean(axis=0)), 0))
    assert abs(naive[1] / values[:, 1].std() - 1) > 1e-3


def test_every_axis_but_the_last_is_counted():
    latent = np.arange(2 * 3 * 4 * 5, dtype=np.float16).reshape(2, 3, 4, 5)
    moments = ChannelMoments.of(latent)
    assert moments.count == 24
    np.testing.assert_allclose(moments.mean, latent.astype(np.float64).mean(axis=(0, 1, 2)))


def test_nonfinite_values_are_counted_and_leave_the_moments_alone():
    bad = np.array([[np.nan, 1.0], [np.inf, -np.inf]], np.float32)
    good = ChannelMoments.of(np.array([[1.0, 2.0], [3.0, 6.0]]))
    moments = good.merge(ChannelMoments.nonfinite(bad)).merge(ChannelMoments.nonfinite(bad))
    assert (moments.nan_count, moments.inf_count, moments.count) == (2, 4, 2)
    assert moments.normalisation() == {
        "count": 2,
        "mean": [2.0, 4.0],
        "std": [1.0, 2.0],
        "nan_count": 2,
        "inf_count": 4,
    }


def test_moments_of_nothing_are_zero():
    empty = ChannelMoments.merge_all([], 4)
    assert empty.count == 0
    assert empty.std.tolist() == [0.0] * 4


def test_halves_of_float16_are_summed_in_float64():
    ones = np.ones((70000, 1), np.float16)
    assert ChannelMoments.of(ones).mean.tolist() == [1.0]
    assert ChannelMoments.of(ones * 0 + 60000).m2.tolist() == [0.0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_same_order_gives_the_same_bits(order):
    parts = [ChannelMoments.of(np.random.default_rng(seed).normal(size=(7, CHANNELS))) for seed in range(3)]
    first, second = (ChannelMoments.merge_all((parts[index] for index in order), CHANNELS) for _ in range(2))
    assert first.m2.tobytes() == second.m2.tobytes()
