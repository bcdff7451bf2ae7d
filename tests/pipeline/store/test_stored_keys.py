"""Keys are those of the clips that are stored, however they are found, and none may come twice."""

import pytest

from pipeline.store.index import open_store
from pipeline.store.plan import RunRefusedError
from pipeline.store.stored_keys import read_stored_keys, refuse_repeats, store_keys
from schemas.metadata import CLIP_STORE_FORMAT

KEPT = [f"clip-{number}" for number in (0, 1, 2, 3, 5, 6)]  # 4 was rejected


def test_keys_of_the_plan_are_those_of_the_shards(clip_store):
    store = open_store(clip_store, format_name=CLIP_STORE_FORMAT)
    shards = [key for row in store.rows for key in read_stored_keys(clip_store, row.path)]
    assert list(store_keys(store, store.rows)) == shards == KEPT
    clip_store.remove("plan/clips-00000.parquet")
    assert list(store_keys(store, store.rows)) == KEPT
    assert list(store_keys(store, store.rows[1:2])) == ["clip-3", "clip-5"]


def test_a_key_that_comes_twice_is_refused_and_named(clip_store):
    store = open_store(clip_store, format_name=CLIP_STORE_FORMAT)
    refuse_repeats([(store, store.rows[:1]), (store, store.rows[1:])], output=clip_store)
    with pytest.raises(RunRefusedError, match="2 clips would stand in it twice, such as clip-3, clip-5: "):
        refuse_repeats([(store, store.rows), (store, store.rows[1:2])], output=clip_store)
