"""Metrics by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from vitok.metrics.pixel import Frames, psnr, ssim

PIXEL_METRICS: Mapping[str, Callable[[Frames, Frames], Tensor]] = MappingProxyType({"psnr": psnr, "ssim": ssim})
"""Name -> function of (reference, candidate), both uint8 [B, T, H, W, 3], that gives float64 [B]."""


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names of metrics from a comma-separated list, in its order.

    >>> parse_metrics("psnr, ssim")
    ('psnr', 'ssim')

    Raises:
        ValueError: A name is unknown, empty or given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in PIXEL_METRICS]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"metrics: got {text!r}, expected different names out of {', '.join(PIXEL_METRICS)}")
    return names
