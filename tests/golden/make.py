"""Writes `latents_v1`: latent stores whose every value follows from a rule, for later versions to read.

`python tests/golden/make.py` from the repository's root. Only for a new format version, into a new folder: what stands
here is what an earlier version wrote.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pipeline.store.files import TEMPORARY_FOLDER, Folder
from pipeline.store.index import close_store
from pipeline.store.latentshard import SUFFIXES, LatentShardWriter, ParquetLatentWriter, StoreFormat, TarLatentWriter
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.latent import LATENT_LAYOUT, latent_columns, latent_schema
from schemas.metadata import FORMAT_VERSION, LATENT_STORE_FORMAT
from schemas.outcome import Outcome, Reason, Stage

HERE = Path(__file__).parent / "latents_v1"
CHANNELS = 4
SHARDS = (((1, 2, 2), range(3)), ((2, 2, 3), range(3, 5)))
"""Grid and numbers of the clips of each shard."""
REJECTED = 5
"""Number of the clip that the last shard does not hold."""
PASSED = {"rank": "int64", "score": "float64", "safe": "bool", "license": "string", "tags": "json"}
VALUES: Mapping[int, Mapping[str, object]] = {
    0: {"rank": -7, "score": 0.1, "safe": True, "license": "CC-BY ü", "tags": ["ü", {"b": None, "a": 1}]},
    1: {},
    2: {"rank": 2**53 + 1, "score": 3, "safe": False, "license": "", "tags": "text"},
    3: {"rank": 0, "score": None, "safe": None, "license": None, "tags": None},
    4: {"rank": 1, "score": -2.5e-300, "safe": True, "license": "\n", "tags": 4},
}
"""Pass-through columns by number of the clip: every type, with and without a value."""
TOKENIZER = {
    "encoder": {"embed_dim": 192, "depth": 2, "num_heads": 3},
    "decoder": {"embed_dim": 192, "depth": 2, "num_heads": 3},
    "tubelet": {"frames": 2, "patch": 8},
    "latent_channels": CHANNELS,
    "activation": "swiglu",
    "rope_theta": 10000.0,
    "layer_norm_eps": 1e-5,
    "positions": "rope3d",
    "bottleneck": "kl",
    "bottleneck_noise": 0.1,
}
"""N-N/2x8 as version 1 wrote it; not `to_json`, which may come to say more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenStore:
    """How one of the stores is written."""

    form: StoreFormat
    dtype: str
    columns: tuple[str, ...] = ("mean",)
    passed: Mapping[str, str] = field(default_factory=dict)


_EVERYTHING = latent_columns(logvar=True, flip=True)
STORES = {
    "parquet-float16": GoldenStore(form="parquet", dtype="float16"),
    "parquet-bfloat16": GoldenStore(form="parquet", dtype="bfloat16", columns=_EVERYTHING, passed=PASSED),
    "webdataset-float16": GoldenStore(form="webdataset", dtype="float16", columns=_EVERYTHING, passed=PASSED),
    "webdataset-bfloat16": GoldenStore(form="webdataset", dtype="bfloat16"),
}


def latent(key: str, column: str, grid: tuple[int, int, int]) -> Tensor:
    """The rule: signed bytes of SHAKE-256 of "KEY.COLUMN", over 16, which every stored dtype holds exactly.

    Returns:
        float32 [T', H', W', K] in [-8, 8).
    """
    shape = (*grid, CHANNELS)
    digest = hashlib.shake_256(f"{key}.{column}".encode()).digest(math.prod(shape))
    return torch.frombuffer(bytearray(digest), dtype=torch.int8).reshape(shape).float() / 16


def clip_metadata(number: int, passed: Mapping[str, str]) -> ClipMetadata:
    """The first three clips are images, the others of video; odd ones have neither label nor caption."""
    is_video = number >= 3
    return ClipMetadata(
        key=f"clip-{number}",
        media_uri=f"s3://media/ü {number}.{'mp4' if is_video else 'png'}",
        media_sha256=f"{number:064x}",
        clip_index=number - 3 if is_video else 0,
        start_seconds=0.5 * number if is_video else None,
        end_seconds=0.5 * number + 0.5 if is_video else None,
        fps=8.0 if is_video else None,
        num_frames=4 if is_video else 1,
        height=16,
        width=24 if is_video else 16,
        source_height=480,
        source_width=640,
        orientation=6 if number == 2 else 1,
        pixel_aspect=4 / 3 if is_video else 1.0,
        color="bt709 limited" if is_video else "srgb",
        interlaced=is_video,
        crop_left=0.1 * number,
        crop_top=0.0,
        crop_right=560.0,
        crop_bottom=480.0,
        label=None if number % 2 else f"n{number:08d}",
        caption=None if number % 2 else f"clip {number}, “quoted”\nand more",
        columns={name: VALUES[number].get(name) for name in passed if VALUES[number]},
    )


