"""Only a ledger record makes a shard exist, and it accounts for every planned clip."""

import hashlib
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.files import FileRecord, Folder
from pipeline.store.ledger import (
    OutcomeRow,
    ShardRecord,
    commit_shard,
    index_row,
    read_ledger,
    read_record,
    write_index,
)
from pipeline.store.planned_shards import PlannedShard
from schemas.manifest import INDEX_SCHEMA
from schemas.metadata import INDEX_FILE, ledger_file
from schemas.outcome import OUTCOME_SCHEMA, Outcome, Reason

COUNTS = st.integers(0, 10**6)


def record(planned, stored, filtered, rejected):
    return ShardRecord(
        index=3,
        bucket="grid=1x2x2",
        planned=planned,
        stored=stored,
        filtered=filtered,
        rejected=rejected,
        reasons={},
        file=None,
        outcomes=None,
        sums={},
    )


@pytest.fixture(params=["out", "out [1] *?"])
def folder(request, tmp_path):
    return Folder(str(tmp_path / request.param))


@pytest.fixture
def commit(folder, outcome_row):
    """Commits a shard of 5 clips by index: 2 stored, 2 rejected, 1 filtered."""

    def commit(index, **sums):
        shard = PlannedShard(index=index, bucket="grid=1x2x2", num_clips=5)
        file = folder.write_bytes(f"{shard.name}.tar", b"pixels of %d" % index)
        outcomes = [
            outcome_row(f"a-{index}"),
            outcome_row(f"b-{index}", reason=Reason.UNREADABLE, transient=True, message="ü\n" * 5),
            outcome_row(f"c-{index}", outcome=Outcome.FILTERED, reason=Reason.TOO_SHORT, end_seconds=0.1),
        ]
        return commit_shard(folder, shard, file=file, stored=2, outcomes=outcomes, sums=sums)

    return commit


@given(COUNTS, COUNTS, COUNTS, st.integers(-2, 2))
def test_a_record_accounts_for_every_planned_clip(stored, filtered, rejected, error):
    planned = stored + filtered + rejected + error
    if error:
        with pytest.raises(ValueError, match=f"shard 3: planned {planned} != stored {stored}"):
            record(planned, stored, filtered, rejected)
    else:
        assert record(planned, stored, filtered, rejected).planned == planned


def test_an_outcome_row_is_a_row_of_its_schema():
    assert [field.name for field in fields(OutcomeRow)] == OUTCOME_SCHEMA.names


def test_committing_twice_gives_the_same_bytes(folder, commit):
    first = commit(0, psnr=30.25)
    before = {path: folder.read_bytes(path) for path in folder.find()}
    assert commit(0, psnr=30.25) == first
    assert {path: folder.read_bytes(path) for path in folder.find()} == before
    assert len(before) == 3


def test_the_ledger_gives_back_what_was_committed_in_order(folder, commit):
    records = {index: commit(index, psnr=0.1 + index) for index in (2000, 0, 999, 1000)}
    ledger = read_ledger(folder)
    assert ledger == records
    assert list(ledger) == [0, 999, 1000, 2000]


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
def test_records_read_in_batches_are_those_read_one_by_one(folder, commit, monkeypatch, batch):
    monkeypatch.setattr("pipeline.store.ledger._BATCH_RECORDS", batch)
    monkeypatch.setattr("pipeline.store.ledger._READERS", 2)
    records = [commit(index, psnr=0.1 + index) for index in (0, 1, 3, 999, 1000, 1001, 5000)]
    ledger = read_ledger(folder)
    assert list(ledger.values()) == records == [ledger[index] for index in ledger]
    assert list(ledger.items()) == [(entry.index, entry) for entry in records]
    assert len(ledger) == len(ledger.values()) == len(records)


def test_who_takes_a_few_records_may_stop(folder, commit, monkeypatch):
    monkeypatch.setattr("pipeline.store.ledger._BATCH_RECORDS", 1)
    first, *_ = [commit(index) for index in range(8)]
    assert next(iter(read_ledger(folder).values())) == first


def test_a_ledger_is_what_was_committed_when_it_was_read(folder, commit):
    commit(0)
    before = read_ledger(folder)
    commit(1)
    assert (0 in before, 1 in before, list(before)) == (True, False, [0])
    assert list(read_ledger(folder)) == [0, 1]
    with pytest.raises(KeyError):
        before[1]


@pytest.mark.parametrize(
    "path",
    ["ledger/notes.json", "ledger/00000/00000001.json~", "ledger/00000/1.json", "ledger/00001/00000001.json"],
)
def test_a_file_of_another_name_is_no_record(folder, commit, path):
    committed = commit(0)
    folder.write_bytes(path, folder.read_bytes(ledger_file(0)))
    assert read_ledger(folder) == {0: committed}


@pytest.mark.parametrize("data", [b"", b'{"shard": 0', b"[]", b'{"shard": 0}'])
def test_a_record_that_cannot_be_read_is_named(folder, commit, data):
    commit(0)
    folder.write_bytes(ledger_file(0), data)
    with pytest.raises(ValueError, match=r"00000000\.json: is no ledger record"):
        list(read_ledger(folder).values())
    with pytest.raises(ValueError, match=r"00000000\.json: is no ledger record"):
        read_record(folder, 0)


