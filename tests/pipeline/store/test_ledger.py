"""Only a ledger record makes a shard exist, and it accounts for every planned clip."""

from dataclasses import fields

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.files import FileRecord, Folder
from pipeline.store.ledger import OutcomeRow, ShardRecord, commit_shard, read_ledger, write_index
from pipeline.store.plan import PlannedShard
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


def test_a_ledger_of_an_object_store_reads_the_same(memory_url):
    folder = Folder(memory_url)
    shard = PlannedShard(index=0, bucket="grid=1x2x2", num_clips=0)
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
