"""Latents to read: one array as the truth, the same as our stores, and what a reader gave compared with it.

The first eight bytes of a latent are its number, whatever they say as float16: so every reader's batches tell which
samples they hold. The rest is random.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.store.files import Folder
from pipeline.store.index import Normalisation, close_store
from pipeline.store.latentshard import SUFFIXES, LatentShardWriter, ParquetLatentWriter, StoreFormat, TarLatentWriter
from pipeline.store.ledger import ShardRecord, commit_shard
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.latent import LATENT_LAYOUT, latent_schema
from schemas.metadata import LATENT_STORE_FORMAT

CHANNELS = 16
SHARD_ROWS = 2048
Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What is read: latents of one or more grids."""

    name: str
    buckets: tuple[tuple[Grid, int], ...]
    """Grid and number of latents of each, numbered on from one to the next."""
    batch_size: int


def make_truth(path: Path, count: int, grid: Grid) -> NDArray[np.uint8]:
    """Write so many latents of one grid as an npy file: uint8 [count, bytes of a float16 latent]."""
    words = int(np.prod(grid)) * CHANNELS // 4
    truth = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint64, shape=(count, words))
    generator = np.random.default_rng(0)
    for start in range(0, count, SHARD_ROWS):
        part = generator.standard_normal((min(SHARD_ROWS, count - start), words * 4), dtype=np.float32)
        truth[start : start + len(part)] = part.astype(np.float16).view(np.uint64)
        truth[start : start + len(part), 0] = np.arange(start, start + len(part))
    truth.flush()
    return truth.view(np.uint8)


def make_store(url: str, parts: Sequence[tuple[Grid, NDArray[np.uint8]]], form: StoreFormat) -> None:
    """Write latents as one of our stores, as an encode job would; the normalisation is of a few of them."""
    folder, shards, records = Folder(url), [], []
    for grid, truth in parts:
        for start in range(0, len(truth), SHARD_ROWS):
            shards.append((grid, truth[start : start + SHARD_ROWS], planned(len(shards), grid, truth[start:])))
    plan = _plan(folder, [shard for _, _, shard in shards])
    for grid, latents, shard in shards:
        with folder.stage(shard.name + SUFFIXES[form]) as staged:
            _write(staged.stream, grid, latents, form, first=shard.index * SHARD_ROWS)
            file = staged.commit()
        records.append(commit_shard(folder, shard, file=file, stored=len(latents), outcomes=[], sums=moments(latents)))
    _close(folder, plan, records, form)


def make_many(url: str, count: int) -> None:
    """A store of so many tiny latents: one shard under as many names as it takes."""
    folder, grid, latents = Folder(url), (1, 2, 2), np.zeros((SHARD_ROWS, 128), dtype=np.uint8)
    shards = [planned(index, grid, latents) for index in range(-(-count // SHARD_ROWS))]
    plan = _plan(folder, shards)
    stream = io.BytesIO()
    _write(stream, grid, latents, "parquet", first=0)
    records = []
    for shard in shards:
        with folder.stage(shard.name + SUFFIXES["parquet"]) as staged:
            staged.stream.write(stream.getbuffer())
            file = staged.commit()
        records.append(commit_shard(folder, shard, file=file, stored=SHARD_ROWS, outcomes=[], sums=moments(latents)))
    _close(folder, plan, records, "parquet")


def planned(index: int, grid: Grid, latents: NDArray[np.uint8]) -> PlannedShard:
    """The shard of the first of these latents."""
    bucket = "grid=" + "x".join(map(str, grid))
    return PlannedShard(index=index, bucket=bucket, num_clips=min(SHARD_ROWS, len(latents)), sources=("x",))


def moments(latents: NDArray[np.uint8]) -> dict[str, object]:
    """Of a few values: speeds do not depend on them."""
    values = latents[:1, -32:].view(np.float16).astype(np.float64)
    return {"moments": ChannelMoments.of(values).to_json()}


def _plan(folder: Folder, shards: Sequence[PlannedShard]) -> Plan:
    counts = PlanCounts(media=0, clips=sum(shard.num_clips for shard in shards))
    return Plan.save(folder, job="encode", identity={"of": "a benchmark"}, counts=counts, shards=list(shards))


def _write(stream: BinaryIO, grid: Grid, latents: NDArray[np.uint8], form: StoreFormat, *, first: int) -> None:
    shape = (*grid, CHANNELS)
    schema = latent_schema(passed={}, shape=shape, dtype="float16", columns=("mean",))
    writer: LatentShardWriter = (
        ParquetLatentWriter(stream, schema, passed={})
        if form == "parquet"
        else TarLatentWriter(stream, passed={}, columns=("mean",), dtype="float16")
    )
    for number, latent in enumerate(latents, first):
        writer.write(metadata(number), {"mean": latent.view(np.float16).reshape(shape)})
    writer.close()


def _close(folder: Folder, plan: Plan, records: Sequence[ShardRecord], form: StoreFormat) -> None:
    latent = {"format": form, "dtype": "float16", "columns": ["mean"], "layout": LATENT_LAYOUT, "channels": CHANNELS}
    details = {"tokenizer": {"fingerprint": "70ce", "config": {}}, "latent": latent}
    close_store(folder, plan, records, format_name=LATENT_STORE_FORMAT, details=details, sums=Normalisation(CHANNELS))


def metadata(number: int) -> ClipMetadata:
    """Of an image, as a corpus has millions."""
    return ClipMetadata(
        key=f"image-{number:08d}",
        media_uri=f"s3://corpus/image-{number:08d}.jpg",
        media_sha256=f"{number:064x}",
        clip_index=0,
        start_seconds=None,
        end_seconds=None,
        fps=None,
        num_frames=1,
        height=256,
        width=256,
        source_height=480,
        source_width=640,
        orientation=1,
        pixel_aspect=1.0,
        color="srgb",
        interlaced=False,
        crop_left=80.0,
        crop_top=0.0,
        crop_right=560.0,
        crop_bottom=480.0,
        label=f"n{number % 1000:08d}",
        caption=f"picture {number} of a corpus",
        columns={},
    )
