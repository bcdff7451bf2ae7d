"""Prepare a corpus: media in, clip shards out."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.media.bucket import bucket_name, clip_grid
from pipeline.media.guard import MediaLimits
from pipeline.media.keys import clip_key
from pipeline.media.resize import Kernel, ResizeProtocol
from pipeline.media.source import Listing, Media, MediaKind, list_media
from pipeline.media.span import ClipSpan, parse_fps
from pipeline.runs.cluster import default_workers
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.runs.shards import Workers
from pipeline.stages.prepare import ClipProtocol, PrepareShard
from pipeline.stages.probe import ProbeMedia
from pipeline.store.clipshard import CodecName, PixelCodec
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow, ShardRecord, write_outcomes
from pipeline.store.plan import ClipPlanWriter, Plan, PlanCounts, PlannedClip, write_table
from schemas.manifest import MEDIA_SCHEMA
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION, MEDIA_FILE, PLAN_OUTCOMES_FILE
from schemas.outcome import Outcome
from vitok.config import Tubelet

_PROBE_BATCH_ROWS = 64
"""Media of one task of the probe."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Decode images and videos into clip shards of one resolution."""

    input: tuple[str, ...]
    """Files, folders or globs of media: paths or URLs."""
    output: str
    """Folder of the clip store: path or URL."""
    resolution: int = 256
    """Side of a clip in pixels: the short side is resized to it, then the centre is cut out."""
    num_frames: int = 16
    """Frames of a video's clip: 1, or a multiple of the tubelet's frames and more than one tubelet."""
    fps: str = "8"
    """Frames a second of a video's clip, such as 8, 7.5 or 30000/1001."""
    tubelet: str = "4x8"
    """QxP, frames by pixels, as the tokenizer will cut."""
    kernel: Kernel = "bilinear"
    """Filter of the resize; the paper's is bilinear."""
    codec: CodecName = "jpeg"
    """How pixels stand in the shards."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    shard_size: int = 1024
    """Clips of one shard."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        tubelet = Tubelet.parse(self.tubelet)
        parse_fps(self.fps)
        if not self.input:
            raise ValueError("--input: got nothing, expected at least one file, folder or glob")
        if self.resolution < 1 or self.resolution % tubelet.patch:
            raise ValueError(
                f"--resolution: got {self.resolution}, expected a multiple of the tubelet's patch {tubelet.patch}"
            )
        if self.num_frames != 1 and (self.num_frames % tubelet.frames or self.num_frames == tubelet.frames):
            # At exactly one tubelet a clip would share its grid with images, and a bucket holds one shape.
            raise ValueError(
                f"--num-frames: got {self.num_frames}, expected 1 or a multiple of the tubelet's {tubelet.frames} "
                f"frames of at least {2 * tubelet.frames}"
            )
        if self.shard_size < 1:
            raise ValueError(f"--shard-size: got {self.shard_size}, expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")


