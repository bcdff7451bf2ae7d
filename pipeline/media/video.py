"""Videos: a file to exact RGB frames by presentation time, clip by clip, through FFmpeg (PyAV)."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.media.container import (
    AV_FAILURES,
    OpenVideo,
    check_pixels,
    demuxed_end_seconds,
    failure_message,
    header_end_seconds,
    open_video,
)
from pipeline.media.guard import MediaLimits
from pipeline.media.image import turn_upright
from pipeline.media.reject import RejectClip
from pipeline.media.span import ClipSpan, sample_times
from schemas.outcome import Reason

# Containers in which a clip decoded after a seek was seen to equal the same clip decoded from the start; in others
# (AVI and MPEG streams keep no index of presentation times) it does not always, so they are read from the start.
_SEEKABLE = ("mov,mp4", "matroska,webm")
# AVI has no presentation times: what stands there for B-frames is their decoding order.
_WITHOUT_PTS = "avi"

_MAX_ROUNDING = Fraction(1, 2000)


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


def probe_video(file: BinaryIO, limits: MediaLimits) -> VideoFacts:
    """Read a video's header and decode its first frame.

    Raises:
        RejectClip: `empty_file`, `too_large`, `unknown_format`, `no_video_stream`, or `corrupt`; `unreadable` where
            the file is one of `open_media`.
    """
    with open_video(file, limits) as video:
        first = next(iter(_Shows(video)))
        start_seconds = first.start_seconds
        fps = video.stream.average_rate or None
        end_seconds = header_end_seconds(video)
    if end_seconds is None:
        with open_video(file, limits) as video:
            end_seconds = demuxed_end_seconds(video)
    duration_seconds = max(end_seconds - start_seconds, Fraction(0))
    if duration_seconds > limits.max_duration_seconds:
        raise RejectClip(Reason.TOO_LARGE, f"{float(duration_seconds)} s, limit {limits.max_duration_seconds}")
    assert first.frame is not None
    orientation = _orientation(first.frame)
    height, width = first.frame.height, first.frame.width
    return VideoFacts(
        duration_seconds=duration_seconds,
        fps=fps,
        start_seconds=start_seconds,
        height=width if orientation >= 5 else height,
        width=height if orientation >= 5 else width,
        orientation=orientation,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedClip:
    """A clip's upright frames and what was done to get them."""

    frames: NDArray[np.uint8]
    """[T, H, W, 3] RGB, upright."""
    orientation: int
    """EXIF orientation 1-8 that was applied; 1 is upright."""


def decode_clips(
    file: BinaryIO, spans: Sequence[ClipSpan], fps: Fraction, num_frames: int, limits: MediaLimits
) -> Iterator[DecodedClip | RejectClip]:
    """Decode clips of one video in one pass.

    Gives exactly one result for each span, in order: a clip of `num_frames` frames, or the reason why it cannot be
    had. A fault costs the clips that lie on it and none before it; after it, decoding goes on at the next keyframe. A
    clip's pixels do not depend on which other clips are asked for. Only the frames of the clip at hand are held.

    Each frame is the one on show at its sample time (see `span.frame_at`); the last frame of the stream stays on show
    for its own duration and no longer. A clip whose frames change size within it is rejected as corrupt.

    Args:
        file: Seekable.
        spans: Sorted and disjoint, counted from the video's first frame.
        fps: Sampling rate of the clips, whatever the video's own.
        num_frames: Of each clip.
        limits: All but `max_bytes` and `max_duration_seconds` apply.

    Raises:
        ValueError: The spans are not sorted and disjoint.
    """
    for before, after in itertools.pairwise(spans):
        if after.start_seconds < before.end_seconds:
            raise ValueError(f"spans: clip {after.index} starts before the end of clip {before.index}")
    if not spans:
        return
    num_given = 0
    try:
        with _player_at(file, spans[0].start_seconds, limits) as player:
            for span in spans:
                clip = _clip(player, sample_times(span, fps, num_frames), limits)
                num_given += 1
                yield clip
    except RejectClip as fault:
        yield from [fault] * (len(spans) - num_given)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Show:
    """A frame and when it is on show, in seconds on the container's clock; or a fault from which on nothing is."""

    start_seconds: Fraction
    end_seconds: Fraction
    frame: VideoFrame | None
    fault: str = ""


