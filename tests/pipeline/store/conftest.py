"""A clip's metadata, a place in an object store, and one finished clip store, written by the real writers."""

import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.media.source import Media, MediaKind
from pipeline.store.clipshard import Clip, ClipShardWriter, PixelCodec, code_clip
from pipeline.store.files import Folder
from pipeline.store.index import close_store
from pipeline.store.ledger import OutcomeRow, commit_shard, write_outcomes
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_clips import ClipPlanWriter, PlannedClip, read_planned_clips
from schemas.clip import ClipMetadata
from schemas.metadata import CLIP_STORE_FORMAT, PLAN_OUTCOMES_FILE
from schemas.outcome import Outcome, Reason, Stage


@pytest.fixture
def memory_url():
    """URL of an empty folder of an object store (fsspec's, in this process)."""
    url = f"memory://{uuid.uuid4().hex}/store"
    yield url
    file_system, root = fsspec.core.url_to_fs(url)
    if file_system.exists(root):
        file_system.rm(root, recursive=True)


@pytest.fixture(scope="session")
def clip_metadata() -> Callable[..., ClipMetadata]:
    """Metadata of a clip by key and shape [T, H, W, 3]."""

    def make(key: str, shape: tuple[int, ...] = (1, 16, 16, 3), **changes: object) -> ClipMetadata:
        num_frames, height, width, _ = shape
        still = num_frames == 1
        values: dict[str, object] = {
            "key": key,
            "media_uri": f"/media/{key}.mp4",
            "media_sha256": "5" * 64,
            "clip_index": 0,
            "start_seconds": None if still else 0.0,
            "end_seconds": None if still else num_frames / 8,
            "fps": None if still else 8.0,
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "source_height": 480,
            "source_width": 640,
            "orientation": 1,
            "pixel_aspect": 1.0,
            "color": "srgb",
            "interlaced": False,
            "crop_left": 80.0,
            "crop_top": 0.0,
            "crop_right": 560.0,
            "crop_bottom": 480.0,
            "label": None,
            "caption": None,
            "columns": {},
        }
        return ClipMetadata(**values | changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def photograph(wheel_media):
    """A photograph, uint8 [1, 256, 256, 3]."""
    with Image.open(wheel_media("scikit-image", "coffee.png")) as image:
        return np.asarray(image.convert("RGB"))[np.newaxis, 60:316, 150:406]


@pytest.fixture(scope="session")
def outcome_row() -> Callable[..., OutcomeRow]:
    """A reject by key."""

    def make(key: str, **changes: object) -> OutcomeRow:
        values: dict[str, object] = {
            "key": key,
            "media_uri": f"/media/{key}.mp4",
            "start_seconds": None,
            "end_seconds": None,
            "outcome": Outcome.REJECTED,
            "stage": Stage.DECODE,
            "reason": Reason.CORRUPT,
            "transient": False,
            "attempts": 1,
            "message": "cut off",
        }
        return OutcomeRow(**values | changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def planned_clip() -> Callable[[str], PlannedClip]:
    """A planned image by key."""

    def make(key: str) -> PlannedClip:
        media = Media(uri=f"/media/{key}.png", kind=MediaKind.IMAGE, size_bytes=5, version="1")
        return PlannedClip(key=key, media=media, clip_index=0, first_frame=None)

    return make


@pytest.fixture
def clip_store(tmp_path: Path, photograph, clip_metadata, outcome_row, planned_clip) -> Folder:
    """A finished clip store: 7 images in 3 shards, one of them rejected while decoding and one while planning."""
    folder = Folder(str(tmp_path / "clips"))
    with ClipPlanWriter(folder, shard_size=3) as writer:
        for number in range(7):
            writer.add("grid=1x2x2", planned_clip(f"clip-{number}"))
        writer.finish()
    ended = [outcome_row("empty", stage=Stage.PLAN, reason=Reason.EMPTY_FILE)]
    files = [write_outcomes(folder, PLAN_OUTCOMES_FILE, ended), *writer.files]
    counts = PlanCounts(media=8, clips=7, rejected=1, reasons={Reason.EMPTY_FILE: 1})
    identity = {"resolution": 16}
    plan = Plan.save(folder, job="prepare", identity=identity, counts=counts, shards=writer.shards, files=files)
    records = []
    for shard in plan.shards:
        outcomes = []
        with folder.stage(shard.name + ".tar") as staged:
            tar = ClipShardWriter(staged.stream)
            for planned in read_planned_clips(folder, shard):
                number = int(planned.key[-1])
                if number == 4:
                    outcomes.append(outcome_row(planned.key, media_uri=planned.media.uri))
                    continue
                pixels = photograph[:, 16 * number :][:, :16, :16]
                clip = Clip(pixels=pixels, metadata=clip_metadata(planned.key, media_uri=planned.media.uri))
                tar.write(code_clip(clip, PixelCodec(name="png")))
            tar.close()
            file = staged.commit()
        records.append(commit_shard(folder, shard, file=file, stored=tar.num_clips, outcomes=outcomes, sums={}))
    close_store(folder, plan, records, format_name=CLIP_STORE_FORMAT, details={})
    return folder
