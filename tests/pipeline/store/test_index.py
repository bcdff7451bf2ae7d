"""A store opens only when it is finished, known and whole."""

import pytest

from pipeline.store.documents import read_json, sealed, write_json
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from schemas.metadata import CLIP_STORE_FORMAT, INDEX_FILE, LATENT_STORE_FORMAT, STORE_FILE


def test_the_rows_are_the_shards_in_plan_order(clip_store):
    store = open_store(clip_store, format_name=CLIP_STORE_FORMAT)
    assert [row.shard for row in store.rows] == [0, 1, 2]
    assert [(row.planned, row.stored, row.rejected) for row in store.rows] == [(3, 3, 0), (3, 2, 1), (1, 1, 0)]
    assert all(clip_store.exists(row.path) for row in store.rows)


def test_the_identity_names_plan_and_content(clip_store):
    store = open_store(clip_store, format_name=CLIP_STORE_FORMAT)
    assert store.identity == {
        "fingerprint": store.document["fingerprint"],
        "index_sha256": store.document["index"]["sha256"],
    }


def test_an_unfinished_store_is_refused_with_advice(clip_store):
    clip_store.remove(STORE_FILE)
    with pytest.raises(ValueError, match=r"holds no store\.json: .*start it again"):
        open_store(clip_store, format_name=CLIP_STORE_FORMAT)


def test_a_folder_that_is_not_there_is_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"holds no store\.json"):
        open_store(Folder(str(tmp_path / "absent")), format_name=CLIP_STORE_FORMAT)


def test_a_store_of_another_format_is_refused(clip_store):
    with pytest.raises(ValueError, match="format 'vitok-clips' version 1, expected 'vitok-latents' version 1"):
        open_store(clip_store, format_name=LATENT_STORE_FORMAT)


def test_a_store_of_another_version_is_refused(clip_store):
    write_json(clip_store, STORE_FILE, sealed(read_json(clip_store, STORE_FILE) | {"format_version": 2}))
    with pytest.raises(ValueError, match="version 2, expected 'vitok-clips' version 1"):
        open_store(clip_store, format_name=CLIP_STORE_FORMAT)


def test_an_index_that_was_changed_is_refused(clip_store):
    data = bytearray(clip_store.read_bytes(INDEX_FILE))
    data[len(data) // 2] ^= 1
    clip_store.write_bytes(INDEX_FILE, bytes(data))
    with pytest.raises(ValueError, match=r"index\.parquet is not the index .* damaged"):
        open_store(clip_store, format_name=CLIP_STORE_FORMAT)
