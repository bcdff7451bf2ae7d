"""Tables of a page, which sort by any column."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.audit_data import Estimate
from pipeline.report.notation import NONE, metric_style, metric_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A heading."""

    name: str
    small: str = ""
    """Below it."""
    is_text: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What stands in a table, and what it is sorted by."""

    text: str
    value: str
    """A number as JavaScript reads it, or a text; "": nothing, which comes last in any order."""
    small: str = ""
    """Below it."""
    colour: int | None = None
    """Of a dot before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Cells under headings; each row as long as the headings."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def word(text: str, *, small: str = "", colour: int | None = None) -> Cell:
    """A cell of text."""
    return Cell(text=text, value=text, small=small, colour=colour)


def number(value: float | None, text: str = "", *, small: str = "") -> Cell:
    """A cell of a number, written as `text`; None or NaN: of none."""
    if value is None or math.isnan(value):
        return Cell(text=NONE, value="", small=small)
    written = repr(float(value)).replace("inf", "Infinity")
    return Cell(text=text or f"{value:,}", value=written, small=small)


def metric_columns(names: Sequence[str]) -> list[Column]:
    """A heading for each metric."""
    return [Column(name=metric_style(name).label, small=metric_style(name).better) for name in names]


def metric_cells(names: Sequence[str], estimates: Mapping[str, Estimate]) -> list[Cell]:
    """A cell for each metric, its interval below it."""
    return [_estimate(name, estimates[name]) if name in estimates else number(None) for name in names]


def _estimate(name: str, estimate: Estimate) -> Cell:
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{metric_text(name, estimate.low)} {NONE} {metric_text(name, estimate.high)}"
    return number(estimate.value, metric_text(name, estimate.value), small=interval)