def write(url: str, golden: GoldenStore) -> None:
    """Write one of the stores with the pipeline's own writers."""
    folder = Folder(url)
    shards = [
        PlannedShard(
            index=index,
            bucket="grid=" + "x".join(map(str, grid)),
            num_clips=len(numbers) + (index == len(SHARDS) - 1),
            sources=(f"grid/{index}.tar",),
        )
        for index, (grid, numbers) in enumerate(SHARDS)
    ]
    identity = {"format_version": FORMAT_VERSION, "latent": {"format": golden.form, "dtype": golden.dtype}}
    counts = PlanCounts(media=0, clips=sum(shard.num_clips for shard in shards))
    plan = Plan.save(folder, job="encode", identity=identity, counts=counts, shards=shards)
    records, by_bucket = [], {}
    for shard, (grid, numbers) in zip(shards, SHARDS, strict=True):
        moments = ChannelMoments.empty(CHANNELS)
        with folder.stage(shard.name + SUFFIXES[golden.form]) as staged:
            writer = _writer(staged.stream, golden, grid)
            for number in numbers:
                metadata = clip_metadata(number, golden.passed)
                values = {name: latent(metadata.key, name, grid) for name in golden.columns}
                stored = {name: value.to(getattr(torch, golden.dtype)) for name, value in values.items()}
                bits = {
                    name: value.view(torch.uint16) if golden.dtype == "bfloat16" else value
                    for name, value in stored.items()
                }
                writer.write(metadata, {name: value.numpy() for name, value in bits.items()})
                moments = moments.merge(ChannelMoments.of(values["mean"].numpy()))
            writer.close()
            file = staged.commit()
        by_bucket[shard.bucket] = moments
        records.append(
            commit_shard(
                folder,
                shard,
                file=file,
                stored=writer.num_clips,
                outcomes=list(_rejects(shard.num_clips - writer.num_clips)),
                sums={"moments": moments.to_json()},
            )
        )
    latents = {"format": golden.form, "dtype": golden.dtype, "columns": list(golden.columns)}
    close_store(
        folder,
        plan,
        records,
        format_name=LATENT_STORE_FORMAT,
        details={
            "tokenizer": {"fingerprint": "70ke", "config": TOKENIZER},
            "preprocessing": {"tubelet": "2x8"},
            "columns": dict(golden.passed),
            "latent": latents | {"layout": LATENT_LAYOUT, "channels": CHANNELS},
            "inference": {"batch_size": 8, "precision": "float32", "device": "cpu", "threads": 1},
            "normalisation": {
                "all": ChannelMoments.merge_all(by_bucket.values(), CHANNELS).normalisation(),
                "buckets": {bucket: moments.normalisation() for bucket, moments in by_bucket.items()},
            },
        },
    )
    folder.remove(TEMPORARY_FOLDER)


def _writer(stream: BinaryIO, golden: GoldenStore, grid: tuple[int, int, int]) -> LatentShardWriter:
    if golden.form == "webdataset":
        return TarLatentWriter(stream, passed=golden.passed, columns=golden.columns, dtype=golden.dtype)
    schema = latent_schema(passed=golden.passed, shape=(*grid, CHANNELS), dtype=golden.dtype, columns=golden.columns)
    return ParquetLatentWriter(stream, schema, passed=golden.passed)


def _rejects(count: int) -> Iterator[OutcomeRow]:
    for number in range(REJECTED, REJECTED + count):
        yield OutcomeRow(
            key=f"clip-{number}",
            media_uri=f"s3://media/ü {number}.mp4",
            start_seconds=0.0,
            end_seconds=0.5,
            outcome=Outcome.REJECTED,
            stage=Stage.ENCODE,
            reason=Reason.NONFINITE_LATENT,
            transient=False,
            attempts=1,
            message="NaN or Inf in mean as float16",
        )


if __name__ == "__main__":
    if HERE.exists():
        raise SystemExit(f"{HERE} is there: golden files are written once, and a new format version has its own folder")
    for name, store in STORES.items():
        write(str(HERE / name), store)
