import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.span import ClipSpan, SpanPolicy, frame_at, parse_fps, plan_spans, sample_times

RATES = st.fractions(min_value=Fraction(1, 4), max_value=30, max_denominator=1001)
DURATIONS = st.fractions(min_value=0, max_value=12, max_denominator=90_000)
COUNTS = st.integers(1, 64)
CUTS = st.lists(st.fractions(0, 15, max_denominator=1000), unique=True, max_size=6).map(sorted)
POLICIES = st.builds(
    SpanPolicy,
    kind=st.sampled_from(["all", "count", "random", "around"]),
    count=st.integers(1, 20),
    seed=st.integers(0, 9),
)
TIMESTAMPS = st.lists(st.floats(-5, 20), max_size=8)
ALL = SpanPolicy(kind="all")


def starts(seconds, policy, *, fps=8, num_frames=16, key="a", **more):
    spans = plan_spans(Fraction(seconds), Fraction(fps), num_frames, policy, media_key=key, **more)
    return [span.first_frame for span in spans]


@given(DURATIONS, RATES, COUNTS)
def test_all_are_consecutive_whole_and_as_many_as_fit(duration, fps, num_frames):
    spans = plan_spans(duration, fps, num_frames, ALL, media_key="a")
    ends = [Fraction(0)] + [span.end_seconds for span in spans]
    assert [span.start_seconds for span in spans] == ends[:-1]
    assert [span.index for span in spans] == list(range(len(spans)))
    assert all(span.end_seconds - span.start_seconds == num_frames / fps for span in spans)
    assert ends[-1] <= duration < ends[-1] + num_frames / fps


@given(DURATIONS, RATES, COUNTS, POLICIES, TIMESTAMPS, CUTS)
def test_every_policy_gives_sorted_disjoint_clips_inside_the_video_and_over_no_cut(
    duration, fps, num_frames, policy, timestamps, cuts
):
    spans = plan_spans(duration, fps, num_frames, policy, media_key="a", timestamps=timestamps, cuts=cuts)
    assert [span.index for span in spans] == list(range(len(spans)))
    assert all((span.num_frames, span.fps) == (num_frames, fps) for span in spans)
    assert all(sooner.end_seconds <= later.start_seconds for sooner, later in itertools.pairwise(spans))
    assert all(span.end_seconds <= duration for span in spans)
    assert not any(span.start_seconds < cut < span.end_seconds for span in spans for cut in cuts)
    if policy.kind in ("count", "random"):
        fitting = len(plan_spans(duration, fps, num_frames, ALL, media_key="a", cuts=cuts))
        assert len(spans) == min(policy.count, fitting)


@given(DURATIONS, RATES, COUNTS, CUTS)
def test_with_cuts_each_shot_starts_at_its_first_tick(duration, fps, num_frames, cuts):
    spans = plan_spans(duration, fps, num_frames, ALL, media_key="a", cuts=cuts)
    edges = [Fraction(0), *(cut for cut in cuts if 0 < cut < duration), duration]
    expected = []
    for start, end in itertools.pairwise(edges):
        tick = math.ceil(start * fps)
        while (tick + num_frames) / fps <= end:
            expected.append(tick)
            tick += num_frames
    assert [span.first_frame for span in spans] == expected


def test_count_stands_in_the_middles_of_equal_parts():
    assert starts(100, SpanPolicy(kind="count", count=4), fps=1, num_frames=5) == [10, 35, 60, 85]
    assert starts(10, SpanPolicy(kind="count", count=1), fps=1, num_frames=4) == [3]
    assert starts(10, SpanPolicy(kind="count", count=99), fps=1, num_frames=5) == [0, 5]


def test_random_is_of_seed_and_media_and_reaches_every_arrangement():
    def drawn(seed, key):
        return tuple(starts(6, SpanPolicy(kind="random", count=2, seed=seed), fps=1, num_frames=2, key=key))

    seen = Counter(drawn(seed, "a") for seed in range(600))
    assert set(seen) == {(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)}
    assert min(seen.values()) > 60
    assert len({drawn(0, key) for key in "abcdefghijkl"}) > 1
    # The plan of a run must be that of its next start, on another machine too.
    assert starts(100, SpanPolicy(kind="random", count=3, seed=7), fps=8, num_frames=16, key="films/a.mp4") == [
        499,
        680,
        754,
    ]


def test_around_centres_moves_inside_and_drops_what_overlaps():
    around = SpanPolicy(kind="around")
    assert starts(10, around, timestamps=[5.0]) == [32]
    assert starts(10, around, timestamps=[0.0, 9.9]) == [0, 64]
    assert starts(10, around, timestamps=[-3.0, 400.0]) == [0, 64]
    assert starts(10, around, timestamps=[5.5, 5.0, 7.0]) == [32, 48]
    assert starts(10, around, timestamps=[5.0], cuts=[Fraction(9, 2)]) == [36]
    assert starts(10, around, timestamps=[5.0], cuts=[Fraction(9, 2), Fraction(6)]) == []
    assert starts(1, around, timestamps=[0.5]) == []
    assert starts(10, around) == []
    with pytest.raises(ValueError, match="finite"):
        starts(10, around, timestamps=[float("nan")])


@given(st.integers(0, 1000), RATES, COUNTS)
def test_sample_times_lie_in_the_span_one_period_apart(first_frame, fps, num_frames):
    span = ClipSpan(index=0, first_frame=first_frame, num_frames=num_frames, fps=fps)
    times = sample_times(span)
    assert len(times) == num_frames
    assert times[0] == span.start_seconds == first_frame / fps
    assert all(later - sooner == 1 / fps for sooner, later in itertools.pairwise(times))
    assert times[-1] + 1 / fps == span.end_seconds


@given(st.lists(st.fractions(0, 100), min_size=1, unique=True), st.lists(st.fractions(0, 100)))
def test_frame_at_equals_a_slow_search(pts, times):
    pts = sorted(pts)
    times = [max(time, pts[0]) for time in times]
    slow = [max(index for index, start in enumerate(pts) if start <= time) for time in times]
    assert frame_at(pts, times) == slow


def test_frame_before_the_first_is_refused():
    with pytest.raises(ValueError, match="before the first frame"):
        frame_at([Fraction(1)], [Fraction(1, 2)])


def test_one_frame_clips_are_legal():
    assert starts(1, ALL, num_frames=1) == list(range(8))


@pytest.mark.parametrize(
    ("flag", "exact"),
    [
        (8, Fraction(8)),
        (8.0, Fraction(8)),
        (7.5, Fraction(15, 2)),
        (29.97, Fraction(2997, 100)),
        ("30000/1001", Fraction(30000, 1001)),
    ],
)
def test_fps_is_the_number_that_was_written(flag, exact):
    assert parse_fps(flag) == exact


@pytest.mark.parametrize("flag", [0, -1, float("nan"), float("inf"), "fast", "1/0", ""])
def test_impossible_fps(flag):
    with pytest.raises(ValueError, match="fps"):
        parse_fps(flag)


def test_impossible_plans():
    with pytest.raises(ValueError, match="num_frames"):
        starts(1, ALL, num_frames=0)
    with pytest.raises(ValueError, match="ascend"):
        starts(9, ALL, cuts=[Fraction(2), Fraction(1)])
    with pytest.raises(ValueError, match="num_frames >= 1"):
        ClipSpan(index=0, first_frame=1, num_frames=0, fps=Fraction(8))
    with pytest.raises(ValueError, match="clip policy"):
        SpanPolicy(kind="some")
    with pytest.raises(ValueError, match="clips per media"):
        SpanPolicy(kind="count", count=0)
