"""Metrics by name: what each is measured on, which weights it needs, how its values become one number."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from torch import Tensor

from vitok.metrics.pixel import Frames, psnr, ssim

PIXEL_METRICS: Mapping[str, Callable[[Frames, Frames], Tensor]] = MappingProxyType({"psnr": psnr, "ssim": ssim})
"""Name -> function of (reference, candidate), both uint8 [B, T, H, W, 3], that gives float64 [B]; without a network."""


class Kind(StrEnum):
    """How a metric's values become one number, and so which state it is summed in."""

    MEAN = "mean"
    """A number for each pair of clips, averaged: `vitok.metrics.mean.MeanState`."""
    FRECHET = "frechet"
    """Two sets of features, originals and reconstructions: `vitok.metrics.frechet.FeatureMoments` of each."""
    INCEPTION_SCORE = "inception_score"
    """Class predictions of reconstructions: `vitok.metrics.inception_score.InceptionScoreState`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a name stands for."""

    kind: Kind
    weights: tuple[str, ...]
    """Keys of `vitok.networks.weights.WEIGHTS`, all of them needed."""


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr": Metric(kind=Kind.MEAN, weights=()),
        "ssim": Metric(kind=Kind.MEAN, weights=()),
        "lpips": Metric(kind=Kind.MEAN, weights=("vgg16", "lpips_vgg")),
        "fid_2015": Metric(kind=Kind.FRECHET, weights=("inception_2015",)),
        "fid_torchvision": Metric(kind=Kind.FRECHET, weights=("inception_torchvision",)),
        "inception_score_2015": Metric(kind=Kind.INCEPTION_SCORE, weights=("inception_2015_logits",)),
        "inception_score_torchvision": Metric(kind=Kind.INCEPTION_SCORE, weights=("inception_torchvision",)),
        "fvd": Metric(kind=Kind.FRECHET, weights=("i3d_kinetics400",)),
    }
)
"""Every metric. Of reconstructions against their originals, the literature calls FID and FVD rFID and rFVD."""


def parse_metrics(text: str, known: Collection[str] = PIXEL_METRICS) -> tuple[str, ...]:
    """Names of metrics from a comma-separated list, in its order.

    >>> parse_metrics("psnr, ssim")
    ('psnr', 'ssim')
    >>> parse_metrics("fvd,psnr", METRICS)
    ('fvd', 'psnr')

    Raises:
        ValueError: A name is not known, empty or given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"metrics: got {text!r}, expected different names out of {', '.join(known)}")
    return names