def prepare(config: PrepareConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job; see `run_planned` for what is raised.

    Raises:
        ValueError: An input names no media.
    """
    output = Folder(config.output)
    tubelet = Tubelet.parse(config.tubelet)
    protocol = ClipProtocol(
        resize=ResizeProtocol(resolution=config.resolution, kernel=config.kernel),
        num_frames=config.num_frames,
        fps=parse_fps(config.fps),
        codec=PixelCodec(name=config.codec, quality=config.quality),
        limits=MediaLimits(),
    )
    listing = list_media(config.input)
    if listing.ignored or listing.duplicates:
        logger.info("prepare: files that are not media: %s; named twice: %d", listing.ignored, listing.duplicates)
    preprocessing = {
        "resolution": config.resolution,
        "resize": f"short side to {config.resolution} with Pillow's {config.kernel}, then centre crop",
        "kernel": config.kernel,
        "num_frames": config.num_frames,
        "fps": str(protocol.fps),
        "tubelet": str(tubelet),
        "codec": protocol.codec.to_json(),
    }
    identity = {
        "format_version": FORMAT_VERSION,
        "media": _digest(listing.media),
        "preprocessing": preprocessing,
        "limits": asdict(protocol.limits),
        "shard_size": config.shard_size,
    }

    def describe(_plan: Plan, _records: Sequence[ShardRecord]) -> dict[str, object]:
        return {"preprocessing": preprocessing}

    job = Job(
        name="prepare",
        store_format=CLIP_STORE_FORMAT,
        identity=identity,
        make_plan=partial(_plan, config.shard_size, identity, output, protocol, tubelet, listing),
        make_stage=partial(PrepareShard, output=output, protocol=protocol),
        workers=partial(_workers, config.num_workers),
        describe=describe,
    )
    return run_planned(job, config=config, output=output, clock=clock, break_claim=config.break_claim)


def _workers(num_workers: int) -> Workers:
    return Workers(count=num_workers or default_workers(cpus_per_worker=1, device="cpu"))


def _digest(media: Sequence[Media]) -> dict[str, object]:
    """What the media are, by count and hash: one changed file is another corpus."""
    digest = hashlib.sha256()
    for entry in media:
        digest.update(f"{entry.uri}\0{entry.kind}\0{entry.size_bytes}\0{entry.version}\n".encode())
    return {"count": len(media), "sha256": digest.hexdigest()}


def _plan(
    shard_size: int,
    identity: Mapping[str, object],
    output: Folder,
    protocol: ClipProtocol,
    tubelet: Tubelet,
    listing: Listing,
) -> Plan:
    """Probe every media on the cluster and lay its clips into shards, in the media's order."""
    columns = {name: [getattr(media, name) for media in listing.media] for name in MEDIA_SCHEMA.names}
    files = [write_table(output, MEDIA_FILE, pa.table(columns, schema=MEDIA_SCHEMA))]
    probe = ProbeMedia(fps=protocol.fps, num_frames=protocol.num_frames, limits=protocol.limits)
    writer = ClipPlanWriter(output, shard_size=shard_size)
    ended: list[OutcomeRow] = []
    clips = 0
    for media, found in zip(listing.media, _probed(listing.media, probe), strict=True):
        if isinstance(found, OutcomeRow):
            ended.append(found)
            continue
        clips += found
        bucket = bucket_name(clip_grid(media.kind, protocol.resize, protocol.num_frames, tubelet))
        for index in range(found):
            writer.add(bucket, _planned_clip(media, index, protocol))
    writer.finish()
    if ended:
        files.append(write_outcomes(output, PLAN_OUTCOMES_FILE, ended))
    counts = PlanCounts(
        media=len(listing.media),
        clips=clips,
        filtered=sum(row.outcome == Outcome.FILTERED for row in ended),
        rejected=sum(row.outcome == Outcome.REJECTED for row in ended),
        reasons=dict(Counter(row.reason for row in ended)),
    )
    files += writer.files
    return Plan.save(output, job="prepare", identity=identity, counts=counts, shards=writer.shards, files=files)


def _planned_clip(media: Media, index: int, protocol: ClipProtocol) -> PlannedClip:
    span = None if media.kind is MediaKind.IMAGE else ClipSpan.at(index, protocol.fps, protocol.num_frames)
    return PlannedClip(
        key=clip_key(media.uri, index),
        media_uri=media.uri,
        kind=media.kind,
        clip_index=index,
        start_seconds=None if span is None else float(span.start_seconds),
        end_seconds=None if span is None else float(span.end_seconds),
    )


def _probed(media: Sequence[Media], probe: ProbeMedia) -> Iterator[int | OutcomeRow]:
    """Results of the probe in the media's order, through Ray Data."""
    import ray.data

    table = pa.table({"uri": [entry.uri for entry in media], "kind": [str(entry.kind) for entry in media]})
    slices = [table.slice(start, _PROBE_BATCH_ROWS) for start in range(0, len(table), _PROBE_BATCH_ROWS)]
    dataset = ray.data.from_arrow(slices).map_batches(
        partial(_probe_batch, probe), batch_size=None, batch_format="numpy"
    )
    dataset.context.execution_options.preserve_order = True
    for row in dataset.iter_rows():
        found = json.loads(row["found"])
        yield found if isinstance(found, int) else OutcomeRow(**found)


def _probe_batch(probe: ProbeMedia, batch: dict[str, NDArray[np.object_]]) -> dict[str, NDArray[np.str_]]:
    found = [probe(uri, MediaKind(kind)) for uri, kind in zip(batch["uri"], batch["kind"], strict=True)]
    texts = [json.dumps(entry if isinstance(entry, int) else asdict(entry)) for entry in found]
    return {"found": np.array(texts)}
