"""What a study of tokenizers shows: its points in a table, the lines through them, a figure and one HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pipeline.report.charts import COLOURS, Chart, Mark
from pipeline.report.page import Films, write_page
from pipeline.report.plots import Drawing, Line, Panel, Series, scatter_with_fits
from pipeline.report.study_data import (
    PAPER_FITS,
    Axis,
    LineFit,
    StudyPoint,
    axis_of,
    fits_of,
    shown_metrics,
    shown_style,
)
from pipeline.report.tables import Column, Table, number, word
from pipeline.store.documents import canonical_json, write_json
from pipeline.store.files import Folder
from schemas.metadata import FORMAT_VERSION

STUDY_FILE = "study.json"
FIGURE_FILE = "study.png"
PAGE_FILE = "study.html"

_X_LABELS: Mapping[Axis, str] = {
    "log2_latent_size": "log₂ E (E: numbers in a clip's latent)",
    "decoder_parameters": "decoder's parameters / 10⁶",
    "encoder_parameters": "encoder's parameters / 10⁶",
    "bottleneck": "bottleneck",
    "positions": "positions",
}
_LINE_COLOUR = COLOURS - 2
"""Of lines through points, and after it that of lines to compare with; the points have those before it."""


def table(points: Sequence[StudyPoint]) -> list[tuple[str, ...]]:
    """Cells of a table, the header first; what is the same in all points and no size is left out."""
    metrics = {name: shown_style(name) for name in shown_metrics(points)}
    optional = [name for name in ("positions", "bottleneck", "seed") if len(_values(points, name)) > 1]
    sizes = ("grid", "E", "encoder M", "decoder M", "GMAC")
    rows = [("variant", "c", *optional, *sizes, *(style.label for style in metrics.values()))]
    for point in points:
        rows.append(
            (
                point.variant,
                str(point.latent_channels),
                *(str(getattr(point, name)) for name in optional),
                point.grid,
                str(point.latent_size),
                f"{point.encoder_parameters / 1e6:.3f}",
                f"{point.decoder_parameters / 1e6:.3f}",
                f"{point.macs / 1e9:.3f}",
                *(f"{point.metrics[name]:.{style.decimals}f}" for name, style in metrics.items()),
            )
        )
    return rows


def draw_study(points: Sequence[StudyPoint]) -> Drawing:
    """The figure of `panels_of`."""
    return scatter_with_fits(panels_of(points))


def panels_of(points: Sequence[StudyPoint]) -> list[Panel]:
    """Each metric over the study's axis; where that is E, the line through the points beside the paper's."""
    axis = axis_of(points)
    categories = tuple(dict.fromkeys(str(getattr(point, axis)) for point in points)) if _is_named(axis) else ()
    fits = fits_of(points)
    panels = []
    for name in shown_metrics(points):
        style = shown_style(name)
        series: dict[str, list[tuple[float, float]]] = {}
        for point, label in zip(points, _labels(points, axis), strict=True):
            series.setdefault(label, []).append((_x_of(point, axis, categories), point.metrics[name]))
        lines = [Line(name=f"fit: {fit}", slope=fit.slope, intercept=fit.intercept) for fit in _only(fits, name)]
        lines += [
            Line(name=f"paper, ImageNet 256p: {fit}", slope=fit.slope, intercept=fit.intercept, dashed=True)
            for fit in _only(PAPER_FITS, name)
            if axis == "log2_latent_size"
        ]
        panels.append(
            Panel(
                x_label=_X_LABELS[axis],
                y_label=f"{style.label} / {style.unit}" if style.unit else style.label,
                series=tuple(
                    Series(name=label, x=tuple(x for x, _ in pairs), y=tuple(y for _, y in pairs))
                    for label, pairs in series.items()
                ),
                lines=tuple(lines),
                categories=categories,
            )
        )
    return panels


def write_study(
    folder: Folder, *, points: Sequence[StudyPoint], protocol: Mapping[str, object], failed: Mapping[str, str]
) -> None:
    """Write `study.json`, `study.png` and `study.html`, in place of those of an earlier start.

    Args:
        folder: The study's folder.
        points: Finished ones, at least one.
        protocol: What all points share: "recipe", "clip", "validation_clips", which stores they saw, and "generation"
            where generators were trained.
        failed: Why other points have no result, by name.
    """
    fits = fits_of(points)
    document = {
        "format_version": FORMAT_VERSION,
        "protocol": protocol,
        "axis": axis_of(points),
        "points": [asdict(point) for point in points],
        "fits": {name: asdict(fit) for name, fit in fits.items()},
        "paper": {name: asdict(fit) for name, fit in PAPER_FITS.items()},
        "failed": failed,
    }
    content = {
        "charts": [_chart(panel) for panel in panels_of(points)],
        "fits": _fit_table(fits),
        "points": _point_table(points),
        "protocol": protocol,
        "failed": failed,
        "record": canonical_json(document).decode(),
    }
    write_json(folder, STUDY_FILE, document)
    folder.write_bytes(FIGURE_FILE, draw_study(points).png)
    write_page(folder, PAGE_FILE, template="study.html.j2", title="Study of tokenizers", films=Films(), content=content)


def _chart(panel: Panel) -> Chart:
    """A panel of the figure in the page's colours."""
    marks = [
        Mark(name=series.name, x=series.x, y=series.y, form="dots", colour=place % _LINE_COLOUR)
        for place, series in enumerate(panel.series)
    ]
    every_x = [x for series in panel.series for x in series.x]
    ends = (min(every_x), max(every_x))
    for line in panel.lines:
        y = [line.intercept + line.slope * x for x in ends]
        colour = _LINE_COLOUR + line.dashed
        marks.append(Mark(name=line.name, x=ends, y=y, form="line", dashed=line.dashed, colour=colour))
    return Chart(
        title=panel.y_label.partition(" / ")[0],
        x_label=panel.x_label,
        y_label=panel.y_label,
        marks=marks,
        categories=panel.categories,
    )


