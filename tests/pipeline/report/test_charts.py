"""Charts put values where they are, leave out what cannot be shown, and take every name as text."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.charts import Chart, Mark, linear_ticks

SVG = "{http://www.w3.org/2000/svg}"


def chart(*marks, **changes):
    return Chart(**{"title": "t", "x_label": "x", "y_label": "y", "marks": marks} | changes)


def elements(drawn, name):
    return list(ElementTree.fromstring(str(drawn.svg)).iter(name))


def dots(drawn):
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in elements(drawn, "circle")]


def texts(drawn):
    return [element.text for element in elements(drawn, "text")]


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_their_values_are(log):
    x, y = (1.0, 10.0, 50.0, 200.0), (3.0, 30.0, 7.0, 100.0)
    drawn = dots(chart(Mark(name="a", x=x, y=y, form="dots"), log_x=log, log_y=log))
    for axis, (values, sign) in enumerate(((x, 1), (y, -1))):  # SVG counts y downwards
        given_values = np.log10(values) if log else np.array(values)
        places = np.array([dot[axis] for dot in drawn])
        slope, offset = np.polyfit(given_values, places, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(slope * given_values + offset, places, atol=0.02)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, width):
    if low + width <= low:
        return
    ticks = linear_ticks(low, low + width)
    assert 2 <= len(ticks) <= 7
    slack = 1e-6 * max(abs(low), width)
    assert low - slack <= min(ticks)
    assert max(ticks) <= low + width + slack


def test_a_histogram_stands_on_zero_and_its_bars_are_as_wide_as_their_bins():
    drawn = chart(Mark(name="a", x=(0.0, 1.0, 3.0), y=(4.0, 2.0), form="steps"))
    (path,) = elements(drawn, "path")
    corners = np.array([list(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", path.get("d"))])
    (base,) = set(corners[[0, -1], 1])
    assert corners[3, 0] - corners[2, 0] == pytest.approx(0, abs=0.02)
    assert (corners[4, 0] - corners[3, 0]) == pytest.approx(2 * (corners[2, 0] - corners[1, 0]), abs=0.03)
    assert base - corners[1, 1] == pytest.approx(2 * (base - corners[3, 1]), abs=0.03)
    assert {"1", "2"} <= set(texts(drawn))
    assert "0.5" not in texts(drawn)


def test_a_line_goes_through_its_points_and_an_interval_round_one():
    drawn = chart(Mark(name="a", x=(1, 2), y=(3, 4), low=(2, 3), high=(5, 5), form="line and dots"))
    first, second = dots(drawn)
    (path,) = elements(drawn, "path")
    assert path.get("d") == f"M{first[0]:.2f} {first[1]:.2f}L{second[0]:.2f} {second[1]:.2f}"
    whiskers = [line for line in elements(drawn, "line") if line.get("class") == "whisker"]
    assert [float(line.get("x1")) for line in whiskers] == [first[0], second[0]]
    assert all(
        float(line.get("y2")) < y < float(line.get("y1")) for line, (_, y) in zip(whiskers, dots(drawn), strict=True)
    )


def test_one_point_alone_is_a_dot_and_bars_reach_from_zero():
    assert len(dots(chart(Mark(name="a", x=(1,), y=(2,), form="line")))) == 1
    up, down = elements(chart(Mark(name="a", x=(0, 1), y=(2, -1), form="bars")), "rect")
    assert float(up.get("y")) + float(up.get("height")) == pytest.approx(float(down.get("y")), abs=0.02)
    assert float(up.get("height")) == pytest.approx(2 * float(down.get("height")), abs=0.02)


def test_what_an_axis_cannot_show_is_left_out():
    found = dots(chart(Mark(name="a", x=(1, 2, 3), y=(1.0, float("inf"), float("nan")), form="dots")))
    assert len(found) == 1
    assert len(dots(chart(Mark(name="a", x=(1, 2, 3), y=(1.0, 0.0, 10.0), form="dots"), log_y=True))) == 2
    assert not dots(chart(Mark(name="a", x=(), y=(), form="dots")))


def test_equal_values_have_a_place():
    for value in (0.0, 5.0, -5.0):
        assert len(dots(chart(Mark(name="a", x=(value,) * 2, y=(value,) * 2, form="dots")))) == 2
    assert len(dots(chart(Mark(name="a", x=(5.0,), y=(5.0,), form="dots"), log_x=True, log_y=True))) == 1


def test_categories_stand_under_their_points():
    drawn = chart(Mark(name="a", x=(0, 1, 1), y=(1, 2, 3), form="dots"), categories=("rope3d", "none"))
    assert {"rope3d", "none"} <= set(texts(drawn))
    first, second, third = (x for x, _ in dots(drawn))
    assert first < second == third


def test_a_name_is_text_whatever_is_in_it():
    name = "</text><script>alert(1)</script> & \"co'"
    drawn = chart(Mark(name=name, x=(1, 2), y=(1, 2), form="line"), title=name, x_label=name, categories=(name,) * 3)
    assert "<script" not in str(drawn.svg)
    assert texts(drawn).count(name) == 4
    assert name in elements(drawn, "title")[0].text
    assert name in ElementTree.fromstring(str(drawn.svg)).get("aria-label")
    assert drawn.legend == [(name, 0)]
