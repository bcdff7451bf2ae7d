"""A small tokenizer with seeded weights, and clip shards for it cut out of a photograph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.stages.clip_source import StoredClips
from pipeline.stages.encode import EncodeShard, LatentFormat
from pipeline.stages.tokenizer import Inference
from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip
from pipeline.store.files import Folder
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from tests.pipeline.stages.latent_shards import CHANNELS, GRID
from vitok.config import AutoEncoderConfig
from vitok.latents.shards import read_rows
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

BUCKET = "grid=2x2x2"


@pytest.fixture(scope="session")
def make_clip(wheel_media) -> Callable[..., Clip]:
    """A clip of 4 frames of 16x16 pixels that moves over a photograph; another one for every number."""
    with Image.open(wheel_media("scikit-image", "coffee.png")) as image:
        photograph = np.asarray(image.convert("RGB"))

    def make(number: int) -> Clip:
        row, column = 17 * number % 300, 31 * number % 500
        frames = [photograph[row + step :, column + 2 * step :][:16, :16] for step in range(4)]
        metadata = ClipMetadata(
            key=f"clip-{number}",
            media_uri=f"/media/{number // 3}.mp4",
            media_sha256="5" * 64,
            clip_index=number % 3,
            start_seconds=number % 3 * 0.5,
            end_seconds=number % 3 * 0.5 + 0.5,
            fps=8.0,
            num_frames=4,
            height=16,
            width=16,
            source_height=400,
            source_width=600,
            orientation=1,
            pixel_aspect=1.0,
            color="srgb",
            interlaced=False,
            crop_left=100.0,
            crop_top=0.0,
            crop_right=500.0,
            crop_bottom=400.0,
            label=None,
            caption=None,
            columns={},
        )
        return Clip(pixels=np.stack(frames), metadata=metadata)

    return make


@pytest.fixture
def write_clips(tmp_path: Path, make_clip) -> Callable[..., str]:
    """Writes clips by number as a raw clip shard into the folder "clips"; gives its path there."""

    def write(name: str, numbers: list[int]) -> str:
        with Folder(str(tmp_path / "clips")).stage(f"{BUCKET}/{name}.tar") as staged:
            writer = ClipShardWriter(staged.stream)
            for number in numbers:
                writer.write(code_clip(make_clip(number), PixelCodec(name="raw")))
            writer.close()
            return staged.commit().path

    return write


@pytest.fixture(scope="session")
def make_model() -> Callable[[], AutoEncoder]:
    """The same N-N/2x8 each time."""

    def make() -> AutoEncoder:
        torch.manual_seed(0)
        return AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4))

    return make


@pytest.fixture
def tokenizer_url(tmp_path: Path, make_model) -> str:
    """Folder of that model."""
    save_checkpoint(str(tmp_path / "tokenizer"), make_model())
    return str(tmp_path / "tokenizer")


@pytest.fixture
def edited_tokenizer(tmp_path: Path, make_model) -> Callable[[Callable[[AutoEncoder], None]], str]:
    """Folder of that model after an edit of its weights."""

    def make(edit: Callable[[AutoEncoder], None]) -> str:
        model = make_model()
        with torch.no_grad():
            edit(model)
        save_checkpoint(str(tmp_path / "edited"), model)
        return str(tmp_path / "edited")

    return make


@pytest.fixture
def encode(tmp_path, tokenizer_url):
    """Encodes clip shards as one shard: the report, the folder, and latents by key and column."""

    def encode(
        sources,
        num_clips,
        *,
        name="latents",
        tokenizer=tokenizer_url,
        batch_size=4,
        through=lambda clips: clips,
        **latent,
    ):
        output = Folder(str(tmp_path / name))
        stage = EncodeShard(
            source=through(StoredClips(Folder(str(tmp_path / "clips")))),
            output=output,
            tokenizer_url=tokenizer,
            inference=Inference(batch_size=batch_size),
            channels=CHANNELS,
            latent=LatentFormat(**latent),
        )
        shard = PlannedShard(index=0, bucket="grid=2x2x2", num_clips=num_clips, sources=tuple(sources))
        report = stage(shard)
        found = {}
        if report.record.file is not None:
            settings = LatentFormat(**latent)
            with output.open(report.record.file.path) as stream:
                for rows in read_rows(
                    stream,
                    path=report.record.file.path,
                    shape=(*GRID, CHANNELS),
                    dtype=settings.dtype,
                    latent_columns=settings.columns,
                ):
                    for row, key in enumerate(rows.columns["key"]):
                        found[key] = {column: values[row] for column, values in rows.latents.items()}
        return report, output, found

    return encode
