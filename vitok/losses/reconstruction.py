"""The loss of stage one: pixels, KL and the perceptual distance, weighted.

Axes: B batch, T' x q = frames, H height, W width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vitok.losses.perceptual import FrameDistance, perceptual_loss
from vitok.model.autoencoder import Reconstruction

PixelLoss = Literal["l2", "l1", "charbonnier"]

CHARBONNIER_EPS = 1e-3
"""In units of pixels in [-1, 1]: an eighth of an 8-bit level. The value of ViTok's second version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """A loss and what it is made of."""

    total: Tensor
    """Scalar, weighted: what is minimised, and the only one that carries a gradient."""
    parts: Mapping[str, Tensor]
    """Unweighted scalars by name, in a fixed order, detached: for a log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOne:
    """Weights of stage one; the defaults are the paper's (ViTok, arXiv:2501.09755, equation 1 and section 2.3)."""

    pixel: PixelLoss = "l2"
    """l1 is an ablation of the paper, charbonnier is of ViTok's second version."""
    kl_weight: float = 1e-3
    """beta, of a KL averaged over tokens and channels (see `Posterior.kl`)."""
    lpips_weight: float = 1.0
    """eta. 0: no perceptual term, and no network for it."""

    def __post_init__(self) -> None:
        if self.pixel not in get_args(PixelLoss):
            raise ValueError(f"pixel: got {self.pixel!r}, expected one of {', '.join(get_args(PixelLoss))}")
        for name, weight in (("kl_weight", self.kl_weight), ("lpips_weight", self.lpips_weight)):
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"{name}: got {weight}, expected a finite number of at least 0")


def pixel_loss(pixels: Tensor, target: Tensor, kind: PixelLoss) -> Tensor:
    """Mean over all elements of d^2, |d| or sqrt(d^2 + eps^2), d = pixels - target.

    In float32 at least, also where the model ran in half precision. Charbonnier (Charbonnier et al. 1994,
    doi:10.1109/ICIP.1994.413553) is an L1 that is smooth at 0, with eps 1e-3: equal pixels cost 1e-3, not 0.

    Args:
        pixels: Float, any shape, about [-1, 1].
        target: Float, the same shape.
        kind: Which of the three.

    Returns:
        A scalar, float32 or wider.

    Raises:
        ValueError: The shapes differ (which broadcasting would hide), or the kind is unknown.
    """
    _check_shapes(pixels, target)
    dtype = torch.promote_types(pixels.dtype, torch.float32)
    difference = pixels.to(dtype) - target.to(dtype)
    if kind == "l2":
        return difference.square().mean()
    if kind == "l1":
        return difference.abs().mean()
    if kind == "charbonnier":
        return (difference.square() + CHARBONNIER_EPS**2).sqrt().mean()
    raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(get_args(PixelLoss))}")


def stage_one_loss(
    reconstruction: Reconstruction, target: Tensor, settings: StageOne, lpips: FrameDistance | None
) -> Terms:
    """Pixel loss + kl_weight * KL + lpips_weight * LPIPS (ViTok, arXiv:2501.09755, equation 1).

    Args:
        reconstruction: A forward pass of the auto-encoder.
        target: What it was asked to reconstruct [B, 3, T' q, H, W] in [-1, 1]: `AutoEncoder.pad_frames` of its input,
            so that every frame of a still is drawn to the still.
        settings: The weights.
        lpips: Distance of frames (see `FrameDistance`); None where its weight is 0.

    Returns:
        Parts "pixel"; "kl", nats per latent channel and token, mean over clips, 0 for a bottleneck without a learned
        variance; "lpips", mean over frames, where it has a weight.

    Raises:
        ValueError: The target has another shape than the reconstruction, or LPIPS is there without a weight, or has a
            weight and is not there.
    """
    if (lpips is None) != (settings.lpips_weight == 0.0):
        raise ValueError(
            f"lpips: got {'none' if lpips is None else 'a distance'} with lpips_weight {settings.lpips_weight}, "
            "expected a distance if the weight is above 0, and none if it is 0"
        )
    pixel = pixel_loss(reconstruction.pixels, target, settings.pixel)
    kl = reconstruction.posterior.kl().mean()
    total = pixel + settings.kl_weight * kl
    parts = {"pixel": pixel.detach(), "kl": kl.detach()}
    if lpips is not None:
        distance = perceptual_loss(reconstruction.pixels, target, lpips)
        total = total + settings.lpips_weight * distance
        parts["lpips"] = distance.detach()
    return Terms(total=total, parts=parts)


def _check_shapes(pixels: Tensor, target: Tensor) -> None:
    if target.shape != pixels.shape:
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, expected {tuple(pixels.shape)}: "
            "the reconstruction's, as AutoEncoder.pad_frames gives it"
        )
