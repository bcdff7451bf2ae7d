"""The loss of stage one without its perceptual term.

Axes: B batch, C pixel channels, T time, H height, W width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitok.model.autoencoder import Reconstruction


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """A loss and what it is the sum of: scalars, none of them weighted but the total."""

    total: Tensor
    reconstruction: Tensor
    """Mean squared error over clips, channels, frames and pixels, of pixels in [-1, 1]."""
    kl: Tensor
    """Nats per latent channel and token, mean over clips."""


def stage_one_loss(reconstruction: Reconstruction, target: Tensor, kl_weight: float = 1e-3) -> Terms:
    """MSE + kl_weight * KL (ViTok, arXiv:2501.09755, equation 1 with its beta of 1e-3).

    Computed in float32 at least, also where the model ran in half precision.

    Args:
        reconstruction: A forward pass of the auto-encoder.
        target: What it was asked to reconstruct [B, 3, T' q, H, W] in [-1, 1]: `AutoEncoder.pad_frames` of its input,
            so that every frame of a still is drawn to the still.
        kl_weight: The paper's beta.

    Raises:
        ValueError: The target has another shape than the reconstruction (which broadcasting would hide).
    """
    if target.shape != reconstruction.pixels.shape:
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, expected {tuple(reconstruction.pixels.shape)}: "
            "the reconstruction's, as AutoEncoder.pad_frames gives it"
        )
    dtype = torch.promote_types(reconstruction.pixels.dtype, torch.float32)
    squared_error = F.mse_loss(reconstruction.pixels.to(dtype), target.to(dtype))
    kl = reconstruction.posterior.kl().mean()
    return Terms(total=squared_error + kl_weight * kl, reconstruction=squared_error, kl=kl)
