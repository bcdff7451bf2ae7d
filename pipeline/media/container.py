"""Video containers: opened through FFmpeg (PyAV) so that a hostile or failing file does no more than be rejected."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

# What PyAV raises on bad bytes. av.FFmpegError subclasses OSError, ValueError and others as the case may be, but a bare
# OSError comes from the file and is no fault of the bytes.
AV_FAILURES = (av.FFmpegError, UnicodeDecodeError)

# Playlists and image sequences open further files by name: a video may not make this process read /etc or a URL.
_DEMUXERS = (
    "3gp,asf,avi,flv,ivf,matroska,mov,mp4,mpeg,mpegts,mpegtsraw,mpegvideo,ogg,webm,h264,hevc,m4v,obu,av1,gif,mxf"
)
_NO_PROTOCOL = "none"

# A demuxer outside the list is an invalid argument.
_UNKNOWN_FORMAT = (av.InvalidDataError, av.DemuxerNotFoundError, av.ArgumentError)

_MICROSECONDS = 1_000_000


class WatchedFile:
    """A file as FFmpeg reads it: remembers a failure of the file, which FFmpeg would take for the end of the stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fault: RejectClip | None = None

    def read(self, size: int) -> bytes:
        """Bytes from where the file stands; none after a failure."""
        if self._fault is None:
            try:
                return self._file.read(size)
            except RejectClip as fault:
                # Raised in here, it would come out of whatever PyAV call of this thread fails next, or of none.
                self._fault = fault
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nowhere after a failure."""
        if self._fault is None:
            try:
                return self._file.seek(offset, whence)
            except RejectClip as fault:
                self._fault = fault
        return 0

    def tell(self) -> int:
        """Where the file stands."""
        return self._file.tell()

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self._fault is not None:
            raise self._fault


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVideo:
    """An opened container and the stream that is the video."""

    file: WatchedFile
    """`check` it after whatever reads: FFmpeg takes a failure for the end of the stream."""
    container: InputContainer
    stream: VideoStream
    tick: Fraction
    """Unit of the stream's times in seconds."""
    step_seconds: Fraction
    """Mean time between frames; 0 where unknown."""
    pixel_aspect: Fraction
    """Width over height of a stored pixel, by the container and else by the codec; 1 where neither says."""


@contextmanager
def open_video(file: BinaryIO, limits: MediaLimits) -> Iterator[OpenVideo]:
    """Open a video from its beginning for one thread.

    Raises:
        RejectClip: `empty_file`, `too_large`, `unknown_format`, `no_video_stream`, or `corrupt`.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    if not size_bytes:
        raise RejectClip(Reason.EMPTY_FILE, "0 bytes")
    if size_bytes > limits.max_video_bytes:
        raise RejectClip(Reason.TOO_LARGE, f"{size_bytes} bytes, limit {limits.max_video_bytes}")
    file.seek(0)
    watched = WatchedFile(file)
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": _NO_PROTOCOL}
    try:
        container = av.open(watched, "r", options=options, metadata_errors="replace")
    except AV_FAILURES as error:
        watched.check()
        unknown = isinstance(error, _UNKNOWN_FORMAT)
        raise RejectClip(Reason.UNKNOWN_FORMAT if unknown else Reason.CORRUPT, failure_message(error)) from error
    with container:
        watched.check()
        stream = _video_stream(container)
        check_pixels(stream.height, stream.width, limits)
        # One worker runs on one core. The decoder holds the bound too: a bitstream may be larger than its header says.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield OpenVideo(
            file=watched,
            container=container,
            stream=stream,
            tick=stream.time_base or Fraction(1, _MICROSECONDS),
            step_seconds=1 / stream.average_rate if stream.average_rate else Fraction(0),
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        )


def _video_stream(container: InputContainer) -> VideoStream:
    # A cover picture is a video stream to FFmpeg, and not to anyone else.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise RejectClip(Reason.NO_VIDEO_STREAM, f"{container.format.name} with {len(container.streams)} streams")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    assert isinstance(stream, VideoStream)
    return stream


def header_end_seconds(video: OpenVideo) -> Fraction | None:
    """End of the stream on the container's clock as the header has it."""
    if video.stream.duration:
        return ((video.stream.start_time or 0) + video.stream.duration) * video.tick
    if video.container.duration:
        return Fraction((video.container.start_time or 0) + video.container.duration, _MICROSECONDS)
    return None


def demuxed_end_seconds(video: OpenVideo) -> Fraction:
    """End of the stream on the container's clock by its packets: a recorder that was cut off wrote no duration."""
    end_seconds = Fraction(0)
    try:
        for packet in video.container.demux(video.stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                duration = packet.duration * video.tick if packet.duration else video.step_seconds
                end_seconds = max(end_seconds, stamp * video.tick + duration)
    except AV_FAILURES as error:
        video.file.check()
        raise RejectClip(Reason.CORRUPT, failure_message(error)) from error
    video.file.check()
    return end_seconds


def check_pixels(height: int, width: int, limits: MediaLimits) -> None:
    """Raise RejectClip (`too_large`) where a frame is over `max_pixels`."""
    if height * width > limits.max_pixels:
        raise RejectClip(Reason.TOO_LARGE, f"{height}x{width} pixels, limit {limits.max_pixels}")


def failure_message(error: Exception) -> str:
    """What PyAV said, without the parts that name the file."""
    if isinstance(error, av.FFmpegError):
        return f"{type(error).__name__}: {error.strerror}"
    return f"{type(error).__name__}: {error}"
