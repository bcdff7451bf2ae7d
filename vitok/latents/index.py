"""The index of a latent store: which shards there are and where each sample lies. Needs no schema package."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

FORMAT = "vitok-latents"
FORMAT_VERSION = 1
STORE_FILE = "store.json"
INDEX_FILE = "index.parquet"
_COLUMNS = ["path", "bucket", "stored", "size_bytes", "sha256"]
_PATH = re.compile(r"(?:[A-Za-z0-9_=-][A-Za-z0-9_=.-]*/)*[A-Za-z0-9_=-][A-Za-z0-9_=-]*\.(?:parquet|tar)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentShard:
    """One committed file of latents of one grid."""

    path: str
    """Relative to the store; never leaves it."""
    grid: tuple[int, int, int]
    """Tubelets along time, height and width."""
    num_clips: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLatents:
    """How latents are stored: the key `latent` of `store.json`."""

    form: str
    """Of the shards: "parquet" or "webdataset"."""
    dtype: str
    channels: int
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentIndex:
    """What `store.json` and `index.parquet` say, column by column: a million shards are no million objects."""

    document: Mapping[str, object]
    grids: tuple[tuple[int, int, int], ...]
    """Of the buckets, in the order in which they first appear."""
    bucket: NDArray[np.int64]
    """[shards], place in `grids` of each shard's."""
    offsets: NDArray[np.int64]
    """[shards + 1], global position of each shard's first clip, and the total at the end."""
    files: pa.Table
    """Path, size_bytes and sha256 of each shard."""

    @property
    def latent(self) -> StoredLatents:
        """How latents are stored."""
        latent = self.document["latent"]
        assert isinstance(latent, dict)
        return StoredLatents(
            form=latent["format"], dtype=latent["dtype"], channels=latent["channels"], columns=tuple(latent["columns"])
        )

    @property
    def sha256(self) -> str:
        """Of the index file: names all that the store holds."""
        index = self.document["index"]
        assert isinstance(index, dict)
        return str(index["sha256"])

    def shard(self, number: int) -> LatentShard:
        """The shard of this number.

        Raises:
            ValueError: Its path could leave the store, or its hash is none.
        """
        path, size_bytes, sha256 = (self.files[name][number].as_py() for name in ("path", "size_bytes", "sha256"))
        if _PATH.fullmatch(path) is None or _SHA256.fullmatch(sha256) is None:
            raise ValueError(f"{INDEX_FILE}: shard {number} has path {path!r} and sha256 {sha256!r}: no shard's names")
        return LatentShard(
            path=path,
            grid=self.grids[self.bucket[number]],
            num_clips=int(self.offsets[number + 1] - self.offsets[number]),
            size_bytes=size_bytes,
            sha256=sha256,
        )

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard numbers and rows of global positions.

        Raises:
            IndexError: A position is outside the store.
        """
        outside = positions[(positions < 0) | (positions >= self.offsets[-1])]
        if len(outside):
            raise IndexError(f"position {outside[0]} is outside a store of {self.offsets[-1]} clips")
        shards = np.searchsorted(self.offsets, positions, side="right") - 1
        return shards, positions - self.offsets[shards]


def read_index(url: str) -> LatentIndex:
    """Read a store's index: two small files, whatever the store holds.

    Raises:
        ValueError: There is no finished latent store, or it is of another version, or its index is damaged.
    """
    file_system, root = fsspec.core.url_to_fs(url)
    try:
        document = json.loads(file_system.cat_file(f"{root}/{STORE_FILE}"))
    except FileNotFoundError:
        raise ValueError(f"{url} holds no {STORE_FILE}: no finished latent store is there") from None
    except ValueError as error:
        raise ValueError(f"{url}: {STORE_FILE} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{url}: {STORE_FILE} holds {type(document).__name__}, expected a JSON object")
    found = (document.get("format"), document.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"{url}: format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    if document.get("seal") != _seal(document):
        raise ValueError(f"{url}: {STORE_FILE} is not what was written: its seal does not match its content")
    path = document["index"]["path"]  # a store that grew has one beside that of before
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"{url}: {STORE_FILE} names the index {path!r}: no index's name")
    data = file_system.cat_file(f"{root}/{path}")
    if hashlib.sha256(data).hexdigest() != document["index"]["sha256"]:
        raise ValueError(f"{url}: {path} is not the index that {STORE_FILE} was written with: damaged")
    # Not pq.read_table of a Python file: its threads may outlive the call and abort the interpreter as it ends.
    table = pq.ParquetFile(pa.BufferReader(data)).read(columns=_COLUMNS, use_threads=False)
    table = table.filter(pc.is_valid(table.column("path"))).combine_chunks()
    buckets = pc.dictionary_encode(table.column("bucket")).combine_chunks()
    return LatentIndex(
        document=document,
        grids=tuple(_parse_grid(name) for name in buckets.dictionary.to_pylist()) if len(table) else (),
        bucket=buckets.indices.to_numpy().astype(np.int64) if len(table) else np.zeros(0, np.int64),
        offsets=np.concatenate([[0], np.cumsum(table.column("stored").to_numpy())]).astype(np.int64),
        files=table.select(["path", "size_bytes", "sha256"]),
    )


def _seal(document: Mapping[str, object]) -> str:
    """Sha256 of the canonical JSON of all keys but the seal."""
    rest = {name: value for name, value in document.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _parse_grid(bucket: str) -> tuple[int, int, int]:
    frames, height, width = bucket.removeprefix("grid=").split("x")
    return int(frames), int(height), int(width)
