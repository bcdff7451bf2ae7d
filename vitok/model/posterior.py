"""What the encoder says of every tubelet: a Gaussian, or a point.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels.
"""

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

LOGVAR_MIN = -30.0
LOGVAR_MAX = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """Distribution q(z | pixels) of latents, [B, T', H', W', K] each.

    With a log-variance it is the diagonal Gaussian of a VAE (Kingma & Welling, arXiv:1312.6114). Without one nothing
    was learned about the spread: a point, or a point that samples blur by a fixed noise.

    float32 or wider even where the encoder runs in half precision: the variance spans 22 orders of magnitude.
    """

    mean: Tensor
    logvar: Tensor | None
    """Natural logarithm of the variance, in [-30, 20] where built by `from_moments`; None: no variance was learned."""
    noise_std: float = 0.0
    """Standard deviation of samples about the mean where there is no log-variance; 0: a sample is the mean."""
    mask: Tensor | None = None
    """Bool [B, T', H', W'], False for tokens that are padding, where mean, log-variance and samples are 0. None: all
    tokens are real."""

    @classmethod
    def from_moments(cls, moments: Tensor, *, mask: Tensor | None = None) -> Self:
        """Gaussian posterior of the encoder's output [B, T', H', W', 2K]: K means, then K log-variances.

        The log-variance is clamped to [-30, 20], as in the v1 code of ViTok and in latent diffusion before it
        (Rombach et al., arXiv:2112.10752); the paper does not state it.

        Raises:
            ValueError: The number of channels is odd.
        """
        if moments.shape[-1] % 2:
            raise ValueError(f"moments: got {moments.shape[-1]} channels, expected an even number (mean and logvar)")
        mean, logvar = moments.to(torch.promote_types(moments.dtype, torch.float32)).chunk(2, dim=-1)
        return cls(mean=mean, logvar=logvar.clamp(LOGVAR_MIN, LOGVAR_MAX), mask=mask)

    def mode(self) -> Tensor:
        """The most likely latent: the mean; what evaluation decodes (v1 code)."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent mean + std * noise, differentiable in both (arXiv:1312.6114, section 2.4).

        std is exp(logvar / 2) where a variance was learned, else `noise_std`. The mean itself, and nothing drawn, where
        that is 0.

        Args:
            generator: Source of the noise, which is drawn on the generator's device and then moved: a CPU generator
                of one seed gives one noise on every device. None: torch's global generator of the mean's device.
                Noise is drawn for padding too, so a clip's noise depends on the shape of its batch.
        """
        if self.logvar is None and self.noise_std == 0.0:
            return self.mean
        noise = torch.randn(
            self.mean.shape,
            generator=generator,
            dtype=self.mean.dtype,
            device=self.mean.device if generator is None else generator.device,
        ).to(self.mean.device)
        std = self.noise_std if self.logvar is None else torch.exp(0.5 * self.logvar)
        sample = self.mean + std * noise
        return sample if self.mask is None else torch.where(self._channel_mask(self.mask), sample, 0.0)

    def kl(self) -> Tensor:
        """KL divergence to the standard Gaussian in nats, averaged over real tokens and channels: [B].

        0.5 (mean^2 + variance - 1 - logvar) (arXiv:1312.6114, appendix B). The average, not the sum, is what the
        paper's weight of 1e-3 goes with: the v1 code has it so. 0, without a gradient, where no variance was learned.
        """
        if self.logvar is None:
            return self.mean.new_zeros(len(self.mean))
        divergence = 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
        if self.mask is None:
            return divergence.flatten(1).mean(dim=1)
        real = torch.where(self._channel_mask(self.mask), divergence, 0.0)
        return real.flatten(1).sum(dim=1) / (self.mask.flatten(1).sum(dim=1) * divergence.shape[-1])

    @staticmethod
    def _channel_mask(mask: Tensor) -> Tensor:
        return rearrange(mask, "b t h w -> b t h w 1")
