"""What a study of tokenizers shows: its points in a table, the lines through them, a figure and one HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from pipeline.report.charts import COLOURS, Chart, Mark
from pipeline.report.page import Films, write_page
from pipeline.report.plots import Drawing, Line, Panel, Series, scatter_with_fits
from pipeline.report.tables import Column, Table, number, word
from pipeline.store.documents import canonical_json, write_json
from pipeline.store.files import Folder
from schemas.metadata import FORMAT_VERSION

STUDY_FILE = "study.json"
FIGURE_FILE = "study.png"
PAGE_FILE = "study.html"

Axis = Literal["log2_latent_size", "decoder_parameters", "encoder_parameters", "bottleneck", "positions"]
_X_LABELS: Mapping[Axis, str] = {
    "log2_latent_size": "log₂ E (E: numbers in a clip's latent)",
    "decoder_parameters": "decoder's parameters / 10⁶",
    "encoder_parameters": "encoder's parameters / 10⁶",
    "bottleneck": "bottleneck",
    "positions": "positions",
}
_Y_LABELS: Mapping[str, str] = {"psnr": "PSNR / dB", "ssim": "SSIM", "lpips": "LPIPS"}
_LINE_COLOUR = COLOURS - 2
"""Of lines through points, and after it that of lines to compare with; the points have those before it."""
_DECIMALS: Mapping[str, int] = {"psnr": 2, "ssim": 4, "lpips": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPoint:
    """One finished training: what it is, and what it reached on the held-out clips."""

    name: str
    encoder: str
    """Letter of its size."""
    decoder: str
    """Letter of its size."""
    tubelet: str
    latent_channels: int
    positions: str
    bottleneck: str
    seed: int
    grid: str
    """Of one clip."""
    latent_size: int
    """E, numbers in the latent of one clip."""
    encoder_parameters: int
    """Of all that encoding takes."""
    decoder_parameters: int
    """Of all that decoding takes."""
    macs: int
    """Multiply-accumulates of one clip through both."""
    metrics: Mapping[str, float]
    """Means over the held-out clips, by name."""

    @property
    def variant(self) -> str:
        """As the paper names it."""
        return f"{self.encoder}-{self.decoder}/{self.tubelet}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LineFit:
    """y = intercept + slope x."""

    slope: float
    intercept: float
    r_squared: float
    """Share of y's variance that the line explains."""

    def __str__(self) -> str:
        sign = "-" if self.intercept < 0 else "+"
        return f"{self.slope:.4g} x {sign} {abs(self.intercept):.4g}, R² {self.r_squared:.2f}"


PAPER_FITS: Mapping[str, LineFit] = {
    "psnr": LineFit(slope=2.302, intercept=-0.569, r_squared=0.92),
    "ssim": LineFit(slope=0.0636, intercept=0.0108, r_squared=0.98),
}
"""The paper's, over x = log2 E: S-B, p of 8, 16 and 32, ImageNet-1K validation at 256 pixels, stage 1 of 100,000 steps.
R² is printed in figure 2 of arXiv:2501.09755; slope and intercept are least squares through the points drawn there."""


def fit_line(x: Sequence[float], y: Sequence[float]) -> LineFit:
    """Least squares of y against x.

    >>> fit_line([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    LineFit(slope=2.0, intercept=1.0, r_squared=1.0)

    Raises:
        ValueError: There are fewer than two different x, or not as many y.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError(f"got {len(set(x))} different x of {len(x)} and {len(y)} y, expected 2 or more, and as many y")
    from_x, from_y = np.asarray(x) - np.mean(x), np.asarray(y) - np.mean(y)
    slope = float(from_x @ from_y / (from_x @ from_x))
    variance = float(from_y @ from_y)
    residual = from_y - slope * from_x
    return LineFit(
        slope=slope,
        intercept=float(np.mean(y) - slope * np.mean(x)),
        r_squared=1.0 - float(residual @ residual) / variance if variance else 0.0,
    )


def axis_of(points: Sequence[StudyPoint]) -> Axis:
    """What a study is about, the x of its figure: the first of E, decoder, encoder, bottleneck, positions to vary.

    Sizes are compared by name: parameters differ a little with the tubelet and the bottleneck too.
    """
    varying: dict[Axis, int] = {
        "log2_latent_size": len({point.latent_size for point in points}),
        "decoder_parameters": len({point.decoder for point in points}),
        "encoder_parameters": len({point.encoder for point in points}),
        "bottleneck": len({point.bottleneck for point in points}),
        "positions": len({point.positions for point in points}),
    }
    return next((axis for axis, count in varying.items() if count > 1), "log2_latent_size")


def fits_of(points: Sequence[StudyPoint]) -> dict[str, LineFit]:
    """The line of each metric over log2 E through all points; empty where E does not vary."""
    x = [math.log2(point.latent_size) for point in points]
    if len(set(x)) < 2:
        return {}
    return {name: fit_line(x, [point.metrics[name] for point in points]) for name in _metrics(points)}


def table(points: Sequence[StudyPoint]) -> list[tuple[str, ...]]:
    """Cells of a table, the header first; what is the same in all points and no size is left out."""
    metrics = _metrics(points)
    optional = [name for name in ("positions", "bottleneck", "seed") if len(_values(points, name)) > 1]
    sizes = ("grid", "E", "encoder M", "decoder M", "GMAC")
    rows = [("variant", "c", *optional, *sizes, *(name.upper() for name in metrics))]
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
                *(f"{point.metrics[name]:.{_DECIMALS[name]}f}" for name in metrics),
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
    for name in _metrics(points):
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
                y_label=_Y_LABELS[name],
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
        protocol: What all points share: "recipe", "clip", "validation_clips", and which stores they saw.
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
        rows.append([word(name.upper()), *numbers, *[number(None)] * (len(names) - len(numbers))])
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


def _metrics(points: Sequence[StudyPoint]) -> list[str]:
    """Metrics that every point has, of those that are shown."""
    return [name for name in _Y_LABELS if all(name in point.metrics for point in points)]


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