class _Shows:
    """What is on show from where the container stands to its end, in presentation order."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._by_dts = video.container.format.name == _WITHOUT_PTS

    def __iter__(self) -> Iterator[_Show]:
        """The first show has a frame: without any, RejectClip (`corrupt`) is raised."""
        last: _Show | None = None
        fault = ""
        for item in self._frames():
            if isinstance(item, str):
                if last is not None and not fault:
                    last = _Show(start_seconds=last.end_seconds, end_seconds=last.end_seconds, frame=None, fault=item)
                    yield last
                fault = fault or item
            elif not fault or item.key_frame:
                # After a fault, frames up to the next keyframe are made of pieces that are missing.
                fault = ""
                last = self._show(item, last)
                yield last
        if last is None:
            raise RejectClip(Reason.CORRUPT, fault or "no frame decodes")

    def _frames(self) -> Iterator[VideoFrame | str]:
        packets = self._video.container.demux(self._video.stream)
        while True:
            try:
                packet = next(packets, None)
            except AV_FAILURES as error:
                self._video.file.check()
                yield failure_message(error)
                return
            # Where the file failed, the packet at hand is cut off.
            self._video.file.check()
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except AV_FAILURES as error:
                yield failure_message(error)
                continue
            for frame in frames:
                assert isinstance(frame, VideoFrame)
                yield "the decoder marks a frame as corrupt" if frame.is_corrupt else frame

    def _show(self, frame: VideoFrame, last: _Show | None) -> _Show:
        stamp, other = (frame.dts, frame.pts) if self._by_dts else (frame.pts, frame.dts)
        if stamp is None and last is None:
            stamp = other or 0
        start_seconds = last.end_seconds if stamp is None and last is not None else (stamp or 0) * self._video.tick
        if last is not None:
            # The decoder's order is the order of presentation; a time that runs backwards is wrong.
            start_seconds = max(start_seconds, last.start_seconds)
        duration = frame.duration * self._video.tick if frame.duration > 0 else self._video.step_seconds
        return _Show(start_seconds=start_seconds, end_seconds=start_seconds + duration, frame=frame)


class _Player:
    """Moves forward through what is on show; gives the frame at a time."""

    def __init__(self, shows: Iterator[_Show], zero_seconds: Fraction, tick: Fraction, limits: MediaLimits) -> None:
        self._shows = shows
        self._zero_seconds = zero_seconds
        # Containers round times to their tick (Matroska: 1 ms), so a frame may be stamped half a tick late. A coarse
        # tick is the frame period itself and rounds nothing.
        self._rounding = min(tick / 2, _MAX_ROUNDING)
        self._limits = limits
        self._num_frames = 0
        self._end: RejectClip | None = None
        self._on_show: _Show | None = None
        self._next = next(shows, None)

    def start_clip(self) -> None:
        """Begin to count the frames of a new clip."""
        self._num_frames = 0

    def frame_at(self, time: Fraction) -> VideoFrame:
        """The frame on show at a time in seconds from the first frame; times must not run backwards.

        Raises:
            RejectClip: `corrupt`, `short_stream` or `too_large`.
        """
        clock = self._zero_seconds + time
        while self._next is not None and self._next.start_seconds - self._rounding <= clock:
            if self._num_frames >= self._limits.max_frames_per_clip:
                raise RejectClip(Reason.TOO_LARGE, f"more than {self._limits.max_frames_per_clip} frames for one clip")
            self._num_frames += 1
            self._on_show, self._next = self._next, self._following()
        if self._next is None and self._end is not None:
            raise self._end
        shown = self._on_show
        assert shown is not None, f"{time} s is before the first frame"
        if shown.frame is None:
            raise RejectClip(Reason.CORRUPT, shown.fault)
        if self._next is None and shown.end_seconds <= clock and shown.start_seconds < clock:
            end = float(shown.end_seconds - self._zero_seconds)
            raise RejectClip(
                Reason.SHORT_STREAM, f"the stream ends at {end:.6f} s, a frame is due at {float(time):.6f} s"
            )
        return shown.frame

    def _following(self) -> _Show | None:
        try:
            return next(self._shows, None)
        except RejectClip as fault:
            # The file itself failed: this clip and all later ones.
            self._end = fault
            return None


def _clip(player: _Player, times: Sequence[Fraction], limits: MediaLimits) -> DecodedClip | RejectClip:
    """The frames at `times`, or why not."""
    player.start_clip()
    reformatter = VideoReformatter()
    clip: NDArray[np.uint8] | None = None
    shown: VideoFrame | None = None
    try:
        for index, time in enumerate(times):
            frame = player.frame_at(time)
            if clip is not None and frame is shown:
                clip[index] = clip[index - 1]
                continue
            shown = frame
            pixels = _upright_rgb(frame, reformatter, limits)
            if clip is None:
                size_bytes = len(times) * pixels.size
                if size_bytes > limits.max_clip_bytes:
                    return RejectClip(Reason.TOO_LARGE, f"a clip of {size_bytes} bytes, limit {limits.max_clip_bytes}")
                clip = np.empty((len(times), *pixels.shape), np.uint8)
            if pixels.shape != clip.shape[1:]:
                was, now = clip.shape[1:3], pixels.shape[:2]
                return RejectClip(
                    Reason.CORRUPT, f"frames change from {was[0]}x{was[1]} to {now[0]}x{now[1]} in a clip"
                )
            clip[index] = pixels
    except RejectClip as fault:
        return fault
    assert clip is not None
    assert shown is not None
    return DecodedClip(frames=clip, orientation=_orientation(shown))


def _upright_rgb(frame: VideoFrame, reformatter: VideoReformatter, limits: MediaLimits) -> NDArray[np.uint8]:
    check_pixels(frame.height, frame.width, limits)
    try:
        pixels = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    except AV_FAILURES as error:
        raise RejectClip(Reason.CORRUPT, failure_message(error)) from error
    assert pixels.dtype == np.uint8
    return turn_upright(pixels.astype(np.uint8, copy=False), _orientation(frame))


def _orientation(frame: VideoFrame) -> int:
    """EXIF orientation that the frame's display matrix asks for; turns that are no quarter go to the nearest."""
    try:
        matrix = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV's stub knows no keys
    except KeyError:
        return 1
    # Row vectors: x' = a x + c y, y' = b x + d y, with y downwards.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[c < 0, b < 0]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]


