"""What holds of every mergeable state: any split, in any order, merges to the state of the whole."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vitok.metrics.frechet import FeatureMoments
from vitok.metrics.inception_score import InceptionScoreState
from vitok.metrics.mean import MeanState

COLUMNS = 3
ROWS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.just(COLUMNS)), elements=st.floats(-50, 50, allow_subnormal=False)
)
ORDER = st.randoms(use_true_random=False)
CUTS = st.lists(st.integers(0, 30), max_size=5)


def mean_of(rows):
    return MeanState.of(rows[:, 0])


STATES = {
    "mean": (mean_of, MeanState.empty()),
    "moments": (FeatureMoments.of, FeatureMoments.empty(COLUMNS)),
    "inception_score": (InceptionScoreState.of, InceptionScoreState.empty(COLUMNS)),
}


def assert_close(state, expected, size=1.0):
    """Every number to 1e-9 of the size of what was summed."""
    arrays, wanted = state.to_arrays(), expected.to_arrays()
    assert arrays["count"] == wanted["count"]
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-9 * size, err_msg=name)


@pytest.mark.parametrize("kind", STATES)
@given(rows=ROWS, cuts=CUTS, order=ORDER)
def test_any_split_in_any_order_merges_to_the_whole(kind, rows, cuts, order):
    of, empty = STATES[kind]
    parts = [of(part) for part in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts))]
    order.shuffle(parts)
    merged = functools.reduce(lambda state, part: state.merge(part), parts, empty)
    assert_close(merged, of(rows), size=1 + np.square(rows).sum())


@pytest.mark.parametrize("kind", STATES)
@given(rows=ROWS)
def test_nothing_merges_to_no_change(kind, rows):
    of, empty = STATES[kind]
    state = of(rows)
    for same in (state.merge(empty), empty.merge(state), state.merge(of(rows[:0]))):
        assert_close(same, state)


@pytest.mark.parametrize("kind", STATES)
@given(rows=ROWS)
def test_states_survive_a_file_to_the_bit(kind, rows, tmp_path_factory):
    of, _ = STATES[kind]
    state = of(rows)
    path = tmp_path_factory.getbasetemp() / f"{kind}.npz"
    np.savez(path, **state.to_arrays())
    with np.load(path, allow_pickle=False) as arrays:
        back = type(state).from_arrays(arrays)
    for name, array in back.to_arrays().items():
        assert array.tobytes() == state.to_arrays()[name].tobytes()
        assert array.dtype == (np.int64 if name == "count" else np.float64)


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(kind, bad):
    rows = np.ones((2, COLUMNS))
    rows[1, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        STATES[kind][0](rows)


@pytest.mark.parametrize("kind", ["moments", "inception_score"])
def test_states_of_another_width_do_not_merge(kind):
    of, empty = STATES[kind]
    with pytest.raises(ValueError, match="of 3 and of 4, expected one number"):
        empty.merge(of(np.ones((2, 4))))


@given(rows=ROWS)
def test_mean_and_spread_are_numpys(rows):
    state = mean_of(rows)
    assert state.mean == pytest.approx(rows[:, 0].mean(), rel=1e-9, abs=1e-9)
    assert state.std == pytest.approx(rows[:, 0].std(), rel=1e-9, abs=1e-9)


def test_nothing_has_no_spread():
    assert MeanState.empty().std == 0.0


def test_values_of_two_axes_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(2, 1\)"):
        MeanState.of(np.ones((2, 1)))
