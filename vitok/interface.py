"""What the face of vitok.hub hands out: its config, distributions and outputs, under the names that diffusers uses.

Axes: B batch, T time (frames), H height, W width; T' x H' x W' the grid of tubelets of q frames x p x p pixels;
K latent channels, which come first here.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.model.checkpoint import ChannelStatistics
from vitok.model.posterior import Posterior


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentDistribution:
    """A posterior, channels first: [B, K, H', W'] of images, [B, K, T', H', W'] of videos."""

    posterior: Posterior
    """Channels last, float32."""
    is_image: bool
    dtype: torch.dtype
    """Of what is handed out: the model's, as trainers expect; samples are drawn in float32 before."""

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._channels_first(self.posterior.mean)

    @property
    def logvar(self) -> Tensor | None:
        """Natural logarithm of the variance; None where the model's bottleneck learns none."""
        return None if self.posterior.logvar is None else self._channels_first(self.posterior.logvar)

    def mode(self) -> Tensor:
        """The most likely latent."""
        return self._channels_first(self.posterior.mode())

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent (see `Posterior.sample`)."""
        return self._channels_first(self.posterior.sample(generator))

    def _channels_first(self, latent: Tensor) -> Tensor:
        pattern = "b 1 h w k -> b k h w" if self.is_image else "b t h w k -> b k t h w"
        return rearrange(latent, pattern).to(self.dtype)


class EncoderOutput(NamedTuple):
    """What `encode` gives. A tuple too: callers with `return_dict=False` take its [0]."""

    latent_dist: LatentDistribution


class DecoderOutput(NamedTuple):
    """What `decode` gives. A tuple too: callers with `return_dict=False` take its [0]."""

    sample: Tensor
    """Float [B, 3, H, W] or [B, 3, T, H, W], about [-1, 1], not clamped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubConfig:
    """What trainers ask of `vae.config`, under the names that diffusers uses for it."""

    autoencoder: AutoEncoderConfig
    statistics: ChannelStatistics | None

    @property
    def in_channels(self) -> int:
        """Red, green, blue."""
        return 3

    @property
    def out_channels(self) -> int:
        """Red, green, blue."""
        return 3

    @property
    def latent_channels(self) -> int:
        """K."""
        return self.autoencoder.latent_channels

    @property
    def z_dim(self) -> int:
        """K, under the name of AutoencoderKLWan."""
        return self.latent_channels

    @property
    def spatial_compression_ratio(self) -> int:
        """p: pixels along height or width that become one latent."""
        return self.autoencoder.tubelet.patch

    @property
    def scale_factor_spatial(self) -> int:
        """p, under the name of AutoencoderKLWan."""
        return self.spatial_compression_ratio

    @property
    def temporal_compression_ratio(self) -> int:
        """q: frames that become one latent. T frames become ceil(T / q), not 1 + (T - 1) / q as in causal models."""
        return self.autoencoder.tubelet.frames

    @property
    def scale_factor_temporal(self) -> int:
        """q, under the name of AutoencoderKLWan."""
        return self.temporal_compression_ratio

    @property
    def latents_mean(self) -> tuple[float, ...] | None:
        """Mean of every latent channel over a corpus; None where it is not known."""
        return None if self.statistics is None else self.statistics.mean

    @property
    def latents_std(self) -> tuple[float, ...] | None:
        """Standard deviation of every latent channel over a corpus; None where it is not known."""
        return None if self.statistics is None else self.statistics.std

    @property
    def shift_factor(self) -> float:
        """Mean over all channels, for trainers that know one number for them; 0 without statistics."""
        return 0.0 if self.statistics is None else math.fsum(self.statistics.mean) / self.latent_channels

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation over all channels about `shift_factor`; 1 without statistics.

        (z - shift_factor) * scaling_factor has mean 0 and variance 1 over all channels together. An alternative to
        `latents_mean` and `latents_std`, which are better: they bring every channel there.
        """
        if self.statistics is None:
            return 1.0
        moments = zip(self.statistics.mean, self.statistics.std, strict=True)
        squares = math.fsum(std**2 + (mean - self.shift_factor) ** 2 for mean, std in moments)
        return math.sqrt(self.latent_channels / squares)
