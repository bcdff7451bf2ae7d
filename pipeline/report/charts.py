"""Charts as SVG elements for a page: their colours are the page's, light or dark, and their letters are letters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from pipeline.report.notation import si_text

COLOURS = 8
"""Classes c0, c1, ... of the page's style."""
_WIDTH, _HEIGHT = 360.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 12.0, 10.0, 44.0
_TICKS = 5
_ROOM = 0.05
"""Of the range of values, between the outermost ones and the frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Values that share a name and a colour; as many x as y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    form: Literal["dots", "line", "line and dots", "steps", "bars"]
    """"steps": a histogram, x the edges of the bins, one more than y. "bars": from y = 0."""
    colour: int = 0
    dashed: bool = False
    low: Sequence[float] = ()
    """Lower ends of the intervals around y; empty: there are none."""
    high: Sequence[float] = ()
    details: Sequence[str] = ()
    """What is said of each point where it is pointed at; empty: its numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One pair of axes."""

    title: str
    x_label: str
    """With unit."""
    y_label: str
    """With unit."""
    marks: Sequence[Mark]
    log_x: bool = False
    log_y: bool = False
    categories: Sequence[str] = ()
    """Names of x = 0, 1, 2, ...; empty: x is a number."""

    @property
    def legend(self) -> list[tuple[str, int]]:
        """Names and colours, each once."""
        return list(dict.fromkeys((mark.name, mark.colour % COLOURS) for mark in self.marks))

    @property
    def svg(self) -> Markup:
        """The <svg> element."""
        return _drawn(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """Values to places along one axis of the picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    def __call__(self, value: float) -> float:
        value, low, high = (math.log10(v) if self.is_log else v for v in (value, self.low, self.high))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.is_log:
            return linear_ticks(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1,)):
            found = [d * 10.0**power for power in powers for d in digits if self.low <= d * 10.0**power <= self.high]
            if len(found) <= _TICKS + 2:
                break
        return found if len(found) > 1 else linear_ticks(self.low, self.high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Up to six round numbers, evenly apart, in [low, high].

    >>> linear_ticks(0.0, 9.0)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _drawn(chart: Chart) -> Markup:
    wide = [v for mark in chart.marks for v in mark.x]
    wide += [v + half for mark in chart.marks if mark.form == "bars" for v in mark.x for half in (-0.5, 0.5)]
    x = _scale(wide, _LEFT, _WIDTH - _RIGHT, is_log=chart.log_x)
    if chart.categories:
        x = _Scale(low=-0.5, high=len(chart.categories) - 0.5, start=_LEFT, end=_WIDTH - _RIGHT, is_log=False)
    tall = [v for mark in chart.marks for v in (*mark.y, *mark.low, *mark.high)]
    stands = any(mark.form in ("bars", "steps") for mark in chart.marks)
    y = _scale([*tall, *[0.0] * stands], _HEIGHT - _BOTTOM, _TOP, is_log=chart.log_y, stands=stands)
    label = Markup("{}: {} over {}").format(chart.title, chart.y_label, chart.x_label)
    parts = [Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)]
    parts += _frame(chart, x, y)
    for mark in chart.marks:
        parts.append(Markup('<g class="c{}">').format(mark.colour % COLOURS))
        parts += _draw_mark(mark, x, y)
        parts.append(Markup("</g>"))
    return Markup("").join([*parts, Markup("</svg>")])


def _scale(values: Sequence[float], start: float, end: float, *, is_log: bool, stands: bool = False) -> _Scale:
    """From the smallest to the largest of the values that can be shown, with a little room.

    Args:
        values: Finite or not.
        start: Place of the axis's lower end in the picture.
        end: Of its upper end.
        is_log: Whether equal distances are equal ratios.
        stands: What is drawn stands on zero: there is no room below it.
    """
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
    low, high = (min(shown), max(shown)) if shown else (1.0, 2.0)
    if is_log:
        room = (high / low) ** _ROOM if high > low else 2.0
        return _Scale(low=low / room, high=high * room, start=start, end=end, is_log=True)
    room = _ROOM * (high - low) or abs(high) * _ROOM or 1.0
    return _Scale(
        low=0.0 if stands and low == 0.0 else low - room, high=high + room, start=start, end=end, is_log=False
    )


