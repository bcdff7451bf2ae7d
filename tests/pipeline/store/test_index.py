"""A store opens only when it is finished, known and whole."""

import random
from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.documents import read_json, sealed, write_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.index import Normalisation, Tally, close_store, open_store
from pipeline.store.ledger import ShardRecord, commit_shard, read_ledger
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import CLIP_STORE_FORMAT, INDEX_FILE, LATENT_STORE_FORMAT, STORE_FILE, ledger_file

CHANNELS = 3
COUNTS = st.integers(0, 10**6)


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


@pytest.fixture
def latents(tmp_path, outcome_row):
    """An encode job's folder before it is closed: 12 shards of two buckets, one without a clip; and their values."""
    folder = Folder(str(tmp_path / "latents"))
    generator = np.random.default_rng(0)
    shards = [
        PlannedShard(index=index, bucket=f"grid=1x1x{1 + index % 2}", num_clips=2, sources=("x",))
        for index in range(12)
    ]
    Plan.save(folder, job="encode", identity={}, counts=PlanCounts(media=0, clips=24), shards=shards)
    values = []
    for shard in shards:
        stored = 0 if shard.index == 4 else 2
        values.append(generator.normal(1e3, shard.index + 1, size=(stored * (1 + shard.index % 2), CHANNELS)))
        moments = ChannelMoments.of(values[-1]) if stored else ChannelMoments.empty(CHANNELS)
        file = folder.write_bytes(f"{shard.name}.parquet", b"latents") if stored else None
        outcomes = [] if stored else [outcome_row("a"), outcome_row("b")]
        commit_shard(folder, shard, file=file, stored=stored, outcomes=outcomes, sums={"moments": moments.to_json()})
    return folder, values


def close(folder, records):
    plan = Plan.load(folder)
    close_store(
        folder,
        plan,
        records,
        format_name=LATENT_STORE_FORMAT,
        details={"latent": {"channels": CHANNELS}},
        sums=Normalisation(CHANNELS),
    )
    return {path: folder.read_bytes(path) for path in (INDEX_FILE, STORE_FILE)}


def test_records_as_they_are_read_close_to_the_same_bytes_as_all_at_once(latents, monkeypatch):
    folder, _ = latents
    records = list(read_ledger(folder).values())
    at_once = close(folder, records)
    monkeypatch.setattr("pipeline.store.ledger._BATCH_RECORDS", 5)
    assert close(folder, read_ledger(folder).values()) == at_once
    as_reported = [type(record).from_json(record.to_json()) for record in records]
    assert close(folder, as_reported) == at_once


def test_the_normalisation_is_merged_in_plan_order_to_the_last_bit(latents):
    folder, _ = latents
    records = list(read_ledger(folder).values())
    close(folder, records)
    merged = {
        bucket: ChannelMoments.merge_all(
            [ChannelMoments.from_json(record.sums["moments"]) for record in records if record.bucket == bucket],
            CHANNELS,
        )
        for bucket in ("grid=1x1x1", "grid=1x1x2")
    }
    assert read_json(folder, STORE_FILE)["normalisation"] == {
        "all": ChannelMoments.merge_all(merged.values(), CHANNELS).normalisation(),
        "buckets": {bucket: moments.normalisation() for bucket, moments in merged.items()},
    }


def test_the_normalisation_is_that_of_all_values(latents):
    folder, values = latents
    close(folder, read_ledger(folder).values())
    found = read_json(folder, STORE_FILE)["normalisation"]
    for scope, chosen in (
        (found["all"], np.concatenate(values)),
        (found["buckets"]["grid=1x1x1"], np.concatenate(values[::2])),
        (found["buckets"]["grid=1x1x2"], np.concatenate(values[1::2])),
    ):
        assert scope["count"] == len(chosen)
        np.testing.assert_allclose(scope["mean"], chosen.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(scope["std"], chosen.std(axis=0), rtol=1e-10)


def test_counts_and_buckets_are_those_of_the_records(latents):
    folder, _ = latents
    close(folder, read_ledger(folder).values())
    document = read_json(folder, STORE_FILE)
    assert document["counts"] == {"planned": 24, "stored": 22, "filtered": 0, "rejected": 2}
    assert document["buckets"] == {
        "grid=1x1x1": {"shards": 6, "clips": 10, "size_bytes": 35},
        "grid=1x1x2": {"shards": 6, "clips": 12, "size_bytes": 42},
    }


@pytest.mark.parametrize("index", [0, 5, 11])
def test_a_ledger_that_lacks_a_planned_shard_does_not_close(latents, index):
    folder, _ = latents
    folder.remove(ledger_file(index))
    with pytest.raises(ValueError, match=f"the plan goes on with shard {index}, the ledger with .*start its job again"):
        close(folder, read_ledger(folder).values())
    assert not folder.exists(INDEX_FILE)
    assert not folder.exists(STORE_FILE)


def test_a_record_of_no_planned_shard_does_not_close(latents):
    folder, _ = latents
    shard = PlannedShard(index=12, bucket="grid=1x1x1", num_clips=0)
    extra = commit_shard(folder, shard, file=None, stored=0, outcomes=[], sums={})
    with pytest.raises(ValueError, match="the plan goes on with no further shard, the ledger with the record of shard"):
        close(folder, read_ledger(folder).values())
    assert extra.index in read_ledger(folder)
    assert not folder.exists(STORE_FILE)


def test_outcomes_that_no_record_names_are_removed(latents):
    folder, _ = latents
    folder.write_bytes("outcomes/grid=1x1x1/shard-00000000.parquet", b"of an earlier try")
    close(folder, read_ledger(folder).values())
    assert folder.find("outcomes") == ["outcomes/grid=1x1x1/shard-00000004.parquet"]


def test_the_rows_are_those_of_the_table(latents):
    folder, _ = latents
    close(folder, read_ledger(folder).values())
    rows = open_store(folder, format_name=LATENT_STORE_FORMAT).rows
    assert [asdict(row) for row in rows] == pq.read_table(folder.open(INDEX_FILE)).to_pylist()
    assert {type(value) for row in rows for value in asdict(row).values()} == {int, str, type(None)}


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=8), st.randoms(use_true_random=False))
def test_a_tally_is_the_sum_in_any_order(counts, order: random.Random):
    records = [
        ShardRecord(
            index=0,
            bucket="grid=1x2x2",
            planned=stored + filtered + rejected,
            stored=stored,
            filtered=filtered,
            rejected=rejected,
            reasons={"corrupt": rejected, "too_short": filtered},
            file=FileRecord(path="a", size_bytes=7 * stored, sha256="") if stored else None,
            outcomes=None,
            sums={},
        )
        for stored, filtered, rejected in counts
    ]
    shuffled = order.sample(records, len(records))
    tally = Tally.of(iter(shuffled))
    stored, filtered, rejected = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    assert (tally.stored, tally.filtered, tally.rejected) == (stored, filtered, rejected)
    assert (tally.shards, tally.planned) == (len(counts), stored + filtered + rejected)
    assert tally.size_bytes == 7 * stored
    assert (tally.reasons["corrupt"], tally.reasons["too_short"]) == (rejected, filtered)
