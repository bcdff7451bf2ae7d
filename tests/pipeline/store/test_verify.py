"""A whole store has no problems; whatever is wrong with one is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip
from pipeline.store.documents import read_json, sealed, write_json
from pipeline.store.index import close_store, open_store
from pipeline.store.latentshard import ParquetLatentWriter, TarLatentWriter
from pipeline.store.ledger import commit_shard, read_ledger, write_index, write_outcomes
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.verify import check_shard, check_totals, open_any_store, stray_files
from schemas.latent import latent_schema
from schemas.metadata import (
    CLIP_STORE_FORMAT,
    INDEX_FILE,
    LATENT_STORE_FORMAT,
    PLAN_FILE,
    PLAN_OUTCOMES_FILE,
    SHARDS_FILE,
    STORE_FILE,
    ledger_file,
)

TAR = "grid=1x2x2/shard-00000001.tar"
OUTCOMES = "outcomes/grid=1x2x2/shard-00000001.parquet"
CLIPS = "plan/clips-00000.parquet"


def problems_of(folder, sample=10):
    store = open_any_store(folder)
    problems = check_totals(store) + stray_files(store)
    for row in store.rows:
        problems += check_shard(folder, row, sample=sample)
    return problems


def flip(folder, path, position=None):
    data = bytearray(folder.read_bytes(path))
    data[len(data) // 2 if position is None else position] ^= 0x10
    folder.write_bytes(path, bytes(data))


def recommit(folder, index, *, file, stored, outcomes=()):
    """Commit a shard anew and fold the index and the store's record to it: a lie told consistently."""
    plan = Plan.load(folder)
    commit_shard(folder, plan.shards[index], file=file, stored=stored, outcomes=list(outcomes), sums={})
    refold(folder)


def refold(folder):
    records = list(read_ledger(folder).values())
    plan = Plan.load(folder)
    counts = {
        "planned": plan.counts.planned,
        "stored": sum(record.stored for record in records),
        "filtered": sum(record.filtered for record in records) + plan.counts.filtered,
        "rejected": sum(record.rejected for record in records) + plan.counts.rejected,
    }
    index = write_index(folder, records).to_json()
    write_json(folder, STORE_FILE, sealed(read_json(folder, STORE_FILE) | {"index": index, "counts": counts}))


def test_a_whole_store_has_no_problems(clip_store):
    assert problems_of(clip_store) == []
    assert problems_of(clip_store, sample=0) == []


@pytest.mark.parametrize("path", [TAR, OUTCOMES, ledger_file(1), PLAN_OUTCOMES_FILE, PLAN_FILE, SHARDS_FILE, CLIPS])
def test_a_missing_file_is_named(clip_store, path):
    clip_store.remove(path)
    problems = problems_of(clip_store)
    assert problems
    assert any(path in problem or "shard 1" in problem or "the plan" in problem for problem in problems)


@pytest.mark.parametrize("path", [TAR, OUTCOMES])
@pytest.mark.parametrize("position", [0, 7, None, -1])
def test_a_flipped_byte_of_a_shard_is_named_with_its_file(clip_store, path, position):
    flip(clip_store, path, position)
    assert [problem for problem in problems_of(clip_store) if path in problem and "sha256" in problem]


def test_a_flipped_byte_anywhere_in_a_ledger_record_is_named(clip_store):
    path = ledger_file(1)
    whole = clip_store.read_bytes(path)
    for position in range(0, len(whole), 7):
        flip(clip_store, path, position)
        store = open_any_store(clip_store)
        assert any("shard 1" in problem for problem in check_shard(clip_store, store.rows[1], sample=0)), position
        clip_store.write_bytes(path, whole)


@pytest.mark.parametrize("path", [PLAN_FILE, SHARDS_FILE, CLIPS, PLAN_OUTCOMES_FILE])
def test_a_plan_that_was_cut_off_is_named(clip_store, path):
    clip_store.write_bytes(path, clip_store.read_bytes(path)[:-20])
    assert problems_of(clip_store)


def test_a_changed_identity_of_the_plan_is_named(clip_store):
    plan = read_json(clip_store, PLAN_FILE)
    write_json(clip_store, PLAN_FILE, plan | {"identity": {"resolution": 17}})
    assert problems_of(clip_store) == [f"{PLAN_FILE}: is not the plan that the store was closed with"]


@pytest.mark.parametrize("path", ["plan/clips-00000.parquet", "plan/shards.parquet", "plan/outcomes.parquet"])
@pytest.mark.parametrize("position", [5, None, -9])
def test_a_flipped_byte_of_a_plan_file_is_named(clip_store, path, position):
    flip(clip_store, path, position)
    assert any(path in problem or "plan" in problem for problem in problems_of(clip_store))