def _fit_table(fits: Mapping[str, LineFit]) -> Table:
    names = ("slope", "intercept", "R²", "paper's slope", "paper's intercept", "paper's R²")
    rows = []
    for name, fit in fits.items():
        numbers = [
            number(value, f"{value:.4g}")
            for each in (fit, *_only(PAPER_FITS, name))
            for value in (each.slope, each.intercept, each.r_squared)
        ]
        rows.append([word(shown_style(name).label), *numbers, *[number(None)] * (len(names) - len(numbers))])
    return Table(columns=[Column(name="metric", is_text=True), *(Column(name=name) for name in names)], rows=rows)


def _point_table(points: Sequence[StudyPoint]) -> Table:
    header, *rows = table(points)
    texts = ("variant", "positions", "bottleneck", "grid")
    return Table(
        columns=[Column(name=name, is_text=name in texts) for name in header],
        rows=[
            [word(cell) if name in texts else number(float(cell), cell) for name, cell in zip(header, row, strict=True)]
            for row in rows
        ],
    )


def _values(points: Sequence[StudyPoint], name: str) -> set[object]:
    return {getattr(point, name) for point in points}


def _is_named(axis: Axis) -> bool:
    return axis in ("bottleneck", "positions")


def _x_of(point: StudyPoint, axis: Axis, categories: Sequence[str]) -> float:
    match axis:
        case "log2_latent_size":
            return math.log2(point.latent_size)
        case "decoder_parameters":
            return point.decoder_parameters / 1e6
        case "encoder_parameters":
            return point.encoder_parameters / 1e6
        case _:
            return float(categories.index(str(getattr(point, axis))))


def _labels(points: Sequence[StudyPoint], axis: Axis) -> list[str]:
    """What tells each point from others at the same x, seeds aside."""
    names = ("tubelet", "encoder", "decoder", "positions", "bottleneck")
    kept = [name for name in names if not axis.startswith(name) and len(_values(points, name)) > 1]
    if not kept:
        return [f"tubelet {point.tubelet}" for point in points]
    return [", ".join(f"{name} {getattr(point, name)}" for name in kept) for point in points]


def _only(fits: Mapping[str, LineFit], name: str) -> list[LineFit]:
    return [fits[name]] if name in fits else []
