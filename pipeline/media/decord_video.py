"""Videos through decord: the clips of `video.decode_clips`, where its users want decord's own frames.

What differs from PyAV, found on the clips of the tests (decord 0.6.0 with an FFmpeg of 2020, against PyAV 18.1):

- Pixels are PyAV's to the last bit for 8-bit 4:2:0 of even height; deeper ones differ as the two FFmpegs interpolate
  chroma (48 dB on a film, 28 dB on noise).
- An untagged matrix is BT.601 at any size, where PyAV takes BT.709 from 720 rows on (36 dB apart on a film).
- HDR code values come as they are, without a tone map.
- The display matrix is applied as a turn; a mirror is left out, and `orientation` says so.
- Times are 32-bit floats from the first frame, exact to 0.5 ms for an hour or two. AVI, some MPEG streams and edit
  lists that hide frames get none that ascend: such a media is rejected.
- Frames of odd height come out sheared: such a media is rejected.
- AV1 is not known. Of several video streams it chooses for itself; where that has another size, the media is rejected.
- A frame that does not decode is replaced by another; where decord notices it, the rest of the media is rejected.
- The file is read whole, so `max_bytes` applies, and `max_frames_per_clip` does not.

decord may hang or crash on bad bytes: run it in a process of its own. Media are probed by PyAV first, which keeps
playlists and what else is no video away from it.
"""

import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import BinaryIO

import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.media.clip_frames import ClipFrames, PrepareFrame
from pipeline.media.container import open_video
from pipeline.media.frames import MAX_ROUNDING
from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from pipeline.media.span import ClipSpan, sample_times
from pipeline.media.video import DecodedClip, VideoFacts, probe_video
from schemas.outcome import Reason

# What decord raises on bad bytes: its own two, asserts of its reader and the end of an iteration.
_FAILURES = (decord.DECORDError, decord.DECORDLimitReachedError, AssertionError, RuntimeError, StopIteration)
# Its messages begin with the time of day and a line of its source.
_LOG_PREFIX = re.compile(r"^\[[\d:]+\] \S+ ")

# The turn that FFmpeg reads from the matrix of each orientation (av_display_rotation_get), mirrors left out.
_TURNS = {1: 1, 2: 3, 3: 3, 4: 1, 5: 6, 6: 6, 7: 8, 8: 8}


def decord_clips(
    file: BinaryIO, spans: Sequence[ClipSpan], limits: MediaLimits, prepare_frame: PrepareFrame | None
) -> Iterator[DecodedClip | RejectClip]:
    """Exactly one result for each span, in order, as `video.decode_clips`."""
    try:
        facts = probe_video(file, limits)
        reader = _Reader(file, limits, facts)
    except RejectClip as fault:
        yield from [fault] * len(spans)
        return
    for span in spans:
        yield _clip(reader, span, limits, prepare_frame)


class _Reader:
    """decord's reader of one video and the times of its frames."""

    def __init__(self, file: BinaryIO, limits: MediaLimits, facts: VideoFacts) -> None:
        """Raises RejectClip where decord cannot read the video, or not faithfully."""
        stored_height = facts.width if facts.orientation >= 5 else facts.height
        if stored_height % 2:
            raise RejectClip(Reason.UNKNOWN_FORMAT, f"decord shears frames of odd height, here {stored_height}")
        turn = _TURNS[facts.orientation]
        self.facts = replace(facts, orientation=turn, color=_color(facts))
        with open_video(file, limits) as video:
            tick = video.tick
        file.seek(0)
        data = file.read(limits.max_bytes + 1)
        if len(data) > limits.max_bytes:
            raise RejectClip(Reason.TOO_LARGE, f"more than {limits.max_bytes} bytes, which decord reads whole")
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1, fault_tol=1)
            times = self._reader.get_frame_timestamp(range(len(self._reader)))
        except _FAILURES as error:
            raise RejectClip(Reason.CORRUPT, _message(error)) from error
        starts = times[:, 0].astype(np.float64) - float(times[0, 0])
        if not np.isfinite(times).all() or (np.diff(starts) <= 0).any():
            raise RejectClip(Reason.CORRUPT, "decord finds no ascending presentation times")
        self._starts = [Fraction(start) for start in starts.tolist()]
        # As `FramePlayer`, and what a 32-bit float rounds on top.
        self._rounding = min(tick / 2, MAX_ROUNDING) + Fraction(float(np.spacing(np.float32(times[-1, 0]))))
        duration = Fraction(float(times[-1, 1])) - Fraction(float(times[-1, 0]))
        step = self._starts[-1] / (len(self._starts) - 1) if len(self._starts) > 1 else Fraction(0)
        self._end = self._starts[-1] + (duration if duration > 0 else step)

    def index_at(self, time: Fraction) -> int:
        """Place of the frame on show at a time in seconds from the first frame."""
        if time >= self._end and time > self._starts[-1]:
            raise RejectClip(
                Reason.SHORT_STREAM,
                f"the stream ends at {float(self._end):.6f} s, a frame is due at {float(time):.6f} s",
            )
        return bisect_right(self._starts, time + self._rounding) - 1

    def frame(self, index: int) -> NDArray[np.uint8]:
        """[H, W, 3] RGB, turned."""
        try:
            pixels: NDArray[np.uint8] = self._reader[index].asnumpy()
        except _FAILURES as error:
            raise RejectClip(Reason.CORRUPT, _message(error)) from error
        expected = (self.facts.height, self.facts.width, 3)
        if pixels.shape != expected:
            raise RejectClip(Reason.CORRUPT, f"decord's frame is {pixels.shape}, the video's {expected}")
        return pixels


def _clip(
    reader: _Reader, span: ClipSpan, limits: MediaLimits, prepare_frame: PrepareFrame | None
) -> DecodedClip | RejectClip:
    clip = ClipFrames(span.num_frames, limits, prepare_frame)
    shown = -1
    facts = reader.facts
    try:
        for time in sample_times(span):
            index = reader.index_at(time)
            if index == shown:
                clip.repeat()
                continue
            shown = index
            clip.add(reader.frame(index), facts.pixel_aspect)
        return DecodedClip(
            frames=clip.finished(),
            source_height=facts.height,
            source_width=facts.width,
            orientation=facts.orientation,
            pixel_aspect=facts.pixel_aspect,
            color=facts.color,
            interlaced=facts.interlaced,
        )
    except RejectClip as fault:
        return fault


def _color(facts: VideoFacts) -> str:
    if facts.color.endswith("(untagged)"):
        return facts.color.replace("bt709", "bt601")
    return facts.color.replace(" pq", " pq (code values)").replace(" hlg", " hlg (code values)")


def _message(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"decord: {_LOG_PREFIX.sub('', lines[0]) if lines else type(error).__name__}"
