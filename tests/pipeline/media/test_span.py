import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.span import ClipSpan, frame_at, parse_fps, plan_spans, sample_times

RATES = st.fractions(min_value=Fraction(1, 4), max_value=120, max_denominator=1001)
DURATIONS = st.fractions(min_value=0, max_value=30, max_denominator=90_000)
COUNTS = st.integers(1, 64)


@given(DURATIONS, RATES, COUNTS)
def test_spans_are_consecutive_whole_and_as_many_as_fit(duration, fps, num_frames):
    spans = plan_spans(duration, fps, num_frames)
    ends = [Fraction(0)] + [span.end_seconds for span in spans]
    assert [span.start_seconds for span in spans] == ends[:-1]
    assert [span.index for span in spans] == list(range(len(spans)))
    assert all(span.end_seconds - span.start_seconds == num_frames / fps for span in spans)
    assert ends[-1] <= duration < ends[-1] + num_frames / fps


@given(st.integers(0, 1000), RATES, COUNTS)
def test_sample_times_lie_in_the_span_one_period_apart(index, fps, num_frames):
    span = ClipSpan.at(index, fps, num_frames)
    times = sample_times(span, fps, num_frames)
    assert times[0] == span.start_seconds
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
    spans = plan_spans(Fraction(1), Fraction(8), 1)
    assert [span.start_seconds for span in spans] == [Fraction(index, 8) for index in range(8)]


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
        plan_spans(Fraction(1), Fraction(8), 0)
    with pytest.raises(ValueError, match="start < end"):
        ClipSpan(index=0, start_seconds=Fraction(1), end_seconds=Fraction(1))
