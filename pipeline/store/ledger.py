"""The ledger: only a record in it makes a shard exist; folded at the end into one index."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.documents import fingerprint, write_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.plan import PlannedShard, write_table
from schemas.manifest import INDEX_SCHEMA
from schemas.metadata import INDEX_FILE, ledger_file
from schemas.outcome import OUTCOME_SCHEMA, Outcome

_OUTCOME_ROWS = 4096
"""Rows of a row group of outcomes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeRow:
    """One planned clip that was not stored (`schemas.outcome.OUTCOME_SCHEMA`)."""

    key: str
    media_uri: str
    start_seconds: float | None
    end_seconds: float | None
    outcome: str
    stage: str
    reason: str
    transient: bool
    attempts: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """What a committed shard is. Holds nothing that differs between two runs of one plan."""

    index: int
    bucket: str
    planned: int
    stored: int
    filtered: int
    rejected: int
    reasons: Mapping[str, int]
    """How many clips were not stored, by reason."""
    file: FileRecord | None
    outcomes: FileRecord | None
    sums: Mapping[str, object]
    """What the run adds up over shards: channel moments of latents, sums of metrics."""

    def __post_init__(self) -> None:
        if self.planned != self.stored + self.filtered + self.rejected:
            raise ValueError(
                f"shard {self.index}: planned {self.planned} != stored {self.stored} + filtered {self.filtered} "
                f"+ rejected {self.rejected}"
            )

    def to_json(self) -> dict[str, object]:
        """The record as JSON-ready values."""
        return {
            "shard": self.index,
            "bucket": self.bucket,
            "planned": self.planned,
            "stored": self.stored,
            "filtered": self.filtered,
            "rejected": self.rejected,
            "reasons": dict(self.reasons),
            "file": None if self.file is None else self.file.to_json(),
            "outcomes": None if self.outcomes is None else self.outcomes.to_json(),
            "sums": dict(self.sums),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value."""
        file, outcomes = value["file"], value["outcomes"]
        return cls(
            index=cast(int, value["shard"]),
            bucket=cast(str, value["bucket"]),
            planned=cast(int, value["planned"]),
            stored=cast(int, value["stored"]),
            filtered=cast(int, value["filtered"]),
            rejected=cast(int, value["rejected"]),
            reasons=cast(dict[str, int], value["reasons"]),
            file=None if file is None else FileRecord.from_json(cast(dict[str, object], file)),
            outcomes=None if outcomes is None else FileRecord.from_json(cast(dict[str, object], outcomes)),
            sums=cast(dict[str, object], value["sums"]),
        )


def commit_shard(
    folder: Folder,
    shard: PlannedShard,
    *,
    file: FileRecord | None,
    stored: int,
    outcomes: Sequence[OutcomeRow],
    sums: Mapping[str, object],
) -> ShardRecord:
    """Write a shard's outcome rows, then its ledger record: from then on the shard exists.

    Safe to repeat: a second attempt writes the same bytes under the same names.

    Raises:
        ValueError: Not every planned clip is stored, filtered or rejected.
    """
    reasons: dict[str, int] = {}
    for row in outcomes:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    record = ShardRecord(
        index=shard.index,
        bucket=shard.bucket,
        planned=shard.num_clips,
        stored=stored,
        filtered=sum(row.outcome == Outcome.FILTERED for row in outcomes),
        rejected=sum(row.outcome == Outcome.REJECTED for row in outcomes),
        reasons=reasons,
        file=file,
        outcomes=write_outcomes(folder, f"outcomes/{shard.name}.parquet", outcomes),
        sums=sums,
    )
    write_json(folder, ledger_file(shard.index), record.to_json())
    return record


def write_outcomes(folder: Folder, path: str, rows: Iterable[OutcomeRow]) -> FileRecord | None:
    """Write outcome rows as one Parquet file, a bounded number at a time; no file where there are no rows."""
    waiting = iter(rows)
    batch = list(islice(waiting, _OUTCOME_ROWS))
    if not batch:
        return None
    with folder.stage(path) as staged:
        with pq.ParquetWriter(staged.stream, OUTCOME_SCHEMA) as writer:
            while batch:
                writer.write_table(pa.Table.from_pylist([asdict(row) for row in batch], schema=OUTCOME_SCHEMA))
                batch = list(islice(waiting, _OUTCOME_ROWS))
        return staged.commit()


def read_outcomes(folder: Folder, path: str) -> Iterator[OutcomeRow]:
    """The rows of a file of `write_outcomes`, in order."""
    with folder.open(path) as stream:
        file = pq.ParquetFile(stream)
        for row_group in range(file.num_row_groups):
            for row in file.read_row_group(row_group, use_threads=False).to_pylist():
                yield OutcomeRow(**row)


def read_record(folder: Folder, shard_index: int) -> ShardRecord | None:
    """A shard's ledger record, or None where it was never committed."""
    try:
        return ShardRecord.from_json(json.loads(folder.read_bytes(ledger_file(shard_index))))
    except FileNotFoundError:
        return None


def read_ledger(folder: Folder) -> dict[int, ShardRecord]:
    """All committed shards by index, in index order."""
    records = (ShardRecord.from_json(json.loads(data)) for data in folder.read_many(folder.find("ledger")))
    return {record.index: record for record in records}


def write_index(folder: Folder, records: Iterable[ShardRecord]) -> FileRecord:
    """Fold records, in plan order, into the store's index."""
    table = pa.Table.from_pylist([index_row(record) for record in records], schema=INDEX_SCHEMA)
    return write_table(folder, INDEX_FILE, table)


def index_row(record: ShardRecord) -> dict[str, object]:
    """What the index says of a shard (`schemas.manifest.INDEX_SCHEMA`)."""
    return {
        "shard": record.index,
        "bucket": record.bucket,
        "planned": record.planned,
        "stored": record.stored,
        "filtered": record.filtered,
        "rejected": record.rejected,
        "path": record.file.path if record.file else None,
        "size_bytes": record.file.size_bytes if record.file else 0,
        "sha256": record.file.sha256 if record.file else None,
        "outcomes_path": record.outcomes.path if record.outcomes else None,
        "outcomes_sha256": record.outcomes.sha256 if record.outcomes else None,
        "record_sha256": fingerprint(record.to_json()),
    }
