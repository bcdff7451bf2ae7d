"""The index of a latent store: which shards there are and where each sample lies. Needs no schema package."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = "vitok-latents"
FORMAT_VERSION = 1
STORE_FILE = "store.json"
INDEX_FILE = "index.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentShard:
    """One committed file of latents of one grid."""

    path: str
    """Relative to the store."""
    grid: tuple[int, int, int]
    """Tubelets along time, height and width."""
    num_clips: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentIndex:
    """What `store.json` and `index.parquet` say."""

    document: Mapping[str, object]
    shards: tuple[LatentShard, ...]
    offsets: tuple[int, ...]
    """Global position of each shard's first clip, and the total at the end."""

    def locate(self, position: int) -> tuple[int, int]:
        """Shard index and row of a global position.

        Raises:
            IndexError: The position is outside the store.
        """
        if not 0 <= position < self.offsets[-1]:
            raise IndexError(f"position {position} is outside a store of {self.offsets[-1]} clips")
        shard = bisect_right(self.offsets, position) - 1
        return shard, position - self.offsets[shard]


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
    data = file_system.cat_file(f"{root}/{INDEX_FILE}")
    if hashlib.sha256(data).hexdigest() != document["index"]["sha256"]:
        raise ValueError(f"{url}: {INDEX_FILE} is not the index that {STORE_FILE} was written with: damaged")
    # Not pq.read_table of a Python file: its threads may outlive the call and abort the interpreter as it ends.
    table = pq.ParquetFile(pa.BufferReader(data)).read(columns=["path", "bucket", "stored"], use_threads=False)
    # Through numpy, and each bucket's name parsed once: a dictionary for each row takes five times as long.
    paths, buckets, counts = (table.column(name).to_numpy().tolist() for name in ("path", "bucket", "stored"))
    grids = {bucket: _parse_grid(bucket) for bucket in set(buckets)}
    shards = tuple(
        LatentShard(path=path, grid=grids[bucket], num_clips=count)
        for path, bucket, count in zip(paths, buckets, counts, strict=True)
        if path is not None
    )
    offsets = tuple(accumulate((shard.num_clips for shard in shards), initial=0))
    return LatentIndex(document=document, shards=shards, offsets=offsets)


def _seal(document: Mapping[str, object]) -> str:
    """Sha256 of the canonical JSON of all keys but the seal."""
    rest = {name: value for name, value in document.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _parse_grid(bucket: str) -> tuple[int, int, int]:
    frames, height, width = bucket.removeprefix("grid=").split("x")
    return int(frames), int(height), int(width)
