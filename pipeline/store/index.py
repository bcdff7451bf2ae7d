"""Finished stores: closed by their index and a sealed `store.json`, and opened with both checked."""

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol, Self

import pyarrow as pa

from pipeline.store.documents import read_json, sealed, write_json
from pipeline.store.files import Folder
from pipeline.store.ledger import ShardRecord, write_index
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, plan_sha256
from pipeline.store.tables import read_table
from schemas.metadata import FORMAT_VERSION, STORE_FILE, check_format, index_file, ledger_file


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """One shard of a store (`schemas.manifest.INDEX_SCHEMA`)."""

    shard: int
    bucket: str
    planned: int
    stored: int
    filtered: int
    rejected: int
    path: str | None
    size_bytes: int
    sha256: str | None
    outcomes_path: str | None
    outcomes_sha256: str | None
    record_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A finished store of any format."""

    folder: Folder
    document: Mapping[str, object]
    """`store.json`."""
    rows: Sequence[IndexRow]
    """In plan order."""

    @property
    def identity(self) -> dict[str, object]:
        """What names the store's content: the plan's fingerprint and the hash of the index, so of every shard."""
        index = self.document["index"]
        assert isinstance(index, dict)
        return {"fingerprint": self.document["fingerprint"], "index_sha256": index["sha256"]}


@dataclass(kw_only=True, slots=True)
class Tally:
    """What shards add up to: takes their records one at a time and keeps none."""

    shards: int = 0
    planned: int = 0
    stored: int = 0
    filtered: int = 0
    rejected: int = 0
    size_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[ShardRecord]) -> Self:
        """The sum of records."""
        tally = cls()
        for record in records:
            tally.add(record)
        return tally

    def add(self, record: ShardRecord) -> None:
        """Count a shard in."""
        self.shards += 1
        self.planned += record.planned
        self.stored += record.stored
        self.filtered += record.filtered
        self.rejected += record.rejected
        self.size_bytes += record.file.size_bytes if record.file else 0
        for reason, count in record.reasons.items():
            self.reasons[reason] += count


class Sums(Protocol):
    """What a format adds up over its shards beside the counts, one record at a time and in plan order."""

    def add(self, record: ShardRecord) -> None:
        """Count a shard in."""

    def to_json(self) -> Mapping[str, object]:
        """Its keys of `store.json`."""


class Normalisation:
    """`Sums` of a latent store: mean and std of each channel over the corpus and per bucket.

    The moments of a bucket are merged as they come, those of the corpus out of the buckets' in order of their names:
    one plan gives the same bits, however its shards were made.
    """

    def __init__(self, channels: int, stated: Mapping[str, Sequence[float]] | None = None) -> None:
        """Begin with no shard.

        Args:
            channels: K.
            stated: Mean and std by channel that the tokenizer's authors give its generators, where they state any.
        """
        self._channels = channels
        self._stated = {} if stated is None else {"tokenizer": {name: list(stated[name]) for name in ("mean", "std")}}
        self._buckets: dict[str, ChannelMoments] = {}

    def add(self, record: ShardRecord) -> None:
        """Merge the moments of a shard of `pipeline.stages.encode`."""
        moments = record.sums["moments"]
        assert isinstance(moments, dict)
        merged = self._buckets.get(record.bucket) or ChannelMoments.empty(self._channels)
        self._buckets[record.bucket] = merged.merge(ChannelMoments.from_json(moments))

    def to_json(self) -> dict[str, object]:
        """The key `normalisation` of `store.json`."""
        merged = dict(sorted(self._buckets.items()))
        return {
            "normalisation": {
                "all": ChannelMoments.merge_all(merged.values(), self._channels).normalisation(),
                "buckets": {bucket: moments.normalisation() for bucket, moments in merged.items()},
                **self._stated,
            }
        }


def close_store(
    folder: Folder,
    plan: Plan,
    records: Iterable[ShardRecord],
    *,
    format_name: str,
    details: Mapping[str, object],
    sums: Sums | None = None,
) -> None:
    """Fold the ledger into the index, then write `store.json`: from then on the store is finished.

    Args:
        folder: The store.
        plan: Its plan.
        records: Of every planned shard, in plan order; read once, and none is kept.
        format_name: One of the formats of `schemas.metadata`.
        details: The format's own keys of `store.json`.
        sums: Further ones, added up over the records.

    Raises:
        ValueError: A planned shard has no record, or a record no planned shard.
    """
    buckets: dict[str, Tally] = {}
    outcomes: set[str] = set()

    def passing() -> Iterator[ShardRecord]:
        for record in _in_plan_order(folder, plan, records):
            buckets.setdefault(record.bucket, Tally()).add(record)
            if record.outcomes is not None:
                outcomes.add(record.outcomes.path)
            if sums is not None:
                sums.add(record)
            yield record

    index = write_index(folder, passing(), path=index_file(len(plan.parts)))
    for path in folder.find("outcomes"):
        if path not in outcomes:
            folder.remove(path)  # a retry cured all that it tells of
    document = {
        "format": format_name,
        "format_version": FORMAT_VERSION,
        "fingerprint": plan.fingerprint,
        "plan_sha256": plan_sha256(folder),
        "counts": total_counts(plan, buckets.values()),
        "buckets": {
            name: {"shards": tally.shards, "clips": tally.stored, "size_bytes": tally.size_bytes}
            for name, tally in buckets.items()
        },
        "index": index.to_json(),
        **details,
        **(sums.to_json() if sums is not None else {}),
    }
    write_json(folder, STORE_FILE, sealed(document))


def _in_plan_order(folder: Folder, plan: Plan, records: Iterable[ShardRecord]) -> Iterator[ShardRecord]:
    for shard, record in zip_longest(plan.shards, records):
        if shard is None or record is None or shard.index != record.index:
            expected = "no further shard" if shard is None else f"shard {shard.index}"
            found = "no further record" if record is None else f"the record of shard {record.index}"
            raise ValueError(
                f"{folder.url}: the plan goes on with {expected}, the ledger with {found}: the store cannot be closed; "
                "start its job again, and it makes what is missing"
            )
        yield record


def drop_shards(folder: Folder, rows: Sequence[IndexRow]) -> None:
    """Take shards out of a store: it is unfinished from then on, and the job that made it makes them again.

    Safe to repeat, and to be killed in.
    """
    folder.remove(STORE_FILE)
    for row in rows:
        # The record first: without it the files count for nothing.
        folder.remove(ledger_file(row.shard))
        for path in (row.path, row.outcomes_path):
            if path is not None:
                folder.remove(path)


def total_counts(plan: Plan, shards: Collection[ShardRecord | IndexRow | Tally]) -> dict[str, int]:
    """Planned, stored, filtered and rejected clips of a store: its shards and what ended while planning."""
    return {
        "planned": plan.counts.planned,
        "stored": sum(shard.stored for shard in shards),
        "filtered": sum(shard.filtered for shard in shards) + plan.counts.filtered,
        "rejected": sum(shard.rejected for shard in shards) + plan.counts.rejected,
    }


def open_store(folder: Folder, *, format_name: str) -> Store:
    """Read a finished store.

    Raises:
        ValueError: There is none, it is of another format or version, or its index is not the one it was closed with.
    """
    try:
        document = read_json(folder, STORE_FILE)
    except FileNotFoundError:
        raise ValueError(
            f"{folder.url} holds no {STORE_FILE}: either no store was written there, or the run that writes it has "
            "not finished (start it again and it goes on)"
        ) from None
    check_format(document, format_name=format_name, where=folder.path(STORE_FILE))
    if document != sealed(document):
        raise ValueError(f"{folder.path(STORE_FILE)} is not what was written: its seal does not match its content")
    index = document["index"]
    assert isinstance(index, dict)
    data = folder.read_bytes(index["path"])
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise ValueError(f"{folder.path(index['path'])} is not the index that {STORE_FILE} was written with: damaged")
    return Store(folder=folder, document=document, rows=_rows(read_table(data)))


def is_closed(folder: Folder) -> bool:
    """Whether a folder with a plan has a `store.json`, and one of the plan as it is now: a plan may have grown."""
    return folder.exists(STORE_FILE) and read_json(folder, STORE_FILE)["plan_sha256"] == plan_sha256(folder)


def earlier_states(store: Store) -> list[dict[str, object]]:
    """`Store.identity` of each state that the store was closed in and has only added shards to; the last is now's.

    O(shards); no shard is read.
    """
    plan = Plan.load(store.folder)
    assert plan is not None, "a finished store has a plan"
    states: list[dict[str, object]] = []
    for part, name in enumerate(plan.history):
        if store.folder.exists(index_file(part)):
            data = store.folder.read_bytes(index_file(part))
            rows = _rows(read_table(data))
            if rows == list(store.rows[: len(rows)]):
                states.append({"fingerprint": name, "index_sha256": hashlib.sha256(data).hexdigest()})
    return states


def _rows(table: pa.Table) -> list[IndexRow]:
    """The rows of an index, without a dictionary for each; equal names of buckets are one string."""
    columns = {name: table.column(name).to_numpy().tolist() for name in table.column_names}
    columns["bucket"] = list(map(sys.intern, columns["bucket"]))
    names = list(columns)
    return [IndexRow(**dict(zip(names, values, strict=True))) for values in zip(*columns.values(), strict=True)]
