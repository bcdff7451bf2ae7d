"""What a study of tokenizers found: its points, what tells them apart, and the lines through them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.report.notation import MetricStyle, metric_style

Axis = Literal["log2_latent_size", "decoder_parameters", "encoder_parameters", "bottleneck", "positions"]
RECONSTRUCTION = ("psnr", "ssim", "lpips")
"""Measures of held-out clips that a study shows."""
GENERATION = "generation/"
"""Begins the names of a point's other metrics that a study shows: scores of a generator's samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPoint:
    """One finished training: what it is, what it reached on the held-out clips, and a generator on its latents."""

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
    """Means over the held-out clips, by name; scores of a generator's samples, where one was trained, by `GENERATION`
    and the names of `vitok.metrics.generation`."""

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
    """The line of each measure of reconstruction over log2 E through all points; empty where E does not vary.

    None of generation: there the paper finds the best at a middle E.
    """
    x = [math.log2(point.latent_size) for point in points]
    if len(set(x)) < 2:
        return {}
    names = [name for name in shown_metrics(points) if name in RECONSTRUCTION]
    return {name: fit_line(x, [point.metrics[name] for point in points]) for name in names}


def shown_metrics(points: Sequence[StudyPoint]) -> list[str]:
    """Metrics that every point has, of those that are shown: of reconstruction, then of generation."""
    scores = [name for name in points[0].metrics if name.startswith(GENERATION)]
    return [name for name in (*RECONSTRUCTION, *scores) if all(name in point.metrics for point in points)]


def shown_style(name: str) -> MetricStyle:
    """How a shown metric is written: a score of samples has a g where that of reconstructions has an r.

    >>> shown_style("generation/fid_2015").label
    'gFID (2015)'
    """
    style = metric_style(name.removeprefix(GENERATION))
    return replace(style, label="g" + style.label.removeprefix("r")) if name.startswith(GENERATION) else style
