"""Plan first: which shards there are and what is in them, fixed before any work and named by a fingerprint."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.media.source import Media
from pipeline.store.documents import fingerprint, read_json, write_json
from pipeline.store.files import FileRecord, Folder, StagedFile
from schemas.manifest import PLANNED_CLIP_SCHEMA, PLANNED_SHARD_SCHEMA
from schemas.metadata import FORMAT_VERSION, PLAN_FILE, SHARDS_FILE, SHARDS_PER_PLAN_FILE, clips_file, differences

_LOADED_ROWS = 4096
"""Rows of planned shards that are dictionaries at one time while a plan is loaded."""


class RunRefusedError(RuntimeError):
    """A run that must not go on here; the message says why and what to do."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShard:
    """One output file to be: the unit of work, retry and commit."""

    index: int
    bucket: str
    num_clips: int
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Path of the shard's file in its store, without extension."""
        return f"{self.bucket}/shard-{self.index:08d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCounts:
    """Totals fixed by planning. Clips count what shards hold; media that ended while planning count apart."""

    media: int
    clips: int
    filtered: int = 0
    rejected: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why media were filtered or rejected while planning."""

    @property
    def planned(self) -> int:
        """What must be accounted for: planned = stored + filtered + rejected."""
        return self.clips + self.filtered + self.rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole plan; only the first run on a folder makes one."""

    job: str
    fingerprint: str
    identity: Mapping[str, object]
    """Everything that can change an output byte; the fingerprint is its hash."""
    counts: PlanCounts
    files: tuple[FileRecord, ...]
    """The plan's other files."""
    shards: tuple[PlannedShard, ...]

    @classmethod
    def load(cls, folder: Folder) -> Self | None:
        """The plan of a folder, or None where none was finished."""
        if not folder.exists(PLAN_FILE):
            return None
        document = read_json(folder, PLAN_FILE)
        if document.get("format_version") != FORMAT_VERSION:
            raise RunRefusedError(
                f"{folder.path(PLAN_FILE)}: plan format {document.get('format_version')!r}, "
                f"this program writes {FORMAT_VERSION}; go on with the version that began, or give another --output"
            )
        counts, identity, files = document["counts"], document["identity"], document["files"]
        assert isinstance(counts, dict)
        assert isinstance(identity, dict)
        assert isinstance(files, list)
        with folder.open(SHARDS_FILE) as stream:
            table = read_table(stream)
        return cls(
            job=str(document["job"]),
            fingerprint=str(document["fingerprint"]),
            identity=identity,
            counts=PlanCounts(**counts),
            files=tuple(FileRecord.from_json(file) for file in files),
            shards=tuple(
                # Equal names of buckets are one string.
                PlannedShard(
                    index=row["shard"],
                    bucket=sys.intern(row["bucket"]),
                    num_clips=row["num_clips"],
                    sources=tuple(row["sources"]),
                )
                for batch in table.to_batches(max_chunksize=_LOADED_ROWS)
                for row in batch.to_pylist()
            ),
        )

    @classmethod
    def save(
        cls,
        folder: Folder,
        *,
        job: str,
        identity: Mapping[str, object],
        counts: PlanCounts,
        shards: Sequence[PlannedShard],
        files: Sequence[FileRecord] = (),
    ) -> Self:
        """Write a plan; `plan.json` last, so that a half-written plan is no plan.

        Args:
            folder: Where the plan's job writes.
            job: Its name.
            identity: See `identity`.
            counts: Totals.
            shards: In order.
            files: Further files of the plan, already written.
        """
        table = pa.table(
            {
                "shard": [shard.index for shard in shards],
                "bucket": [shard.bucket for shard in shards],
                "num_clips": [shard.num_clips for shard in shards],
                "sources": [list(shard.sources) for shard in shards],
            },
            schema=PLANNED_SHARD_SCHEMA,
        )
        files = (*files, write_table(folder, SHARDS_FILE, table))
        plan = cls(
            job=job,
            fingerprint=fingerprint(identity),
            identity=identity,
            counts=counts,
            files=files,
            shards=tuple(shards),
        )
        write_json(
            folder,
            PLAN_FILE,
            {
                "format_version": FORMAT_VERSION,
                "job": job,
                "fingerprint": plan.fingerprint,
                "identity": dict(identity),
                "counts": asdict(counts),
                "files": [file.to_json() for file in files],
            },
        )
        return plan

    def check(self, *, folder: Folder, job: str, identity: Mapping[str, object]) -> None:
        """Refuse to go on with a plan that was made for something else.

        Raises:
            RunRefusedError: Says line by line what differs.
        """
        lines = differences({"job": self.job, **self.identity}, {"job": job, **identity})
        if lines:
            raise RunRefusedError(
                f"{folder.url} was planned for something else; what differs:\n  "
                + "\n  ".join(lines)
                + "\nGive another --output, or the inputs and flags it was planned with."
            )


class ClipPlanWriter:
    """Streams planned clips into shards: holds the open shard of each bucket, whatever the number of media.

    Shards are numbered in the order in which they fill; what is left at the end closes in bucket order. That order is
    a function of the media's order alone.
    """

    def __init__(self, folder: Folder, *, shard_size: int, before: Sequence[PlannedShard] = ()) -> None:
        """Begin, or go on.

        Args:
            folder: Where the plan's job writes.
            shard_size: Clips of one shard.
            before: Shards that a finished plan of the folder has: new ones are numbered after them.
        """
        self.shards: list[PlannedShard] = list(before)
        self.files: list[FileRecord] = []
        self._folder = folder
        self._shard_size = shard_size
        self._open: dict[str, list[PlannedClip]] = {}
        self._file = ExitStack()
        self._staged: StagedFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._first = len(self.shards)

    def __enter__(self) -> Self:
        path, row_groups = clips_file(self._first)
        if row_groups:
            # The last file of the plan has room: it is written again, with more in it.
            with self._folder.open(path) as stream:
                file = pq.ParquetFile(stream)
                for row_group in range(row_groups):
                    self._write(self._first - row_groups + row_group, file.read_row_group(row_group, use_threads=False))
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
        index = len(self.shards)
        self.shards.append(PlannedShard(index=index, bucket=bucket, num_clips=len(clips)))
        self._write(index, pa.Table.from_pylist([clip.to_row() for clip in clips], schema=PLANNED_CLIP_SCHEMA))

    def _write(self, shard_index: int, table: pa.Table) -> None:
        path, row_group = clips_file(shard_index)
        if self._staged is None:
            self._staged = self._file.enter_context(self._folder.stage(path))
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


def read_planned_clips(folder: Folder, shard: PlannedShard) -> list[PlannedClip]:
    """The clips of one planned shard, in order: one row group."""
    path, row_group = clips_file(shard.index)
    with folder.open(path) as stream:
        rows = pq.ParquetFile(stream).read_row_group(row_group, use_threads=False).to_pylist()
    return [PlannedClip.from_row(row) for row in rows]


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


def write_table(folder: Folder, path: str, table: pa.Table) -> FileRecord:
    """Write an Arrow table as one Parquet file, whole or not at all."""
    with folder.stage(path) as staged:
        pq.write_table(table, staged.stream)
        return staged.commit()


def read_table(source: BinaryIO | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or the bytes of one, in this thread.

    Not `pq.read_table` of a Python file (pyarrow 26): its threads may outlive the call and abort the interpreter as it
    ends (32 of 60 runs of a script that did no more).
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)
