"""Metrics by name: what each is measured on, which weights it needs, how its values become one number."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from vitok.metrics.pixel import SSIM_TAPS, Frames, psnr, ssim
from vitok.networks import i3d, inception, lpips

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
class FeatureSet:
    """Feature vectors of clips (`vitok.metrics.measure.Measures.features`)."""

    per: Literal["frame", "clip"]
    """What has a vector of its own."""
    width: int
    """Numbers of a vector."""


FEATURES: Mapping[str, FeatureSet] = MappingProxyType(
    {
        "inception_2015": FeatureSet(per="frame", width=inception.FEATURES),
        "inception_torchvision": FeatureSet(per="frame", width=inception.FEATURES),
        "inception_2015_logits": FeatureSet(per="frame", width=inception.CLASSES["2015"]),
        "inception_torchvision_logits": FeatureSet(per="frame", width=inception.CLASSES["torchvision"]),
        "i3d": FeatureSet(per="clip", width=i3d.CLASSES),
    }
)
"""Every set of features that a metric is taken of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a name stands for."""

    kind: Kind
    weights: tuple[str, ...]
    """Keys of `vitok.networks.weights.WEIGHTS`, all of them needed."""
    better: Literal["higher", "lower"]
    definition: str
    """What exactly is computed: another text for any other number."""
    features: str | None = None
    """The set it is taken of, a key of `FEATURES`; None: of pairs of clips."""
    min_side: int = 1
    """Of a clip, in pixels."""
    min_frames: int = 1
    """Of a clip."""

    def unfit(self, *, num_frames: int, height: int, width: int) -> str | None:
        """Why clips of a shape have no value; None: they have."""
        if num_frames < self.min_frames:
            return f"needs clips of at least {self.min_frames} frames"
        if min(height, width) < self.min_side:
            return f"needs frames of at least {self.min_side}x{self.min_side} pixels"
        return None


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr": Metric(
            kind=Kind.MEAN,
            weights=(),
            better="higher",
            definition="per frame over RGB uint8, at most 100 dB, mean over frames, then over clips",
        ),
        "ssim": Metric(
            kind=Kind.MEAN,
            weights=(),
            better="higher",
            definition="per frame and RGB channel, Gaussian of 11 taps and sigma 1.5, windows inside the frame; means",
            min_side=SSIM_TAPS,
        ),
        "lpips": Metric(
            kind=Kind.MEAN,
            weights=("vgg16", "lpips_vgg"),
            better="lower",
            definition="LPIPS 0.1 with VGG16 per frame, mean over frames, then over clips",
            min_side=lpips.MIN_SIDE,
        ),
        "fid_2015": Metric(
            kind=Kind.FRECHET,
            weights=("inception_2015",),
            better="lower",
            definition="Frechet distance of all frames' Inception 2015 features, covariances over N - 1",
            features="inception_2015",
        ),
        "fid_torchvision": Metric(
            kind=Kind.FRECHET,
            weights=("inception_torchvision",),
            better="lower",
            definition="Frechet distance of all frames' torchvision Inception features, covariances over N - 1",
            features="inception_torchvision",
        ),
        "inception_score_2015": Metric(
            kind=Kind.INCEPTION_SCORE,
            weights=("inception_2015_logits",),
            better="higher",
            definition="Inception 2015 over all frames, one split",
            features="inception_2015_logits",
        ),
        "inception_score_torchvision": Metric(
            kind=Kind.INCEPTION_SCORE,
            weights=("inception_torchvision",),
            better="higher",
            definition="torchvision Inception over all frames, one split",
            features="inception_torchvision_logits",
        ),
        "fvd": Metric(
            kind=Kind.FRECHET,
            weights=("i3d_kinetics400",),
            better="lower",
            definition="Frechet distance of clips' I3D Kinetics-400 logits, covariances over N - 1",
            features="i3d",
            min_frames=i3d.MIN_FRAMES,
        ),
    }
)
"""Every metric. Of reconstructions against their originals, the literature calls FID and FVD rFID and rFVD."""


def check_metrics(names: Sequence[str], known: Collection[str] = PIXEL_METRICS) -> tuple[str, ...]:
    """The names as they were given, known and each once.

    >>> check_metrics(["fvd", "psnr"], METRICS)
    ('fvd', 'psnr')

    Raises:
        ValueError: There is none, or one is not known or given twice.
    """
    if not names or not set(names) <= set(known) or len(set(names)) != len(names):
        got = " ".join(names) or "none"
        raise ValueError(
            f"metrics: got {got}, expected different names, with spaces between, out of {', '.join(known)}"
        )
    return tuple(names)
