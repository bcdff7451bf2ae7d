"""Clips in time: which spans a video is cut into, and which frame is on show at a time; exact arithmetic only."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpan:
    """The half-open time [start_seconds, end_seconds) of one clip, counted from the media's first frame."""

    index: int
    """Place among the media's clips, from 0."""
    start_seconds: Fraction
    end_seconds: Fraction

    def __post_init__(self) -> None:
        if self.index < 0 or not 0 <= self.start_seconds < self.end_seconds:
            raise ValueError(
                f"clip {self.index}: got [{self.start_seconds}, {self.end_seconds}) s, "
                "expected an index from 0 and 0 <= start < end"
            )

    @classmethod
    def at(cls, index: int, fps: Fraction, num_frames: int) -> Self:
        """Span of clip `index` where clips of `num_frames` at `fps` follow each other without a gap."""
        clip_seconds = num_frames / fps
        return cls(index=index, start_seconds=index * clip_seconds, end_seconds=(index + 1) * clip_seconds)


def parse_fps(fps: float | str) -> Fraction:
    """Exact frames per second of a flag: the decimal that was written, not its nearest binary fraction.

    >>> parse_fps(29.97)
    Fraction(2997, 100)
    >>> parse_fps("30000/1001")
    Fraction(30000, 1001)

    Raises:
        ValueError: Not a positive finite number.
    """
    try:
        exact = Fraction(str(fps))
    except (ValueError, ZeroDivisionError):
        exact = Fraction(0)
    if exact <= 0:
        raise ValueError(f'fps: got {fps!r}, expected a positive number such as 8, 7.5 or "30000/1001"')
    return exact


def plan_spans(duration_seconds: Fraction, fps: Fraction, num_frames: int) -> list[ClipSpan]:
    """All whole clips of `num_frames` at `fps` that fit into the duration, one after the other from 0.

    >>> [span.end_seconds for span in plan_spans(Fraction(5), fps=Fraction(8), num_frames=16)]
    [Fraction(2, 1), Fraction(4, 1)]

    Raises:
        ValueError: `fps` or `num_frames` is not positive.
    """
    if fps <= 0 or num_frames < 1:
        raise ValueError(f"got fps {fps} and num_frames {num_frames}, expected fps > 0 and num_frames >= 1")
    num_clips = max(0, math.floor(duration_seconds * fps / num_frames))
    return [ClipSpan.at(index, fps, num_frames) for index in range(num_clips)]


def sample_times(span: ClipSpan, fps: Fraction, num_frames: int) -> list[Fraction]:
    """Times of the clip's frames in seconds from the media's first frame: start, start + 1/fps, ...

    >>> sample_times(ClipSpan.at(1, Fraction(8), 2), Fraction(8), 2)
    [Fraction(1, 4), Fraction(3, 8)]
    """
    return [span.start_seconds + index / fps for index in range(num_frames)]


def frame_at(pts_seconds: Sequence[Fraction], times: Sequence[Fraction]) -> list[int]:
    """Index of the frame on show at each time: the last frame with pts_seconds <= time.

    >>> frame_at([Fraction(0), Fraction(1)], [Fraction(1, 2), Fraction(1)])
    [0, 1]

    Args:
        pts_seconds: Presentation time of each frame, ascending.
        times: In any order.

    Raises:
        ValueError: A time is before the first frame.
    """
    indices = [bisect_right(pts_seconds, time) - 1 for time in times]
    if -1 in indices:
        early = times[indices.index(-1)]
        raise ValueError(f"time {early} s is before the first frame at {pts_seconds[0] if pts_seconds else None} s")
    return indices
