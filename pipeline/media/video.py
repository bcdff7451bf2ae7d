"""Videos: a file to exact RGB frames by presentation time, clip by clip, through FFmpeg (PyAV) or decord."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.media.clip_frames import ClipFrames, PrepareFrame
from pipeline.media.color_tags import color_tags, to_rgb
from pipeline.media.container import check_pixels, demuxed_end_seconds, header_end_seconds, open_video
from pipeline.media.display import orientation_of, upright_aspect, upright_size
from pipeline.media.frames import FramePlayer, Shows, play_frames
from pipeline.media.guard import MediaLimits
from pipeline.media.image import turn_upright
from pipeline.media.reject import RejectClip
from pipeline.media.span import ClipSpan, sample_times
from schemas.outcome import Reason

VideoDecoder = Literal["pyav", "decord"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """What a video's header and first frame say of it."""

    duration_seconds: Fraction
    """From the first frame to the end, as the header claims it; the stream may end sooner."""
    fps: Fraction | None
    """Average frame rate, where the container knows it."""
    start_seconds: Fraction
    """Presentation time of the first frame on the container's clock; clip spans count from here."""
    height: int
    """Rows of the upright first frame."""
    width: int
    """Columns of the upright first frame."""
    orientation: int
    """EXIF orientation 1-8 that turns stored frames upright; 1 is upright."""
    pixel_aspect: float
    """Width over height of a pixel of the upright frame."""
    interlaced: bool
    """Whether the first frame is two fields; they are not separated."""
    color: str
    """How its colours are read, such as "bt709 limited" (see `color_tags`)."""


def probe_video(file: BinaryIO, limits: MediaLimits) -> VideoFacts:
    """Read a video's header and decode its first frame.

    Raises:
        RejectClip: `empty_file`, `too_large`, `unknown_format`, `no_video_stream`, or `corrupt`; `unreadable` where
            the file is one of `open_media`.
    """
    with open_video(file, limits) as video:
        first = next(iter(Shows(video)))
        start_seconds = first.start_seconds
        fps = video.stream.average_rate or None
        pixel_aspect = video.pixel_aspect
        end_seconds = header_end_seconds(video)
    if end_seconds is None:
        with open_video(file, limits) as video:
            end_seconds = demuxed_end_seconds(video)
    duration_seconds = max(end_seconds - start_seconds, Fraction(0))
    if duration_seconds > limits.max_duration_seconds:
        raise RejectClip(Reason.TOO_LARGE, f"{float(duration_seconds)} s, limit {limits.max_duration_seconds}")
    assert first.frame is not None
    height, width = upright_size(first.frame)
    return VideoFacts(
        duration_seconds=duration_seconds,
        fps=fps,
        start_seconds=start_seconds,
        height=height,
        width=width,
        orientation=orientation_of(first.frame),
        pixel_aspect=upright_aspect(first.frame, pixel_aspect),
        interlaced=first.frame.interlaced_frame,
        color=str(color_tags(first.frame)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedClip:
    """A clip's upright frames and what was done to get them."""

    frames: NDArray[np.uint8]
    """[T, H, W, 3] RGB, upright; after `prepare_frame`, where there is one."""
    source_height: int
    """Rows of the upright frames before `prepare_frame`."""
    source_width: int
    """Columns of the upright frames before `prepare_frame`."""
    orientation: int
    """EXIF orientation 1-8 that was applied; 1 is upright."""
    pixel_aspect: float
    """Width over height of a pixel of the upright frames before `prepare_frame`."""
    color: str
    """How the first frame's colours were read, such as "bt709 limited" (see `color_tags`)."""
    interlaced: bool
    """Whether any frame is two fields; they are not separated."""


def decode_clips(
    file: BinaryIO,
    spans: Sequence[ClipSpan],
    limits: MediaLimits,
    *,
    decoder: VideoDecoder = "pyav",
    prepare_frame: PrepareFrame | None = None,
) -> Iterator[DecodedClip | RejectClip]:
    """Decode clips of one video in one pass.

    Gives exactly one result for each span, in order: a clip, or the reason why it cannot be had. A fault costs the
    clips that lie on it and none before it; after it, decoding goes on at the next keyframe. A clip's pixels do not
    depend on which other clips are asked for. Held are the frames of the clip at hand as `prepare_frame` leaves them,
    and the few that the decoder itself holds; only frames that are sampled are converted to RGB.

    Each frame is the one on show at its sample time (see `span.frame_at`); the last frame of the stream stays on show
    for its own duration and no longer. A clip whose frames change size within it is rejected as corrupt. Colours are
    read as `color_tags` says.

    Args:
        file: Seekable.
        spans: Sorted and disjoint, counted from the video's first frame.
        limits: All but `max_bytes` and `max_duration_seconds` apply; `max_clip_bytes` to what is held.
        decoder: What `decord` does otherwise is written in `decord_video`. It may hang or crash the process.
        prepare_frame: Applied to each sampled frame as it comes; must be a function of its arguments alone.

    Raises:
        ValueError: The spans are not sorted and disjoint.
    """
    for before, after in itertools.pairwise(spans):
        if after.start_seconds < before.end_seconds:
            raise ValueError(f"spans: clip {after.index} starts before the end of clip {before.index}")
    if not spans:
        return
    if decoder == "decord":
        # Only where asked for: it brings another FFmpeg into the process.
        from pipeline.media.decord_video import decord_clips

        yield from decord_clips(file, spans, limits, prepare_frame)
        return
    num_given = 0
    try:
        with play_frames(file, limits) as player:
            for span in spans:
                player.start_clip(span.start_seconds)
                clip = _clip(player, span, limits, prepare_frame)
                num_given += 1
                yield clip
    except RejectClip as fault:
        yield from [fault] * (len(spans) - num_given)


def _clip(
    player: FramePlayer, span: ClipSpan, limits: MediaLimits, prepare_frame: PrepareFrame | None
) -> DecodedClip | RejectClip:
    """The frames at the span's sample times, or why not."""
    reformatter = VideoReformatter()
    clip = ClipFrames(span.num_frames, limits, prepare_frame)
    first: VideoFrame | None = None
    shown: VideoFrame | None = None
    interlaced = False
    try:
        for time in sample_times(span):
            frame = player.frame_at(time)
            if frame is shown:
                clip.repeat()
                continue
            shown = frame
            first = first or frame
            interlaced = interlaced or frame.interlaced_frame
            check_pixels(frame.height, frame.width, limits)
            pixels = turn_upright(to_rgb(frame, reformatter), orientation_of(frame))
            clip.add(pixels, upright_aspect(frame, player.pixel_aspect))
        assert first is not None
        height, width = clip.source_size
        return DecodedClip(
            frames=clip.finished(),
            source_height=height,
            source_width=width,
            orientation=orientation_of(first),
            pixel_aspect=upright_aspect(first, player.pixel_aspect),
            color=str(color_tags(first)),
            interlaced=interlaced,
        )
    except RejectClip as fault:
        return fault