@contextmanager
def _player_at(file: BinaryIO, time: Fraction, limits: MediaLimits) -> Iterator[_Player]:
    """A player that stands at or before a time in seconds from the first frame."""
    with open_video(file, limits) as video:
        shows = iter(_Shows(video))
        first = next(shows)
        zero_seconds = first.start_seconds
        if time > 0 and video.container.format.name.startswith(_SEEKABLE):
            landed = _seek(video, zero_seconds + time)
        else:
            landed = itertools.chain([first], shows)
        if landed is not None:
            yield _Player(landed, zero_seconds, video.tick, limits)
            return
    # A seek that failed may leave the container anywhere.
    with open_video(file, limits) as video:
        yield _Player(iter(_Shows(video)), zero_seconds, video.tick, limits)


def _seek(video: OpenVideo, clock: Fraction) -> Iterator[_Show] | None:
    """Shows from a keyframe at or before a time on the container's clock; None where the container finds none."""
    shows = itertools.dropwhile(lambda show: show.frame is None or not show.frame.key_frame, _Shows(video))
    try:
        video.container.seek(int(clock / video.tick), stream=video.stream)
        first = next(shows, None)
    except (*AV_FAILURES, RejectClip):
        video.file.check()
        return None
    # Leading frames of an open group of pictures come before its keyframe and need the group before.
    if first is None or first.start_seconds > clock:
        return None
    return itertools.chain([first], shows)
