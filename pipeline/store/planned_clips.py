"""Planned clips: which clips are in which shard, streamed to the plan's files and read back; and the plan's media."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.media.source import Media
from pipeline.store.files import FileRecord, Folder, StagedFile
from pipeline.store.plan import Plan
from pipeline.store.planned_shards import PlannedShard
from schemas.manifest import PLANNED_CLIP_SCHEMA
from schemas.metadata import MEDIA_FILE, SHARDS_PER_PLAN_FILE, clips_file, part_file


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedClip:
    """One clip of one media (`schemas.manifest.PLANNED_CLIP_SCHEMA`)."""

    key: str
    media: Media
    clip_index: int
    first_frame: int | None
    """Start of the clip in frames at the clip's rate, counted from the media's first; None for an image."""

    def to_row(self) -> dict[str, object]:
        """The clip as a row."""
        own = {"key": self.key, "clip_index": self.clip_index, "first_frame": self.first_frame}
        return own | self.media.to_row()

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Self:
        """Undo `to_row`."""
        return cls(
            key=cast(str, row["key"]),
            media=Media.from_row(row),
            clip_index=cast(int, row["clip_index"]),
            first_frame=cast(int | None, row["first_frame"]),
        )


class ClipPlanWriter:
    """Streams planned clips into shards: holds the open shard of each bucket, whatever the number of media.

    Shards are numbered in the order in which they fill; what is left at the end closes in bucket order. That order is
    a function of the media's order alone.
    """

    def __init__(self, folder: Folder, *, shard_size: int, part: int = 0) -> None:
        """Begin.

        Args:
            folder: Where the plan's job writes.
            shard_size: Clips of one shard.
            part: The plan's part that the clips are of.
        """
        self.shards: list[PlannedShard] = []
        """Numbered from 0: their places in the part."""
        self.files: list[FileRecord] = []
        self._folder = folder
        self._shard_size = shard_size
        self._part = part
        self._open: dict[str, list[PlannedClip]] = {}
        self._file = ExitStack()
        self._staged: StagedFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # without a commit, where planning failed

    def add(self, bucket: str, clip: PlannedClip) -> None:
        """Give a clip to the open shard of its bucket."""
        clips = self._open.setdefault(bucket, [])
        clips.append(clip)
        if len(clips) == self._shard_size:
            self._close_shard(bucket)

    def finish(self) -> None:
        """Close the shards that did not fill and commit the last file."""
        for bucket in sorted(self._open):
            self._close_shard(bucket)
        if self._staged is not None:
            self._commit()

    def _close_shard(self, bucket: str) -> None:
        clips = self._open.pop(bucket)
        place = len(self.shards)
        self.shards.append(PlannedShard(index=place, bucket=bucket, num_clips=len(clips)))
        self._write(place, pa.Table.from_pylist([clip.to_row() for clip in clips], schema=PLANNED_CLIP_SCHEMA))

    def _write(self, place: int, table: pa.Table) -> None:
        path, row_group = clips_file(place)
        if self._staged is None:
            self._staged = self._file.enter_context(self._folder.stage(part_file(path, self._part)))
            self._writer = pq.ParquetWriter(self._staged.stream, PLANNED_CLIP_SCHEMA)
        assert self._writer is not None
        self._writer.write_table(table, row_group_size=table.num_rows)
        if row_group == SHARDS_PER_PLAN_FILE - 1:
            self._commit()

    def _commit(self) -> None:
        assert self._writer is not None
        assert self._staged is not None
        self._writer.close()
        self.files.append(self._staged.commit())
        self._file.close()
        self._staged = self._writer = None


def read_media(folder: Folder, plan: Plan) -> Iterator[Media]:
    """The media of a plan, in order, those named again too; none where it lies over another store's shards."""
    for path in plan.paths(MEDIA_FILE):
        with folder.open(path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group, use_threads=False).to_pylist():
                    yield Media.from_row(row)


def read_planned_clips(folder: Folder, shard: PlannedShard) -> list[PlannedClip]:
    """The clips of one planned shard, in order: one row group."""
    path, row_group = planned_at(shard)
    with folder.open(path) as stream:
        rows = pq.ParquetFile(stream).read_row_group(row_group, use_threads=False).to_pylist()
    return [PlannedClip.from_row(row) for row in rows]


def read_planned_keys(folder: Folder, shard: PlannedShard) -> list[str] | None:
    """Keys of the clips of one planned shard, in order; None where the plan lies over another store's shards."""
    path, row_group = planned_at(shard)
    if not folder.exists(path):
        return None
    with folder.open(path) as stream:
        table = pq.ParquetFile(stream).read_row_group(row_group, columns=["key"], use_threads=False)
    keys: list[str] = table["key"].to_pylist()
    return keys


def planned_at(shard: PlannedShard) -> tuple[str, int]:
    """Plan file that holds a shard's clips, and the row group inside it."""
    path, row_group = clips_file(shard.index - shard.part_start)
    return part_file(path, shard.part), row_group