def test_a_changed_digit_of_the_store_record_does_not_open(clip_store):
    document = read_json(clip_store, STORE_FILE)
    write_json(clip_store, STORE_FILE, document | {"counts": document["counts"] | {"stored": 7}})
    with pytest.raises(ValueError, match="seal does not match"):
        open_any_store(clip_store)


@pytest.mark.parametrize("position", [1, None, -1])
def test_a_flipped_byte_of_the_index_does_not_open(clip_store, position):
    flip(clip_store, INDEX_FILE, position)
    with pytest.raises(ValueError, match=r"index\.parquet is not the index .* damaged"):
        open_any_store(clip_store)


def test_a_record_of_the_store_that_is_no_json_does_not_open(clip_store):
    flip(clip_store, STORE_FILE, 1)
    with pytest.raises(ValueError, match=r"store\.json"):
        open_any_store(clip_store)


def test_an_index_that_was_changed_with_its_hash_is_named(clip_store):
    records = list(read_ledger(clip_store).values())
    other = replace(records[1], file=replace(records[0].file, path=records[1].file.path))
    index = write_index(clip_store, [records[0], other, records[2]])
    write_json(clip_store, STORE_FILE, sealed(read_json(clip_store, STORE_FILE) | {"index": index.to_json()}))
    assert problems_of(clip_store) == [f"shard 1: {ledger_file(1)} is not the record that the index was made of"]


def test_an_index_that_says_other_than_its_records_is_named(clip_store):
    store = open_any_store(clip_store)
    (problem,) = check_shard(clip_store, replace(store.rows[1], bucket="grid=9x9x9"), sample=0)
    assert problem.startswith("shard 1: the ledger says")


@pytest.mark.parametrize(
    "path", ["grid=1x2x2/shard-00000009.tar", "grid=9x9x9/x", "outcomes/grid=1x2x2/shard-00000000.parquet"]
)
def test_a_stray_file_is_named(clip_store, path):
    clip_store.write_bytes(path, b"stray")
    assert problems_of(clip_store) == [f"{path}: not in the index"]


def test_a_stray_ledger_record_is_named(clip_store):
    clip_store.write_bytes(ledger_file(7), clip_store.read_bytes(ledger_file(0)))
    assert problems_of(clip_store) == [f"{ledger_file(7)}: not in the index"]


def test_what_a_run_leaves_beside_the_shards_is_no_stray_file(clip_store):
    clip_store.write_bytes("runs/20260101/record.json", b"{}")
    clip_store.write_bytes("report.html", b"")
    assert problems_of(clip_store) == []


@pytest.mark.parametrize("name", ["planned", "stored", "filtered", "rejected"])
def test_a_wrong_count_of_the_store_is_named(clip_store, name):
    document = read_json(clip_store, STORE_FILE)
    write_json(clip_store, STORE_FILE, sealed(document | {"counts": document["counts"] | {name: 99}}))
    assert any("store.json counts" in problem for problem in problems_of(clip_store))


def test_a_wrong_fingerprint_is_named(clip_store):
    write_json(clip_store, STORE_FILE, sealed(read_json(clip_store, STORE_FILE) | {"fingerprint": "0" * 64}))
    assert any("store.json has fingerprint" in problem for problem in problems_of(clip_store))


def test_a_wrong_count_of_a_record_is_named(clip_store, outcome_row):
    record = read_ledger(clip_store)[1]
    recommit(clip_store, 1, file=record.file, stored=1, outcomes=[outcome_row("clip-4"), outcome_row("clip-5")])
    assert any(f"{TAR[:-4]}: holds 2 clips, committed were 1" in problem for problem in problems_of(clip_store))


def test_a_clip_that_nobody_planned_is_named(clip_store, outcome_row):
    record = read_ledger(clip_store)[1]
    recommit(clip_store, 1, file=record.file, stored=2, outcomes=[outcome_row("clip-9")])
    (problem,) = problems_of(clip_store)
    assert "clips without an outcome ['clip-4'], clips nobody planned ['clip-9']" in problem
    assert "shard-00000001" in problem


def test_a_clip_that_is_both_stored_and_rejected_is_named(clip_store, outcome_row):
    record = read_ledger(clip_store)[1]
    recommit(clip_store, 1, file=record.file, stored=2, outcomes=[outcome_row("clip-3")])
    assert any("clip-3" in problem and "shard-00000001" in problem for problem in problems_of(clip_store))


