"""How numbers are written on a page: metrics, counts, sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NONE: Final = "\N{EN DASH}"
"""Stands where there is no number."""
_MINUS: Final = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricStyle:
    """How a metric is written."""

    label: str
    unit: str = ""
    decimals: int
    higher_is_better: bool

    @property
    def axis(self) -> str:
        """Label and unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def better(self) -> str:
        """Unit, and which way is better.

        >>> metric_style("psnr").better
        'dB, higher is better'
        """
        way = "higher is better" if self.higher_is_better else "lower is better"
        return f"{self.unit}, {way}" if self.unit else way


_STYLES: Mapping[str, MetricStyle] = {
    "psnr": MetricStyle(label="PSNR", unit="dB", decimals=2, higher_is_better=True),
    "ssim": MetricStyle(label="SSIM", decimals=4, higher_is_better=True),
    "lpips": MetricStyle(label="LPIPS", decimals=4, higher_is_better=False),
    "fid_2015": MetricStyle(label="rFID (2015)", decimals=2, higher_is_better=False),
    "fid_torchvision": MetricStyle(label="rFID (torchvision)", decimals=2, higher_is_better=False),
    "fvd": MetricStyle(label="rFVD", decimals=1, higher_is_better=False),
    "inception_score_2015": MetricStyle(label="IS (2015)", decimals=2, higher_is_better=True),
    "inception_score_torchvision": MetricStyle(label="IS (torchvision)", decimals=2, higher_is_better=True),
}


def metric_style(name: str) -> MetricStyle:
    """How a metric of `vitok.metrics.registry` is written, which is about reconstructions here.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in _STYLES:
        raise ValueError(f"metric {name!r}: a page knows how to write {', '.join(_STYLES)}; add it there")
    return _STYLES[name]


def metric_text(name: str, value: float) -> str:
    """A value without its unit.

    >>> metric_text("psnr", 31.23456), metric_text("psnr", float("inf"))
    ('31.23', '∞')
    """
    return fixed(value, metric_style(name).decimals)


def fixed(value: float, decimals: int) -> str:
    """With as many decimals, a true minus, and thousands apart.

    >>> fixed(-1234.567, 1)
    '−1,234.6'
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else _MINUS + "∞")
    return f"{value:,.{decimals}f}".replace("-", _MINUS)


def size_text(size_bytes: float) -> str:
    """Bytes in powers of a thousand.

    >>> size_text(512), size_text(103_071), size_text(8.2e12)
    ('512 B', '103 kB', '8.2 TB')
    """
    return si_text(size_bytes) + "B" if size_bytes >= 999.5 else f"{size_bytes:.0f} B"


def si_text(value: float) -> str:
    """Three digits and a prefix, as on an axis.

    >>> si_text(1500) + "B", si_text(0.25), si_text(2_000_000)
    ('1.5 kB', '0.25', '2 M')
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{float(f'{value / 10**power:.3g}'):g} {prefix}".replace("-", _MINUS)
    return f"{float(f'{value:.3g}'):g}".replace("-", _MINUS)
