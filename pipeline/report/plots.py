"""Plots as PNG and as SVG: points with lines through them, and curves over steps.

Figures are made by matplotlib's objects, not by pyplot: nothing is left behind, no display is needed. The same values
give the same bytes.
"""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette (Color Universal Design, 2008) without its yellow, which is faint on white: told apart with
any kind of colour vision."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#777777"
_PANEL_INCHES = (4.4, 4.2)
_CURVES_INCHES = (6.4, 3.8)
_DPI = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values that share a name, a colour and a marker; as many x as y."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r}: got {len(self.x)} x and {len(self.y)} y, expected as many of both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """y = intercept + slope x, over the range of the points."""

    name: str
    slope: float
    intercept: float
    dashed: bool = False
    """What is compared with, not what was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes with points and lines."""

    x_label: str
    """With unit."""
    y_label: str
    """With unit."""
    series: tuple[Series, ...]
    lines: tuple[Line, ...] = ()
    categories: tuple[str, ...] = ()
    """Names of x = 0, 1, 2, ...; empty: x is a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One figure in both forms."""

    png: bytes
    svg: str
    """The <svg> element alone, fit to stand in a page."""


def scatter_with_fits(panels: Sequence[Panel]) -> Drawing:
    """Points of each panel, its lines through them, and below it what they are; panels side by side.

    Raises:
        ValueError: There is no panel, or one without a point.
    """
    if not panels or not all(any(series.x for series in panel.series) for panel in panels):
        raise ValueError(f"panels: got {len(panels)}, expected at least 1, each with at least one point")
    with _style():
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * len(panels), height), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel)
        return _rendered(figure)


def curves(series: Sequence[Series], *, x_label: str, y_label: str, log_y: bool = False) -> Drawing:
    """Lines through the points of each series in the order of their x, as of a training over its steps.

    Args:
        series: What is drawn.
        x_label: With unit.
        y_label: With unit.
        log_y: Equal distances are equal ratios; y must be above 0.

    Raises:
        ValueError: There is no point at all, or one that a logarithm cannot show.
    """
    values = [value for each in series for value in each.y]
    if not values or (log_y and min(values) <= 0):
        raise ValueError(
            f"curves of {y_label}: got {len(values)} values, the smallest {min(values, default=None)}, "
            f"expected at least one{', all above 0 (or log_y=False)' if log_y else ''}"
        )
    with _style():
        figure = Figure(figsize=_CURVES_INCHES, layout="constrained")
        axes = figure.subplots()
        for place, each in enumerate(series):
            colour = _COLOURS[place % len(_COLOURS)]
            x, y = zip(*sorted(zip(each.x, each.y, strict=True)), strict=True) if each.x else ((), ())
            # One point alone has no line that would show it.
            axes.plot(x, y, color=colour, linewidth=1.4, label=each.name, marker="o" if len(x) == 1 else "")
        if log_y:
            axes.set_yscale("log")
            # Not powers of ten: those come as formulas, which `text.parse_math` leaves as they are written.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
        axes.xaxis.set_major_locator(_round_steps())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _legend_below(axes, columns=3)
        return _rendered(figure)


def _style() -> AbstractContextManager[None]:
    """Settings of a figure, put back at the end of the block."""
    return mpl.rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 9.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.7,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "text.parse_math": False,  # a dollar in a name is a dollar
            "svg.fonttype": "none",  # letters stay letters: found by a search, and small
            "svg.hashsalt": "vitok",  # else ids are drawn at random
        }
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for place, series in enumerate(panel.series):
        axes.plot(
            series.x,
            series.y,
            linestyle="none",
            # Where colours come round again, they come with other markers.
            marker=_MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.7,
            color=_COLOURS[place % len(_COLOURS)],
            label=series.name,
            zorder=3,
        )
    every_x = [x for series in panel.series for x in series.x]
    ends = (min(every_x), max(every_x))
    for line in panel.lines:
        axes.plot(
            ends,
            [line.intercept + line.slope * x for x in ends],
            color=_GREY if line.dashed else "black",
            linestyle="--" if line.dashed else "-",
            linewidth=1.2,
            label=line.name,
            zorder=2,
        )
    if panel.categories:
        axes.set_xticks(range(len(panel.categories)), panel.categories)
        axes.set_xlim(-0.5, len(panel.categories) - 0.5)
        axes.grid(visible=False, axis="x")
    else:
        axes.xaxis.set_major_locator(_round_steps())
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    _legend_below(axes, columns=1)


def _round_steps() -> MaxNLocator:
    """Few ticks, at whole numbers where they are some apart."""
    return MaxNLocator(nbins=6, steps=[1, 2, 5, 10])


def _legend_below(axes: Axes, *, columns: int) -> None:
    """Under the axes, where it hides no point."""
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), borderaxespad=0.0, ncols=columns)


def _rendered(figure: Figure) -> Drawing:
    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    document = text.getvalue()
    return Drawing(png=picture.getvalue(), svg=document[document.index("<svg") :].rstrip())
