"""The Gaussian the encoder gives for every tubelet.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LOGVAR_MIN = -30.0
LOGVAR_MAX = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """Diagonal Gaussian q(z | pixels) of a VAE (Kingma & Welling, arXiv:1312.6114), [B, T', H', W', K] each.

    float32 or wider even where the encoder runs in half precision: the variance spans 22 orders of magnitude.
    """

    mean: Tensor
    logvar: Tensor
    """Natural logarithm of the variance, in [-30, 20] where built by `from_moments`."""

    @classmethod
    def from_moments(cls, moments: Tensor) -> Self:
        """Posterior of the encoder's output [B, T', H', W', 2K]: K means, then K log-variances.

        The log-variance is clamped to [-30, 20], as in the v1 code of ViTok and in latent diffusion before it
        (Rombach et al., arXiv:2112.10752); the paper does not state it.

        Raises:
            ValueError: The number of channels is odd.
        """
        if moments.shape[-1] % 2:
            raise ValueError(f"moments: got {moments.shape[-1]} channels, expected an even number (mean and logvar)")
        mean, logvar = moments.to(torch.promote_types(moments.dtype, torch.float32)).chunk(2, dim=-1)
        return cls(mean=mean, logvar=logvar.clamp(LOGVAR_MIN, LOGVAR_MAX))

    def mode(self) -> Tensor:
        """The most likely latent: the mean; what evaluation decodes (v1 code)."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent mean + exp(logvar / 2) * noise, differentiable in both (arXiv:1312.6114, section 2.4).

        Args:
            generator: Source of the noise, which is drawn on the generator's device and then moved: a CPU generator
                of one seed gives one noise on every device. None: torch's global generator of the mean's device.
        """
        noise = torch.randn(
            self.mean.shape,
            generator=generator,
            dtype=self.mean.dtype,
            device=self.mean.device if generator is None else generator.device,
        ).to(self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard Gaussian in nats, averaged over tokens and channels: [B].

        0.5 (mean^2 + variance - 1 - logvar) (arXiv:1312.6114, appendix B). The average, not the sum, is what the
        paper's weight of 1e-3 goes with: the v1 code has it so.
        """
        divergence = 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
        return divergence.flatten(1).mean(dim=1)
