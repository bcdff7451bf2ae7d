"""Finished stores: closed by their index and a sealed `store.json`, and opened with both checked."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.store.documents import read_json, sealed, write_json
from pipeline.store.files import Folder
from pipeline.store.ledger import ShardRecord, write_index
from pipeline.store.plan import Plan, read_table
from schemas.metadata import FORMAT_VERSION, INDEX_FILE, PLAN_FILE, STORE_FILE, check_format, ledger_file


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


def close_store(
    folder: Folder,
    plan: Plan,
    records: Sequence[ShardRecord],
    *,
    format_name: str,
    details: Mapping[str, object],
) -> None:
    """Fold the ledger into the index, then write `store.json`: from then on the store is finished.

    Args:
        folder: The store.
        plan: Its plan.
        records: Of every planned shard, in plan order.
        format_name: One of the formats of `schemas.metadata`.
        details: The format's own keys of `store.json`.
    """
    named = {record.outcomes.path for record in records if record.outcomes is not None}
    for path in folder.find("outcomes"):
        if path not in named:
            folder.remove(path)  # a retry cured all that it tells of
    index = write_index(folder, records)
    buckets: dict[str, dict[str, int]] = {}
    for shard in records:
        bucket = buckets.setdefault(shard.bucket, {"shards": 0, "clips": 0, "size_bytes": 0})
        bucket["shards"] += 1
        bucket["clips"] += shard.stored
        bucket["size_bytes"] += shard.file.size_bytes if shard.file else 0
    document = {
        "format": format_name,
        "format_version": FORMAT_VERSION,
        "fingerprint": plan.fingerprint,
        "plan_sha256": hashlib.sha256(folder.read_bytes(PLAN_FILE)).hexdigest(),
        "counts": total_counts(plan, records),
        "buckets": buckets,
        "index": index.to_json(),
        **details,
    }
    write_json(folder, STORE_FILE, sealed(document))


def drop_shards(folder: Folder, rows: Sequence[IndexRow]) -> None:
    """Take shards out of a store: it is unfinished from then on, and the job that made it makes them again.

    Safe to repeat, and to be killed in.
    """
    folder.remove(STORE_FILE)
    folder.remove(INDEX_FILE)
    for row in rows:
        # The record first: without it the files count for nothing.
        folder.remove(ledger_file(row.shard))
        for path in (row.path, row.outcomes_path):
            if path is not None:
                folder.remove(path)


def total_counts(plan: Plan, shards: Sequence[ShardRecord | IndexRow]) -> dict[str, int]:
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
    data = folder.read_bytes(INDEX_FILE)
    index = document["index"]
    assert isinstance(index, dict)
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise ValueError(f"{folder.path(INDEX_FILE)} is not the index that {STORE_FILE} was written with: damaged")
    rows = [IndexRow(**row) for row in read_table(data).to_pylist()]
    return Store(folder=folder, document=document, rows=rows)
