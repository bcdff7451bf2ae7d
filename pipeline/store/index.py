"""Reading a finished store: its `store.json` and its index, checked against each other."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.store.documents import read_json
from pipeline.store.files import Folder
from schemas.metadata import INDEX_FILE, STORE_FILE, check_format


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
    data = folder.read_bytes(INDEX_FILE)
    index = document["index"]
    assert isinstance(index, dict)
    if hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise ValueError(f"{folder.path(INDEX_FILE)} is not the index that {STORE_FILE} was written with: damaged")
    rows = [IndexRow(**row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    return Store(folder=folder, document=document, rows=rows)
