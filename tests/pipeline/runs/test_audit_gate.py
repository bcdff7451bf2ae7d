"""Conditions that fail an audit: what is written is what is asked, and what is no condition is refused."""

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs.audit_gate import Condition, parse_condition

METRICS = ["psnr", "ssim", "fid_2015", "fvd"]
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.sampled_from(METRICS),
    st.sampled_from(sorted(COMPARISONS)),
    numbers,
    st.tuples(*[st.text(" \t", max_size=2)] * 4),
)
def test_a_condition_that_is_written_is_read_back(metric, comparison, limit, spaces):
    text = f"{spaces[0]}{metric}{spaces[1]}{comparison}{spaces[2]}{limit!r}{spaces[3]}"
    condition = parse_condition(text, METRICS)
    assert condition == Condition(metric, comparison, limit)
    assert parse_condition(str(condition), METRICS) == condition


@given(st.sampled_from(sorted(COMPARISONS)), numbers, numbers)
def test_it_fails_exactly_where_the_comparison_holds(comparison, limit, value):
    failure = Condition("psnr", comparison, limit).failure("tokenizer", {"psnr": value})
    assert (failure is not None) == COMPARISONS[comparison](value, limit)


@given(st.text(max_size=20))
def test_any_text_is_a_condition_or_one_error(text):
    try:
        condition = parse_condition(text, METRICS)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - of both outcomes
    else:
        assert condition.metric in METRICS
        assert math.isfinite(condition.limit)


@pytest.mark.parametrize(
    ("text", "metric"), [("rfid>2.0", "fid_2015"), ("FID > 2", "fid_2015"), ("rfvd>=1e2", "fvd"), ("PSNR<26", "psnr")]
)
def test_names_of_the_literature_are_understood(text, metric):
    assert parse_condition(text, METRICS).metric == metric


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("psnr=26", "expected a metric, one of"),
        ("psnr<", "expected a metric, one of"),
        ("psnr<26 dB", "expected a metric, one of"),
        ("psnr<1.2.3", "expected a metric, one of"),
        ("psnr<1e999", "expected a metric, one of"),
        ("lpips>0.1", "is about lpips, which is none of the metrics that are measured, psnr, ssim"),
    ],
)
def test_what_is_no_condition_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_condition(text, METRICS)


def test_a_name_of_two_metrics_is_refused():
    with pytest.raises(ValueError, match="rfid, which is more than one of the metrics"):
        parse_condition("rfid>2", ["fid_2015", "fid_torchvision"])


def test_a_metric_without_a_value_fails():
    assert "has no value" in (parse_condition("rfvd>2", METRICS).failure("tokenizer", {"psnr": 30.0}) or "")
