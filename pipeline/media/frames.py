"""What a video shows when: frames in presentation order with their times, played forward, sought over long gaps."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.video.frame import VideoFrame

from pipeline.media.container import AV_FAILURES, OpenVideo, failure_message, open_video
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

# Containers in which a clip decoded after a seek was seen to equal the same clip decoded from the start; in others
# (AVI and MPEG streams keep no index of presentation times) it does not always, so they are read from the start.
_SEEKABLE = ("mov,mp4", "matroska,webm")
# AVI has no presentation times: what stands there for B-frames is their decoding order.
_WITHOUT_PTS = "avi"

MAX_ROUNDING = Fraction(1, 2000)
"""Most seconds by which a frame may be stamped late and still be on show at its sample time."""

# A seek lands on the keyframe before and decodes from there: over a short gap that is the longer way.
_MIN_SEEK_SECONDS = Fraction(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Show:
    """A frame and when it is on show, in seconds on the container's clock; or a fault from which on nothing is."""

    start_seconds: Fraction
    end_seconds: Fraction
    frame: VideoFrame | None
    fault: str = ""


class Shows:
    """What is on show from where the container stands to its end, in presentation order."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._by_dts = video.container.format.name == _WITHOUT_PTS

    def __iter__(self) -> Iterator[Show]:
        """The first show has a frame: without any, RejectClip (`corrupt`) is raised."""
        last: Show | None = None
        fault = ""
        for item in self._frames():
            if isinstance(item, str):
                if last is not None and not fault:
                    last = Show(start_seconds=last.end_seconds, end_seconds=last.end_seconds, frame=None, fault=item)
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

    def _show(self, frame: VideoFrame, last: Show | None) -> Show:
        stamp, other = (frame.dts, frame.pts) if self._by_dts else (frame.pts, frame.dts)
        if stamp is None and last is None:
            stamp = other or 0
        start_seconds = last.end_seconds if stamp is None and last is not None else (stamp or 0) * self._video.tick
        if last is not None:
            # The decoder's order is the order of presentation; a time that runs backwards is wrong.
            start_seconds = max(start_seconds, last.start_seconds)
        duration = frame.duration * self._video.tick if frame.duration > 0 else self._video.step_seconds
        return Show(start_seconds=start_seconds, end_seconds=start_seconds + duration, frame=frame)


class FramePlayer:
    """Moves forward through what is on show, clip by clip; gives the frame at a time.

    Opened by `play_frames`. All times are seconds from the video's first frame and must not run backwards.
    """

    def __init__(self, file: BinaryIO, limits: MediaLimits, opened: ExitStack) -> None:
        self._file = file
        self._limits = limits
        self._opened = opened
        self._num_frames = 0
        self._end: RejectClip | None = None
        self._video = opened.enter_context(open_video(file, limits))
        self._shows = iter(Shows(self._video))
        self._on_show: Show | None = None
        self._next: Show | None = next(self._shows)
        self._zero_seconds = self._next.start_seconds
        self._may_seek = self._video.container.format.name.startswith(_SEEKABLE)
        # Containers round times to their tick (Matroska: 1 ms), so a frame may be stamped half a tick late. A coarse
        # tick is the frame period itself and rounds nothing.
        self._rounding = min(self._video.tick / 2, MAX_ROUNDING)
        self._min_seek_seconds = _MIN_SEEK_SECONDS

    @property
    def pixel_aspect(self) -> Fraction:
        """Width over height of a stored pixel."""
        return self._video.pixel_aspect

    def start_clip(self, time: Fraction) -> None:
        """Begin to count the frames of a new clip and go near its first time.

        Raises:
            RejectClip: The file itself failed.
        """
        self._num_frames = 0
        if not self._may_seek or self._next is None:
            return
        clock = self._zero_seconds + time
        if clock - self._next.start_seconds > self._min_seek_seconds:
            self._seek(clock, self._next.start_seconds)

    def frame_at(self, time: Fraction) -> VideoFrame:
        """The frame on show at a time.

        Raises:
            RejectClip: `corrupt`, `short_stream` or `too_large`; `unreadable` where the file is one of `open_media`.
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

    def _following(self) -> Show | None:
        try:
            return next(self._shows, None)
        except RejectClip as fault:
            # The file itself failed: this clip and all later ones.
            self._end = fault
            return None

    def _seek(self, clock: Fraction, here: Fraction) -> None:
        """Stand on a keyframe at or before a time on the container's clock; else on the first frame, for good.

        Args:
            clock: Where to, on the container's clock.
            here: Where the player stands.
        """
        video = self._video
        shows: Iterator[Show] = itertools.dropwhile(
            lambda show: show.frame is None or not show.frame.key_frame, Shows(video)
        )
        try:
            video.container.seek(int(clock / video.tick), stream=video.stream)
            landed = next(shows, None)
        except (*AV_FAILURES, RejectClip):
            video.file.check()
            landed = None
        # Leading frames of an open group of pictures come before its keyframe and need the group before.
        if landed is None or landed.start_seconds > clock:
            # A seek that failed may leave the container anywhere.
            self._opened.close()
            self._video = self._opened.enter_context(open_video(self._file, self._limits))
            self._may_seek = False
            shows = iter(Shows(self._video))
            landed = next(shows)
        elif landed.start_seconds <= here:
            # Keyframes are far apart: so that what is decoded twice stays within what is decoded once.
            self._min_seek_seconds = 2 * (clock - landed.start_seconds)
        self._shows, self._on_show, self._next = shows, None, landed


@contextmanager
def play_frames(file: BinaryIO, limits: MediaLimits) -> Iterator[FramePlayer]:
    """A player that stands on the first frame.

    Raises:
        RejectClip: As `open_video`, or `corrupt` where no frame decodes.
    """
    with ExitStack() as opened:
        yield FramePlayer(file, limits, opened)