def test_a_record_under_the_name_of_another_shard_is_named(folder, commit):
    commit(0)
    folder.write_bytes(ledger_file(1), folder.read_bytes(ledger_file(0)))
    with pytest.raises(ValueError, match=r"00000001\.json: holds the record of shard 0, expected 1"):
        list(read_ledger(folder).values())


def test_a_record_has_the_hash_of_its_file(folder, commit):
    committed = commit(0, moments={"mean": [0.1, 1e-300]})
    (read,) = read_ledger(folder).values()
    assert committed.sha256 == read.sha256 == hashlib.sha256(folder.read_bytes(ledger_file(0))).hexdigest()


def test_a_changed_copy_of_a_record_has_a_hash_of_its_own(folder, commit):
    commit(0)
    (read,) = read_ledger(folder).values()
    changed = replace(read, bucket="grid=9x9x9")
    assert changed.sha256 == ShardRecord.from_json(changed.to_json()).sha256 != read.sha256


def test_a_ledger_of_an_object_store_reads_the_same(memory_url):
    folder = Folder(memory_url)
    shard = PlannedShard(index=0, bucket="grid=1x2x2", num_clips=0)
    assert read_ledger(folder) == {}
    committed = commit_shard(folder, shard, file=None, stored=0, outcomes=[], sums={})
    assert read_ledger(folder) == {0: committed}


def test_a_folder_without_records_has_an_empty_ledger(folder):
    assert read_ledger(folder) == {}


def test_a_shard_without_a_record_does_not_exist(folder, commit):
    commit(0)
    commit(1)
    folder.remove(ledger_file(1))
    assert list(read_ledger(folder)) == [0]


def test_counts_and_reasons_come_from_the_outcomes(commit):
    committed = commit(0)
    assert (committed.planned, committed.stored, committed.filtered, committed.rejected) == (5, 2, 1, 2)
    assert committed.reasons == {"corrupt": 1, "unreadable": 1, "too_short": 1}


def test_outcomes_stand_on_disk_as_rows(folder, commit):
    committed = commit(7)
    rows = pq.read_table(folder.open(committed.outcomes.path)).to_pylist()
    assert [row["key"] for row in rows] == ["a-7", "b-7", "c-7"]
    assert rows[1] | {"key": "", "media_uri": ""} == {
        "key": "",
        "media_uri": "",
        "start_seconds": None,
        "end_seconds": None,
        "outcome": "rejected",
        "stage": "decode",
        "reason": "unreadable",
        "transient": True,
        "attempts": 1,
        "message": "ü\n" * 5,
    }


def test_a_shard_that_loses_a_clip_is_not_committed(folder):
    shard = PlannedShard(index=0, bucket="grid=1x2x2", num_clips=3)
    with pytest.raises(ValueError, match="planned 3 != stored 2"):
        commit_shard(folder, shard, file=None, stored=2, outcomes=[], sums={})
    assert read_ledger(folder) == {}


def test_a_record_survives_json(commit):
    committed = commit(1, moments={"mean": [0.1, 1e-300], "count": 3})
    assert ShardRecord.from_json(committed.to_json()) == committed


def test_the_index_has_one_row_a_record_in_the_order_given(folder, commit):
    records = [commit(1), commit(0)]
    written = write_index(folder, records)
    assert written.path == INDEX_FILE
    table = pq.read_table(folder.open(INDEX_FILE))
    assert table.schema.names == INDEX_SCHEMA.names
    assert table["shard"].to_pylist() == [1, 0]
    assert table["sha256"].to_pylist() == [entry.file.sha256 for entry in records]
    assert table["outcomes_path"].to_pylist() == [entry.outcomes.path for entry in records]


def test_a_shard_with_nothing_stored_has_no_file_in_the_index(folder):
    write_index(folder, [record(0, 0, 0, 0)])
    (row,) = pq.read_table(folder.open(INDEX_FILE)).to_pylist()
    assert (row["path"], row["sha256"], row["size_bytes"], row["outcomes_path"]) == (None, None, 0, None)


def test_a_file_record_names_its_file(folder):
    assert folder.write_bytes("a", b"1") == FileRecord(
        path="a", size_bytes=1, sha256="6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )


def test_an_index_is_the_same_table_in_any_row_groups(folder, commit, monkeypatch):
    records = [commit(index) for index in range(5)]
    rows = [index_row(entry) for entry in records]
    write_index(folder, records)
    whole = pq.ParquetFile(folder.open(INDEX_FILE))
    assert (whole.num_row_groups, whole.read()) == (1, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    monkeypatch.setattr("pipeline.store.ledger._INDEX_ROWS", 2)
    write_index(folder, iter(records))
    parts = pq.ParquetFile(folder.open(INDEX_FILE))
    assert (parts.num_row_groups, parts.read()) == (3, whole.read())


def test_an_index_of_no_records_is_an_empty_table(folder):
    write_index(folder, [])
    assert pq.read_table(folder.open(INDEX_FILE)) == INDEX_SCHEMA.empty_table()
