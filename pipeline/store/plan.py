"""Plan first: which shards there are and what is in them, fixed before any work and named by a fingerprint."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.documents import fingerprint, read_json, write_json
from pipeline.store.files import FileRecord, Folder
from schemas.manifest import PLANNED_CLIP_SCHEMA, PLANNED_SHARD_SCHEMA
from schemas.metadata import FORMAT_VERSION, PLAN_FILE, SHARDS_FILE, SHARDS_PER_PLAN_FILE, clips_file, differences


class RunRefusedError(RuntimeError):
    """A run that must not go on here; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedClip:
    """One clip of one media (`schemas.manifest.PLANNED_CLIP_SCHEMA`)."""

    key: str
    media_uri: str
    kind: str
    clip_index: int
    start_seconds: float | None
    end_seconds: float | None


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
            rows = read_table(stream).to_pylist()
        return cls(
            job=str(document["job"]),
            fingerprint=str(document["fingerprint"]),
            identity=identity,
            counts=PlanCounts(**counts),
            files=tuple(FileRecord.from_json(file) for file in files),
            shards=tuple(
                PlannedShard(
                    index=row["shard"],
                    bucket=row["bucket"],
                    num_clips=row["num_clips"],
                    sources=tuple(row["sources"]),
                )
                for row in rows
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
    """Streams planned clips into shards: buffers one shard a bucket, so memory does not grow with the media.

    Shards are numbered in the order in which they fill; what is left at the end closes in bucket order. That order is
    a function of the media's order alone.
    """

    def __init__(self, folder: Folder, *, shard_size: int) -> None:
        self.shards: list[PlannedShard] = []
        self.files: list[FileRecord] = []
        self._folder = folder
        self._shard_size = shard_size
        self._open: dict[str, list[PlannedClip]] = {}
        self._tables: list[pa.Table] = []

    def add(self, bucket: str, clip: PlannedClip) -> None:
        """Give a clip to the open shard of its bucket."""
        clips = self._open.setdefault(bucket, [])
        clips.append(clip)
        if len(clips) == self._shard_size:
            self._close_shard(bucket)

    def finish(self) -> None:
        """Close the shards that did not fill and write what is buffered."""
        for bucket in sorted(self._open):
            if self._open[bucket]:
                self._close_shard(bucket)
        self._flush()

    def _close_shard(self, bucket: str) -> None:
        clips = self._open.pop(bucket)
        index = len(self.shards)
        self.shards.append(PlannedShard(index=index, bucket=bucket, num_clips=len(clips)))
        self._tables.append(pa.Table.from_pylist([asdict(clip) for clip in clips], schema=PLANNED_CLIP_SCHEMA))
        if len(self._tables) == SHARDS_PER_PLAN_FILE:
            self._flush()

    def _flush(self) -> None:
        if not self._tables:
            return
        path, _ = clips_file(len(self.shards) - 1)
        with self._folder.stage(path) as staged:
            with pq.ParquetWriter(staged.stream, PLANNED_CLIP_SCHEMA) as writer:
                for table in self._tables:
                    writer.write_table(table, row_group_size=table.num_rows)
            self.files.append(staged.commit())
        self._tables = []


def read_planned_clips(folder: Folder, shard: PlannedShard) -> list[PlannedClip]:
    """The clips of one planned shard, in order: one row group."""
    path, row_group = clips_file(shard.index)
    with folder.open(path) as stream:
        rows = pq.ParquetFile(stream).read_row_group(row_group, use_threads=False).to_pylist()
    return [PlannedClip(**row) for row in rows]


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
