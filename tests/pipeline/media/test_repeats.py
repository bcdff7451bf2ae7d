from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.repeats import Repeats


def by_dict(keys):
    seen = set()
    found = []
    for position, key in enumerate(keys):
        if key in seen:
            found.append(position)
        seen.add(key)
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=1), max_size=400) | st.lists(st.binary(), max_size=50))
def test_repeats_are_those_of_a_set(keys):
    with Repeats() as repeats:
        for key in keys:
            repeats.add(key)
        assert repeats.repeated().tolist() == by_dict(keys)


def test_many_keys_flow_over_to_disk_and_are_gone_at_the_end():
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 700_000, 800_000)
    with Repeats() as repeats:
        for number in numbers.tolist():
            repeats.add(number.to_bytes(8, "big"))
        folder = Path(repeats._folder.name)
        assert any(folder.iterdir())
        found = repeats.repeated()
    first = np.unique(numbers, return_index=True)[1]
    assert found.dtype == np.int64
    assert np.array_equal(found, np.setdiff1d(np.arange(len(numbers)), first))
    assert not folder.exists()


def test_asked_again_and_added_to_in_between():
    with Repeats() as repeats:
        repeats.add(b"a")
        assert repeats.repeated().tolist() == []
        repeats.add(b"a")
        assert repeats.repeated().tolist() == [1]
        assert repeats.repeated().tolist() == [1]
