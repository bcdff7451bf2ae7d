"""Latent stores written by the pipeline's own writers, photographs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from pipeline.store.files import Folder
from pipeline.store.index import close_store
from pipeline.store.latentshard import SUFFIXES, ParquetLatentWriter, TarLatentWriter
from pipeline.store.ledger import OutcomeRow, commit_shard
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.latent import LATENT_LAYOUT, latent_schema
from schemas.metadata import LATENT_STORE_FORMAT
from schemas.outcome import Outcome, Reason, Stage
from vitok.config import AutoEncoderConfig

CHANNELS = 4
COLUMNS = ("mean", "logvar")
SHARDS = (((1, 2, 2), 5), ((2, 2, 3), 3), ((1, 2, 2), 0), ((1, 2, 2), 7), ((2, 2, 3), 4))

TOKENIZER = {
    "fingerprint": "70ke",
    "config": AutoEncoderConfig.from_name("N-N/2x8", latent_channels=CHANNELS).to_json(),
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A store and what was put into it, in its order."""

    url: str
    dtype: str
    keys: list[str]
    grids: list[tuple[int, int, int]]
    latents: dict[str, list[torch.Tensor]]
    """By column, one tensor [T', H', W', K] a clip, of the stored dtype."""


def clip_metadata(number: int) -> ClipMetadata:
    """Metadata in which every value follows from the number."""
    return ClipMetadata(
        key=f"clip-{number}",
        media_uri=f"/media/ü {number}.mp4",
        media_sha256=f"{number:064x}",
        clip_index=number,
        start_seconds=number / 3 if number % 2 else None,
        end_seconds=number / 2 if number % 2 else None,
        fps=8.0 if number % 2 else None,
        num_frames=4,
        height=16,
        width=16,
        source_height=480,
        source_width=640,
        orientation=1,
        pixel_aspect=1.0,
        color="srgb",
        interlaced=False,
        crop_left=0.1 * number,
        crop_top=0.0,
        crop_right=560.0,
        crop_bottom=480.0,
        label=f"n{number % 3}",
        caption=f"clip {number}" if number % 2 else None,
        columns={},
    )


@pytest.fixture(scope="session")
def write_latent_store() -> Callable[..., Written]:
    """Writes a finished latent store of the given shards: (grid, number of clips) each; 0 is a shard of one reject.

    `normalisation` is added to that key of `store.json`.
    """

    def write(
        path: Path,
        *,
        form: str = "parquet",
        dtype: str = "float16",
        shards: Sequence[tuple[tuple[int, int, int], int]] = SHARDS,
        columns: Sequence[str] = COLUMNS,
        tokenizer: Mapping[str, object] = TOKENIZER,
        normalisation: Mapping[str, object] | None = None,
    ) -> Written:
        folder = Folder(str(path))
        generator = torch.Generator().manual_seed(0)
        planned = tuple(
            PlannedShard(
                index=index, bucket="grid=" + "x".join(map(str, grid)), num_clips=max(count, 1), sources=("x",)
            )
            for index, (grid, count) in enumerate(shards)
        )
        clips = sum(shard.num_clips for shard in planned)
        counts = PlanCounts(media=0, clips=clips)
        plan = Plan.save(folder, job="encode", identity={"dtype": dtype}, counts=counts, shards=planned)
        number = 0
        records = []
        written = Written(url=str(path), dtype=dtype, keys=[], grids=[], latents={name: [] for name in columns})
        parts: dict[str, list[ChannelMoments]] = {}
        for shard, (grid, count) in zip(planned, shards, strict=True):
            outcomes, file = [], None
            if not count:
                outcomes.append(_reject(clip_metadata(number)))
                number += 1
            with folder.stage(shard.name + SUFFIXES[form]) as staged:
                shape = (*grid, CHANNELS)
                writer = (
                    TarLatentWriter(staged.stream, passed={}, columns=columns, dtype=dtype)
                    if form == "webdataset"
                    else ParquetLatentWriter(
                        staged.stream,
                        latent_schema(passed={}, shape=shape, dtype=dtype, columns=columns),
                        passed={},
                    )
                )
                for _ in range(count):
                    values = {
                        name: (torch.randn(shape, generator=generator) * 3 + torch.arange(CHANNELS)).to(
                            getattr(torch, dtype)
                        )
                        for name in columns
                    }
                    arrays = {
                        name: (value.view(torch.uint16) if dtype == "bfloat16" else value).numpy()
                        for name, value in values.items()
                    }
                    metadata = clip_metadata(number)
                    writer.write(metadata, arrays)
                    parts.setdefault(shard.bucket, []).append(ChannelMoments.of(values["mean"].float().numpy()))
                    written.keys.append(metadata.key)
                    written.grids.append(grid)
                    for name in columns:
                        written.latents[name].append(values[name])
                    number += 1
                writer.close()
                file = staged.commit() if count else None
            records.append(commit_shard(folder, shard, file=file, stored=count, outcomes=outcomes, sums={}))
        merged = {bucket: ChannelMoments.merge_all(moments, CHANNELS) for bucket, moments in parts.items()}
        close_store(
            folder,
            plan,
            records,
            format_name=LATENT_STORE_FORMAT,
            details={
                "tokenizer": dict(tokenizer),
                "latent": {
                    "format": form,
                    "dtype": dtype,
                    "columns": list(columns),
                    "layout": LATENT_LAYOUT,
                    "channels": CHANNELS,
                },
                "normalisation": {
                    "all": ChannelMoments.merge_all(merged.values(), CHANNELS).normalisation(),
                    "buckets": {bucket: moments.normalisation() for bucket, moments in merged.items()},
                    **(normalisation or {}),
                },
            },
        )
        return written

    return write


def _reject(metadata: ClipMetadata) -> OutcomeRow:
    return OutcomeRow(
        key=metadata.key,
        media_uri=metadata.media_uri,
        start_seconds=None,
        end_seconds=None,
        outcome=Outcome.REJECTED,
        stage=Stage.ENCODE,
        reason=Reason.NONFINITE_LATENT,
        transient=False,
        attempts=1,
        message="NaN",
    )


@pytest.fixture(
    scope="session",
    params=[(form, dtype) for form in SUFFIXES for dtype in ("float16", "bfloat16", "float32")],
    ids="-".join,
)
def written(request, tmp_path_factory, write_latent_store) -> Written:
    """One store for every format and dtype."""
    form, dtype = request.param
    return write_latent_store(tmp_path_factory.mktemp("store") / "latents", form=form, dtype=dtype)


@pytest.fixture(scope="session")
def photographs(wheel_media: Callable[[str, str], Path]) -> torch.Tensor:
    """Photographs as stills, uint8 [3, 1, 300, 400, 3]."""
    frames = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        with Image.open(wheel_media("scikit-image", name)) as image:
            frames.append(np.asarray(image.convert("RGB"))[:300, :400])
    return rearrange(torch.from_numpy(np.stack(frames)), "N H W C -> N 1 H W C")
