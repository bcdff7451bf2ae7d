"""Plots: both forms are whole, show the numbers they were given, and are the same bytes each time."""

import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from pipeline.report.plots import Line, Panel, Series, curves, scatter_with_fits

SVG = "{http://www.w3.org/2000/svg}"
BLUE, RED = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
LEFT = Series(name="p = 8", x=(6.0, 7.0), y=(20.0, 22.0))
RIGHT = Series(name="p = 16", x=(8.0, 9.0), y=(21.0, 23.0))
LINE = Line(name="paper: 2.302 x - 0.569", slope=2.302, intercept=-0.569, dashed=True)


def panel(*series, lines=(), categories=()):
    return Panel(x_label="log₂ E", y_label="PSNR / dB", series=series, lines=lines, categories=categories)


def texts(svg):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def columns_of(picture, colour):
    """Where in a picture a colour is, from left, 0 to 1."""
    found = np.nonzero((picture == colour).all(-1).sum(0) > 3)[0]
    return found / picture.shape[1]


def places(svg):
    """(x, y) of every marker of an SVG, series after series."""
    uses = ElementTree.fromstring(svg).iter(f"{SVG}use")
    return [(float(use.get("x")), float(use.get("y"))) for use in uses if "stroke: #ffffff" in (use.get("style") or "")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_both_forms_are_whole_and_as_wide_as_they_have_panels(count):
    drawing = scatter_with_fits([panel(LEFT, RIGHT, lines=(LINE,))] * count)
    picture = Image.open(io.BytesIO(drawing.png))
    picture.load()
    assert picture.format == "PNG"
    assert picture.width == count * scatter_pixels()
    root = ElementTree.fromstring(drawing.svg)
    assert root.tag == f"{SVG}svg"
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(count * 4.4 * 72)
    assert texts(drawing.svg).count("PSNR / dB") == count


def scatter_pixels():
    return Image.open(io.BytesIO(scatter_with_fits([panel(LEFT)]).png)).width


def test_names_and_units_are_readable():
    found = texts(scatter_with_fits([panel(LEFT, RIGHT, lines=(LINE,))]).svg)
    assert {"log₂ E", "PSNR / dB", "p = 8", "p = 16", "paper: 2.302 x - 0.569", "7", "22"} <= set(found)


def test_points_lie_where_their_values_are():
    drawing = scatter_with_fits([panel(LEFT, RIGHT)])
    marks = places(drawing.svg)[:4]  # the legend's come last
    given = np.array([pair for series in (LEFT, RIGHT) for pair in zip(series.x, series.y, strict=True)])
    for axis, sign in ((0, 1), (1, -1)):  # SVG counts y downwards
        drawn = np.array([mark[axis] for mark in marks])
        slope, offset = np.polyfit(given[:, axis], drawn, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(slope * given[:, axis] + offset, drawn, atol=1e-3)
    picture = pixels(drawing.png)
    picture = picture[: len(picture) * 3 // 4]  # without the legend
    assert columns_of(picture, BLUE).max() < columns_of(picture, RED).min()


def test_a_line_passes_through_the_points_it_fits():
    on_it = Series(name="on it", x=(0.0, 1.0, 2.0), y=(1.0, 3.0, 5.0))
    svg = scatter_with_fits([panel(on_it, lines=(Line(name="fit", slope=2.0, intercept=1.0),))]).svg
    marks = places(svg)[:3]
    lines = [
        [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d"))]
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if "stroke: #000000; stroke-width: 1.2" in (path.get("style") or "")
    ]
    np.testing.assert_allclose(lines[0], [marks[0], marks[2]], atol=1e-3)


def test_categories_stand_under_their_points():
    drawing = scatter_with_fits([panel(Series(name="s", x=(0, 1, 1), y=(1, 2, 3)), categories=("rope3d", "none"))])
    assert {"rope3d", "none"} <= set(texts(drawing.svg))
    first, second, third = (x for x, _ in places(drawing.svg)[:3])
    assert first < second == third


def test_a_name_is_text_whatever_is_in_it():
    name = "</text><script>alert(1)</script> $\\alpha$ & co"
    svg = curves([Series(name=name, x=(1, 2), y=(1, 2))], x_label="step", y_label="loss").svg
    assert "<script" not in svg
    assert name in texts(svg)


def test_curves_are_drawn_in_the_order_of_their_steps():
    forth = Series(name="a", x=(1, 2, 3), y=(3.0, 1.0, 2.0))
    back = Series(name="a", x=(3, 1, 2), y=(2.0, 3.0, 1.0))
    draw = [curves([series], x_label="step", y_label="loss").svg for series in (forth, back)]
    assert draw[0] == draw[1]


def test_a_logarithmic_axis_has_plain_numbers():
    series = Series(name="loss", x=(0, 10, 20), y=(1.0, 0.1, 0.01))
    found = texts(curves([series], x_label="step", y_label="loss", log_y=True).svg)
    assert {"1", "0.1", "0.01"} <= set(found)
    assert not any("math" in text for text in found)


def test_the_same_values_are_the_same_bytes_and_nothing_is_left_behind():
    before = dict(mpl.rcParams)
    first, second = (scatter_with_fits([panel(LEFT, RIGHT, lines=(LINE,))]) for _ in range(2))
    assert first == second
    assert dict(mpl.rcParams) == before


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="got 2 x and 1 y"):
        Series(name="a", x=(1, 2), y=(1,))
    with pytest.raises(ValueError, match="at least one point"):
        scatter_with_fits([panel(Series(name="a", x=(), y=()))])
    with pytest.raises(ValueError, match="all above 0"):
        curves([Series(name="a", x=(1,), y=(0.0,))], x_label="step", y_label="loss", log_y=True)
    with pytest.raises(ValueError, match="got 0 values"):
        curves([], x_label="step", y_label="loss")
