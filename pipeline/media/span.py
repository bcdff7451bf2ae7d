"""Clips in time: which spans a video is cut into, and which frame is on show at a time; exact arithmetic only."""

import hashlib
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

PolicyKind = Literal["all", "count", "random", "around"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpan:
    """The half-open time [start_seconds, end_seconds) of one clip, counted from the media's first frame.

    Frame k of the clip is the one on show at (first_frame + k) / fps: every clip of a media lies on one sampling clock.
    """

    index: int
    """Place among the media's clips, from 0."""
    first_frame: int
    """Tick of the sampling clock at which the clip starts; not the number of a frame in the file."""
    num_frames: int
    fps: Fraction
    """Ticks of the sampling clock a second."""

    def __post_init__(self) -> None:
        if self.index < 0 or self.first_frame < 0 or self.num_frames < 1 or self.fps <= 0:
            raise ValueError(
                f"clip {self.index}: got first_frame {self.first_frame}, num_frames {self.num_frames} and "
                f"fps {self.fps}, expected index >= 0, first_frame >= 0, num_frames >= 1 and fps > 0"
            )

    @property
    def start_seconds(self) -> Fraction:
        """Time of the first frame."""
        return self.first_frame / self.fps

    @property
    def end_seconds(self) -> Fraction:
        """Exclusive: one period after the time of the last frame."""
        return (self.first_frame + self.num_frames) / self.fps


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanPolicy:
    """Which clips of a video are taken."""

    kind: PolicyKind
    """`all`: one after the other; `count`: spread evenly; `random`: at random; `around`: on given timestamps."""
    count: int = 1
    """Clips of each media, fewer where fewer fit; of `count` and `random` only."""
    seed: int = 0
    """Of `random` only."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(PolicyKind):
            raise ValueError(f"clip policy: got {self.kind!r}, expected one of {', '.join(get_args(PolicyKind))}")
        if self.count < 1:
            raise ValueError(f"clips per media: got {self.count}, expected at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shot:
    """Ticks [start, end) of the sampling clock between two cuts."""

    start: int
    end: int

    def capacity(self, num_frames: int) -> int:
        return max(0, self.end - self.start) // num_frames


def plan_spans(
    duration_seconds: Fraction,
    fps: Fraction,
    num_frames: int,
    policy: SpanPolicy,
    *,
    media_key: str,
    timestamps: Sequence[float] = (),
    cuts: Sequence[Fraction] = (),
) -> list[ClipSpan]:
    """Whole clips of one video, sorted and disjoint, none of them over the end or across a cut.

    - `all`: each shot from its first tick, one clip after the other; without cuts the video is one shot.
    - `count`: the clips are dealt to the shots evenly; those of a shot stand in the middles of as many equal parts.
    - `random`: the clips and their gaps at random, every arrangement equally likely within a shot.
    - `around`: the clip whose middle is nearest to each timestamp, moved into its shot; of two that overlap the earlier
      stays, and a shot shorter than a clip gives none.

    >>> policy = SpanPolicy(kind="all")
    >>> [span.end_seconds for span in plan_spans(Fraction(5), Fraction(8), 16, policy, media_key="a")]
    [Fraction(2, 1), Fraction(4, 1)]

    Args:
        duration_seconds: From the first frame to the end of the last.
        fps: Of the sampling clock.
        num_frames: Of each clip.
        policy: Which clips.
        media_key: Names the media: with the seed it decides what is random, whatever the order of media.
        timestamps: Seconds from the first frame, of `around` only; one outside the video counts as its nearest end.
        cuts: Seconds from the first frame at which a new shot starts, ascending.

    Raises:
        ValueError: `fps` or `num_frames` is not positive, a timestamp is not finite, or cuts do not ascend.
    """
    if fps <= 0 or num_frames < 1:
        raise ValueError(f"got fps {fps} and num_frames {num_frames}, expected fps > 0 and num_frames >= 1")
    shots = _shots(duration_seconds, fps, cuts)
    match policy.kind:
        case "all":
            starts = [shot.start + place * num_frames for shot in shots for place in range(shot.capacity(num_frames))]
        case "count":
            starts = _dealt(
                shots, num_frames, policy.count, _evenly, lambda shot, count: _spread(shot, num_frames, count)
            )
        case "random":
            draw = _Draws(f"{policy.seed}:{media_key}")
            starts = _dealt(
                shots,
                num_frames,
                policy.count,
                draw.distinct,
                lambda shot, count: _scattered(shot, num_frames, count, draw),
            )
        case "around":
            starts = _around(shots, fps, num_frames, timestamps)
    return [
        ClipSpan(index=index, first_frame=start, num_frames=num_frames, fps=fps) for index, start in enumerate(starts)
    ]


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


def sample_times(span: ClipSpan) -> list[Fraction]:
    """Times of the clip's frames in seconds from the media's first frame: start, start + 1/fps, ...

    >>> sample_times(ClipSpan(index=0, first_frame=2, num_frames=2, fps=Fraction(8)))
    [Fraction(1, 4), Fraction(3, 8)]
    """
    return [(span.first_frame + index) / span.fps for index in range(span.num_frames)]


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


def _shots(duration_seconds: Fraction, fps: Fraction, cuts: Sequence[Fraction]) -> list[_Shot]:
    if any(later <= sooner for sooner, later in itertools.pairwise(cuts)):
        raise ValueError(f"cuts: got {[float(cut) for cut in cuts]} s, expected them to ascend")
    within = [cut for cut in cuts if 0 < cut < duration_seconds]
    edges = [Fraction(0), *within, max(duration_seconds, Fraction(0))]
    # A clip lasts one period beyond its last frame, so the last tick before a cut is given up where the cut is between.
    return [_Shot(start=math.ceil(start * fps), end=math.floor(end * fps)) for start, end in itertools.pairwise(edges)]


def _dealt(
    shots: Sequence[_Shot],
    num_frames: int,
    count: int,
    choose: Callable[[int, int], list[int]],
    place: Callable[[_Shot, int], list[int]],
) -> list[int]:
    """First ticks of `count` clips: `choose` among the places of all shots, `place` in each shot what fell to it."""
    ends = list(itertools.accumulate(shot.capacity(num_frames) for shot in shots))
    total = ends[-1]
    shares = [0] * len(shots)
    for place_index in choose(min(count, total), total):
        shares[bisect_right(ends, place_index)] += 1
    return [start for shot, share in zip(shots, shares, strict=True) for start in place(shot, share)]


def _evenly(count: int, total: int) -> list[int]:
    """`count` of `total` places in the middles of equal parts."""
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def _spread(shot: _Shot, num_frames: int, count: int) -> list[int]:
    length = shot.end - shot.start
    return [shot.start + ((2 * part + 1) * length - num_frames * count) // (2 * count) for part in range(count)]


def _scattered(shot: _Shot, num_frames: int, count: int, draw: "_Draws") -> list[int]:
    # Clips shrunk to one tick each: any choice of that many distinct ticks is one arrangement of clips and gaps.
    shrunk = shot.end - shot.start - count * (num_frames - 1)
    ticks = sorted(draw.distinct(count, shrunk))
    return [shot.start + tick + place * (num_frames - 1) for place, tick in enumerate(ticks)]


def _around(shots: Sequence[_Shot], fps: Fraction, num_frames: int, timestamps: Sequence[float]) -> list[int]:
    starts: list[int] = []
    for seconds in sorted(timestamps):
        if not math.isfinite(seconds):
            raise ValueError(f"timestamp: got {seconds} s, expected a finite number of seconds from the first frame")
        middle = Fraction(seconds) * fps
        shot = next((shot for shot in reversed(shots) if shot.start <= middle), shots[0])
        if not shot.capacity(num_frames):
            continue
        wanted = round(middle - Fraction(num_frames, 2))
        start = min(max(wanted, shot.start), shot.end - num_frames)
        if not starts or start >= starts[-1] + num_frames:
            starts.append(start)
    return starts


class _Draws:
    """Random whole numbers by SHA-256: the same in every version of every library."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._num_drawn = 0

    def below(self, bound: int) -> int:
        """The next number of [0, bound); 256 bits make the bias of the remainder immeasurable."""
        digest = hashlib.sha256(f"{self._seed}:{self._num_drawn}".encode()).digest()
        self._num_drawn += 1
        return int.from_bytes(digest, "big") % bound

    def distinct(self, count: int, total: int) -> list[int]:
        """`count` distinct numbers of [0, total), each set equally likely (Floyd's algorithm, CACM 30, 1987)."""
        drawn: set[int] = set()
        for last in range(total - count, total):
            number = self.below(last + 1)
            drawn.add(last if number in drawn else number)
        return sorted(drawn)
