"""The ledger: only a record in it makes a shard exist; folded at the end into one index."""

import hashlib
import json
from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from io import FileIO
from itertools import islice
from typing import Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.documents import fingerprint, write_json
from pipeline.store.files import FileRecord, Folder
from pipeline.store.planned_shards import PlannedShard
from schemas.manifest import INDEX_SCHEMA
from schemas.metadata import INDEX_FILE, ledger_file
from schemas.outcome import OUTCOME_SCHEMA, Outcome

_LEDGER_FOLDER = "ledger"
"""See `schemas.metadata.ledger_file`."""

_OUTCOME_ROWS = 4096
"""Rows of a row group of outcomes."""

_INDEX_ROWS = 16384
"""Rows of a row group of the index."""

_BATCH_RECORDS = 1000
"""Records read at once."""

_READERS = 2
"""Threads that read records ahead: while one waits for a cold disk or an object store, records are parsed."""


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
    _file_sha256: str | None = field(init=False, default=None, compare=False, repr=False)
    """Of the ledger file that the record was read from; not an argument, so that a changed copy has none."""

    def __post_init__(self) -> None:
        if self.planned != self.stored + self.filtered + self.rejected:
            raise ValueError(
                f"shard {self.index}: planned {self.planned} != stored {self.stored} + filtered {self.filtered} "
                f"+ rejected {self.rejected}"
            )

    @property
    def sha256(self) -> str:
        """Of the record's canonical JSON, which is its ledger file."""
        # Hashed once as it was read: writing a record out again takes longer than reading it.
        return self._file_sha256 or fingerprint(self.to_json())

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

    @classmethod
    def from_file(cls, folder: Folder, shard_index: int, data: bytes) -> Self:
        """Read the bytes of a shard's ledger file.

        Raises:
            ValueError: They are no record of that shard; the file is named.
        """
        advice = "remove the file, start the job again, and it makes the shard again"
        try:
            record = cls.from_json(json.loads(data))
        except (ValueError, KeyError, TypeError) as error:
            where = folder.path(ledger_file(shard_index))
            raise ValueError(f"{where}: is no ledger record: {error!r}; {advice}") from error
        if record.index != shard_index:
            where = folder.path(ledger_file(shard_index))
            raise ValueError(f"{where}: holds the record of shard {record.index}, expected {shard_index}; {advice}")
        object.__setattr__(record, "_file_sha256", hashlib.sha256(data).hexdigest())
        return record


class Ledger(Mapping[int, ShardRecord]):
    """The committed shards of a folder by index, in index order.

    Which there are is known from a listing; records are read when they are asked for and not kept, so that a million
    of them fit. `values` and `items` read many at a time, and anew each time.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._indices = dict.fromkeys(_list_ledger(folder))

    def __contains__(self, shard_index: object) -> bool:
        return shard_index in self._indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, shard_index: int) -> ShardRecord:
        if shard_index not in self._indices:
            raise KeyError(shard_index)
        return ShardRecord.from_file(self._folder, shard_index, self._folder.read_bytes(ledger_file(shard_index)))

    def values(self) -> ValuesView[ShardRecord]:
        """The records, read as they are iterated over."""
        return _Records(self)

    def items(self) -> ItemsView[int, ShardRecord]:
        """Indices and records, read as they are iterated over."""
        return _Items(self)

    def stream(self) -> Iterator[ShardRecord]:
        """Read all records, a bounded number ahead of what is taken."""
        indices = iter(self._indices)
        waiting: deque[tuple[list[int], Future[list[bytes]]]] = deque()
        with ThreadPoolExecutor(_READERS) as readers:
            while batch := list(islice(indices, _BATCH_RECORDS)):
                waiting.append((batch, readers.submit(_read_batch, self._folder, batch)))
                if len(waiting) > _READERS:
                    yield from self._parse(*waiting.popleft())
            while waiting:
                yield from self._parse(*waiting.popleft())

    def _parse(self, batch: list[int], reading: Future[list[bytes]]) -> Iterator[ShardRecord]:
        for shard_index, data in zip(batch, reading.result(), strict=True):
            yield ShardRecord.from_file(self._folder, shard_index, data)


class _Records(ValuesView[ShardRecord]):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._ledger = ledger

    def __iter__(self) -> Iterator[ShardRecord]:
        return self._ledger.stream()


class _Items(ItemsView[int, ShardRecord]):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._ledger = ledger

    def __iter__(self) -> Iterator[tuple[int, ShardRecord]]:
        return ((record.index, record) for record in self._ledger.stream())


def _read_batch(folder: Folder, shard_indices: Sequence[int]) -> list[bytes]:
    """The ledger files of shards, in their order."""
    paths = [ledger_file(shard_index) for shard_index in shard_indices]
    if not folder.is_local:
        return folder.read_many(paths)
    # Straight from the disk: of files as small as these, fsspec takes three times as long.
    return [_read_local(f"{folder.root}/{path}") for path in paths]


def _read_local(path: str) -> bytes:
    with FileIO(path) as stream:
        return stream.readall()


def _list_ledger(folder: Folder) -> list[int]:
    """Indices of all committed shards, in order, by the names of their records alone."""
    start = folder.path(_LEDGER_FOLDER)
    folder.file_system.invalidate_cache(start)
    if not folder.file_system.exists(start):
        return []
    with ThreadPoolExecutor(_READERS) as readers:
        parts = readers.map(partial(_list_part, folder), folder.file_system.ls(start, detail=False))
        return sorted(shard_index for part in parts for shard_index in part)


def _list_part(folder: Folder, path: str) -> list[int]:
    """Indices of the records in one folder of the ledger; a file of another name is no record."""
    # Not `Folder.find`, which asks for the size and times of each file and holds them all: three times as long.
    names = (str(name) for name in folder.file_system.ls(path, detail=False, refresh=True))
    stems = ((name, name.rpartition("/")[2].removesuffix(".json")) for name in names)
    return [int(stem) for name, stem in stems if stem.isdecimal() and name == f"{folder.root}/{ledger_file(int(stem))}"]


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
        data = folder.read_bytes(ledger_file(shard_index))
    except FileNotFoundError:
        return None
    return ShardRecord.from_file(folder, shard_index, data)


def read_ledger(folder: Folder) -> Ledger:
    """All committed shards by index, in index order, as they are now."""
    return Ledger(folder)


def write_index(folder: Folder, records: Iterable[ShardRecord], *, path: str = INDEX_FILE) -> FileRecord:
    """Fold records, in plan order, into an index of the store, a bounded number at a time."""
    waiting = (index_row(record) for record in records)
    with folder.stage(path) as staged:
        with pq.ParquetWriter(staged.stream, INDEX_SCHEMA) as writer:
            while rows := list(islice(waiting, _INDEX_ROWS)):
                writer.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
        return staged.commit()


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
        "record_sha256": record.sha256,
    }
