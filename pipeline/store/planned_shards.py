"""Planned shards: the output files to be, in order, and how whole clip shards are laid into them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.store.files import FileRecord, Folder
from pipeline.store.tables import read_table, write_table
from schemas.manifest import CLIP_BUCKET_FIELD, PLANNED_SHARD_SCHEMA
from schemas.metadata import SHARDS_FILE, part_file

_LOADED_ROWS = 4096
"""Rows of planned shards that are dictionaries at one time while a plan is loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShard:
    """One output file to be: the unit of work, retry and commit."""

    index: int
    bucket: str
    num_clips: int
    sources: tuple[str, ...] = ()
    part: int = 0
    """Of the plan: 0 is the first one, 1 what it grew by first."""
    part_start: int = 0
    """Shards of the parts before."""
    clip_bucket: str | None = None
    """Of its planned clips, which says their size, where that is not its own bucket: that of its latents' grid."""

    @property
    def name(self) -> str:
        """Path of the shard's file in its store, without extension."""
        return f"{self.bucket}/shard-{self.index:08d}"


def write_shards(folder: Folder, part: int, shards: Sequence[PlannedShard]) -> FileRecord:
    """Write the shards of one part of a plan."""
    table = pa.table(
        {
            "shard": [shard.index for shard in shards],
            "bucket": [shard.bucket for shard in shards],
            "num_clips": [shard.num_clips for shard in shards],
            "sources": [list(shard.sources) for shard in shards],
        },
        schema=PLANNED_SHARD_SCHEMA,
    )
    if any(shard.clip_bucket is not None for shard in shards):
        clip_buckets = pa.array([shard.clip_bucket for shard in shards], CLIP_BUCKET_FIELD.type)
        table = table.append_column(CLIP_BUCKET_FIELD, clip_buckets)
    return write_table(folder, part_file(SHARDS_FILE, part), table)


def read_shards(folder: Folder, part: int, part_start: int) -> Iterator[PlannedShard]:
    """Undo `write_shards`.

    Args:
        folder: Of the plan.
        part: See `PlannedShard`.
        part_start: See `PlannedShard`.
    """
    with folder.open(part_file(SHARDS_FILE, part)) as stream:
        table = read_table(stream)
    for batch in table.to_batches(max_chunksize=_LOADED_ROWS):
        for row in batch.to_pylist():
            clip_bucket = row.get(CLIP_BUCKET_FIELD.name)
            yield PlannedShard(
                index=row["shard"],
                bucket=sys.intern(row["bucket"]),  # equal names of buckets are one string
                num_clips=row["num_clips"],
                sources=tuple(row["sources"]),
                part=part,
                part_start=part_start,
                clip_bucket=None if clip_bucket is None else sys.intern(clip_bucket),
            )


def group_sources(
    sources: Iterable[tuple[str, str, int]],
    *,
    shard_size: int,
) -> Iterator[PlannedShard]:
    """Planned shards made of whole clip shards: neighbours of one bucket, until `shard_size` clips are reached.

    Args:
        sources: (bucket, path, number of clips) of each clip shard, in order.
        shard_size: Clips a shard should hold; it holds more only where one clip shard does.
    """
    open_paths: dict[str, list[str]] = {}
    open_clips: dict[str, int] = {}
    index = 0

    def close(bucket: str) -> PlannedShard:
        return PlannedShard(
            index=index, bucket=bucket, num_clips=open_clips.pop(bucket), sources=tuple(open_paths.pop(bucket))
        )

    for bucket, path, count in sources:
        if bucket in open_paths and open_clips[bucket] + count > shard_size:
            yield close(bucket)
            index += 1
        open_paths.setdefault(bucket, []).append(path)
        open_clips[bucket] = open_clips.get(bucket, 0) + count
    for bucket in sorted(open_paths):
        yield close(bucket)
        index += 1