def _frame(chart: Chart, x: _Scale, y: _Scale) -> list[Markup]:
    """Ticks with thin lines across, and what the axes are."""
    parts = []
    counts = all(mark.form == "steps" for mark in chart.marks)
    for value in y.ticks():
        if counts and value != round(value):
            continue
        parts.append(_line("grid", _LEFT, y(value), _WIDTH - _RIGHT, y(value)))
        parts.append(_text(_LEFT - 7, y(value) + 4, "end", si_text(value)))
    for value in range(len(chart.categories)) if chart.categories else x.ticks():
        text = chart.categories[int(value)] if chart.categories else si_text(value)
        parts.append(_line("axis", x(value), _HEIGHT - _BOTTOM, x(value), _HEIGHT - _BOTTOM + 4))
        parts.append(_text(x(value), _HEIGHT - _BOTTOM + 17, "middle", text))
    parts.append(_line("axis", _LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 7, "middle", chart.x_label))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = Markup('<text transform="translate(12 {:g}) rotate(-90)" text-anchor="middle">{}</text>')
    return [*parts, turned.format(middle, chart.y_label)]


def _draw_mark(mark: Mark, x: _Scale, y: _Scale) -> list[Markup]:
    parts: list[Markup] = []
    title = Markup("<title>{}</title>").format(mark.name)
    if mark.form == "steps":
        corners = [(x(mark.x[0]), y(0.0))]
        for left, right, value in zip(mark.x[:-1], mark.x[1:], mark.y, strict=True):
            corners += [(x(left), y(value)), (x(right), y(value))]
        corners.append((x(mark.x[-1]), y(0.0)))
        return [Markup('<path class="area" d="{}">{}</path>').format(_path(corners), title)]
    shown = [
        (place, x(a), y(b))
        for place, (a, b) in enumerate(zip(mark.x, mark.y, strict=True))
        if all(math.isfinite(v) and (v > 0 or not scale.is_log) for v, scale in ((a, x), (b, y)))
    ]
    if mark.form in ("line", "line and dots") and len(shown) > 1:
        css = "path dashed" if mark.dashed else "path"
        path = _path([(a, b) for _, a, b in shown])
        parts.append(Markup('<path class="{}" d="{}">{}</path>').format(css, path, title))
    if mark.form == "bars":
        width = max(1.0, min(28.0, 0.7 * abs(x(1.0) - x(0.0))))
        bar = Markup('<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}">{}</rect>')
        for place, a, b in shown:
            zero = y(0.0)
            parts.append(bar.format(a - width / 2, min(b, zero), width, abs(zero - b), _detail(mark, place)))
    for place, a, _ in shown if mark.low else ():
        parts.append(_line("whisker", a, y(mark.low[place]), a, y(mark.high[place])))
    # One point alone has no line that would show it.
    if mark.form in ("dots", "line and dots") or (mark.form == "line" and len(shown) == 1):
        dot = Markup('<circle class="dot" cx="{:.2f}" cy="{:.2f}" r="4">{}</circle>')
        parts += [dot.format(a, b, _detail(mark, place)) for place, a, b in shown]
    return parts


def _detail(mark: Mark, place: int) -> Markup:
    numbers = f"{mark.name}: {si_text(mark.x[place])}, {si_text(mark.y[place])}"
    return Markup("<title>{}</title>").format(mark.details[place] if mark.details else numbers)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in corners)


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    line = Markup('<line class="{}" x1="{:.2f}" y1="{:.2f}" x2="{:.2f}" y2="{:.2f}"/>')
    return line.format(css, x1, y1, x2, y2)


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.2f}" y="{:.2f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