def test_a_shard_that_is_missing_from_the_index_is_named(clip_store):
    records = list(read_ledger(clip_store).values())
    index = write_index(clip_store, records[:2])
    write_json(clip_store, STORE_FILE, sealed(read_json(clip_store, STORE_FILE) | {"index": index.to_json()}))
    assert any("the index lists 2 shards" in problem for problem in problems_of(clip_store))


def test_outcomes_of_planning_are_counted(clip_store, outcome_row):
    write_outcomes(clip_store, PLAN_OUTCOMES_FILE, [outcome_row("empty"), outcome_row("more")])
    assert any(PLAN_OUTCOMES_FILE in problem for problem in problems_of(clip_store))


def test_a_shard_whose_hash_is_right_and_whose_clips_do_not_decode_is_named(clip_store, clip_metadata):
    with clip_store.stage("grid=1x2x2/shard-00000002.tar") as staged:
        writer = ClipShardWriter(staged.stream)
        wrong = clip_metadata("clip-6", (1, 32, 32, 3))
        writer.write(code_clip(Clip(pixels=np.zeros((1, 16, 16, 3), np.uint8), metadata=wrong), PixelCodec()))
        writer.close()
        file = staged.commit()
    recommit(clip_store, 2, file=file, stored=1)
    assert problems_of(clip_store, sample=0) == []
    (problem,) = problems_of(clip_store)
    assert "shard-00000002.tar" in problem
    assert "clip-6" in problem


def test_a_store_of_no_known_format_is_refused(clip_store):
    write_json(clip_store, STORE_FILE, {"format": "wds", "format_version": 1})
    with pytest.raises(ValueError, match="format 'wds', expected one of vitok-clips"):
        open_any_store(clip_store)


def test_a_folder_without_a_store_is_refused(clip_store):
    clip_store.remove(STORE_FILE)
    with pytest.raises(ValueError, match=r"holds no store\.json"):
        open_any_store(clip_store)


@pytest.fixture(params=["parquet", "tar"])
def latent_store(request, clip_store, clip_metadata):
    """A finished latent store of 3 clips in one shard, and a function that commits it with other latents."""
    folder = clip_store.subfolder("latents")
    shard = PlannedShard(index=0, bucket="grid=1x2x2", num_clips=3, sources=("grid=1x2x2/shard-00000000.tar",))
    plan = Plan.save(folder, job="encode", identity={"seed": 0}, counts=PlanCounts(media=0, clips=3), shards=(shard,))

    def commit(dtype, values):
        with folder.stage(f"{shard.name}.{request.param}") as staged:
            if request.param == "tar":
                writer = TarLatentWriter(staged.stream, passed={}, columns=("mean",), dtype=dtype)
            else:
                schema = latent_schema(passed={}, shape=(1, 2, 2, 4), dtype=dtype, columns=("mean",))
                writer = ParquetLatentWriter(staged.stream, schema, passed={})
            for number, value in enumerate(values):
                writer.write(clip_metadata(f"clip-{number}"), {"mean": value})
            writer.close()
            file = staged.commit()
        record = commit_shard(folder, shard, file=file, stored=3, outcomes=[], sums={})
        details = {"latent": {"dtype": dtype, "columns": ["mean"], "channels": 4}}
        close_store(folder, plan, [record], format_name=LATENT_STORE_FORMAT, details=details)
        return file.path

    return folder, commit


def test_a_whole_latent_store_has_no_problems(latent_store):
    folder, commit = latent_store
    commit("float32", np.random.default_rng(0).normal(size=(3, 1, 2, 2, 4)).astype(np.float32))
    assert problems_of(folder) == []


def test_a_flipped_byte_of_a_latent_shard_is_named(latent_store):
    folder, commit = latent_store
    path = commit("float16", np.ones((3, 1, 2, 2, 4), np.float16))
    flip(folder, path)
    assert [problem for problem in problems_of(folder) if path in problem]


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        ("float16", np.float16(np.inf)),
        ("float32", np.float32(np.nan)),
        ("bfloat16", np.uint16(0x7F80)),
        ("bfloat16", np.uint16(0xFFC1)),
    ],
)
def test_a_latent_that_is_not_finite_is_named(latent_store, dtype, bad):
    folder, commit = latent_store
    values = np.ones((3, 1, 2, 2, 4), bad.dtype)
    values[1, 0, 1, 1, 2] = bad
    path = commit(dtype, values)
    assert problems_of(folder) == [f"{path}: clip-1 has NaN or Inf in mean"]


def test_the_store_of_the_fixture_is_a_clip_store(clip_store):
    store = open_store(clip_store, format_name=CLIP_STORE_FORMAT)
    assert json.loads(clip_store.read_bytes(STORE_FILE)) == store.document
