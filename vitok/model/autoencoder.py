"""ViTok: a transformer auto-encoder of images and videos with one Gaussian latent vector per tubelet.

Axes: B batch, C = 3 pixel channels, T time (frames), H height, W width, K latent channels;
T' = ceil(T / q), H' = H / p, W' = W / p count tubelets of q frames x p x p pixels.
"""

from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor, nn

from vitok.config import AutoEncoderConfig
from vitok.model.block import Transformer, xavier_linear
from vitok.model.posterior import Posterior
from vitok.model.tubelet import PIXEL_CHANNELS, TubeletEmbed, TubeletUnembed


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """What a forward pass gives."""

    pixels: Tensor
    """All frames of all tubelets [B, 3, T' q, H, W], about [-1, 1], not clamped; compare with `pad_frames`."""
    posterior: Posterior


class AutoEncoder(nn.Module):
    """ViTok (Hansen-Estruch et al., arXiv:2501.09755, section 2.3): tubelets, encoder, Gaussian, decoder, tubelets.

    Images are clips of one frame; `AutoEncoderConfig` says how they pass through a model with q > 1.
    The state dict has the names and shapes of the v1 code.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tubelet_embed = TubeletEmbed(config.tubelet, config.encoder.embed_dim)
        self.encoder = Transformer(
            config.encoder,
            activation=config.activation,
            rope_theta=config.rope_theta,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.encoder_to_code = xavier_linear(config.encoder.embed_dim, 2 * config.latent_channels)
        self.code_to_decoder = xavier_linear(config.latent_channels, config.decoder.embed_dim)
        self.decoder = Transformer(
            config.decoder,
            activation=config.activation,
            rope_theta=config.rope_theta,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.tubelet_decode = TubeletUnembed(config.tubelet, config.decoder.embed_dim)

    def pad_frames(self, pixels: Tensor) -> Tensor:
        """Fill the last tubelet in time by repeating the last frame: [B, 3, T, H, W] to [B, 3, T' q, H, W].

        What `forward` reconstructs, so also the target of its loss.

        Raises:
            ValueError: The pixels are not float [B, 3, T, H, W] with H and W multiples of the patch.
        """
        if pixels.ndim != 5 or pixels.shape[1] != PIXEL_CHANNELS:
            raise ValueError(f"pixels: got shape {tuple(pixels.shape)}, expected [B, {PIXEL_CHANNELS}, T, H, W]")
        if not pixels.is_floating_point():
            raise ValueError(f"pixels: got {pixels.dtype}, expected floating point in [-1, 1]")
        num_frames, height, width = pixels.shape[2:]
        grid = self.config.grid(num_frames=num_frames, height=height, width=width)
        num_missing = grid.frames * self.config.tubelet.frames - num_frames
        if num_missing == 0:
            return pixels
        return torch.cat([pixels, repeat(pixels[:, :, -1], "b c h w -> b c t h w", t=num_missing)], dim=2)

    def encode(self, pixels: Tensor) -> Posterior:
        """Posterior of clips.

        >>> AutoEncoder(AutoEncoderConfig.from_name("N-N/4x8")).encode(torch.zeros(1, 3, 16, 32, 24)).mean.shape
        torch.Size([1, 4, 4, 3, 16])

        Args:
            pixels: Float [B, 3, T, H, W] in [-1, 1], any T >= 1, H and W multiples of the patch.

        Returns:
            Posterior over [B, T', H', W', K].

        Raises:
            ValueError: The pixels have another shape or kind.
        """
        embeddings = self.tubelet_embed(self.pad_frames(pixels))
        return Posterior.from_moments(self.encoder_to_code(self.encoder(embeddings)))

    def decode(self, latent: Tensor, num_frames: int | None = None) -> Tensor:
        """Pixels of latents.

        Args:
            latent: Float [B, T', H', W', K], unnormalised.
            num_frames: Length T of the clip that was encoded, in ((T' - 1) q, T' q]: later frames, which are
                repetitions, are cut off. None: all T' q frames.

        Returns:
            Float [B, 3, num_frames, H, W], about [-1, 1], not clamped.

        Raises:
            ValueError: The latent has another shape, or the clip of `num_frames` another number of tubelets.
        """
        if latent.ndim != 5 or latent.shape[-1] != self.config.latent_channels:
            raise ValueError(
                f"latent: got shape {tuple(latent.shape)}, expected [B, T', H', W', {self.config.latent_channels}]"
            )
        longest = latent.shape[1] * self.config.tubelet.frames
        shortest = longest - self.config.tubelet.frames + 1
        if num_frames is not None and not shortest <= num_frames <= longest:
            raise ValueError(
                f"num_frames: got {num_frames}, expected {shortest} to {longest} for "
                f"{latent.shape[1]} tubelets of {self.config.tubelet.frames} frames"
            )
        pixels: Tensor = self.tubelet_decode(self.decoder(self.code_to_decoder(latent)))
        return pixels if num_frames is None else pixels[:, :, :num_frames]

    def forward(
        self, pixels: Tensor, *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Reconstruction:
        """Encode clips and decode a sample of their posterior.

        Args:
            pixels: As `encode` takes them.
            generator: Source of the sample's noise (see `Posterior.sample`).
            sample: False: decode the mode instead.

        Raises:
            ValueError: The pixels have another shape or kind.
        """
        posterior = self.encode(pixels)
        latent = posterior.sample(generator) if sample else posterior.mode()
        return Reconstruction(pixels=self.decode(latent), posterior=posterior)
