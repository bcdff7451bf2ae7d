"""ViTok: a transformer auto-encoder of images and videos with one latent vector per tubelet.

Axes: B batch, C = 3 pixel channels, T time (frames), H height, W width, K latent channels;
T' = ceil(T / q), H' = H / p, W' = W / p count tubelets of q frames x p x p pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor, nn

from vitok.config import AutoEncoderConfig, Grid, TransformerConfig
from vitok.model.block import Transformer, xavier_linear
from vitok.model.bottleneck import code_channels, posterior_of
from vitok.model.padding import Padding
from vitok.model.posterior import Posterior
from vitok.model.tubelet import PIXEL_CHANNELS, TubeletEmbed, TubeletUnembed


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """What a forward pass gives."""

    pixels: Tensor
    """All frames of all tubelets [B, 3, T' q, H, W], about [-1, 1], not clamped; compare with `pad_frames`. In a
    padded batch 0 where there is no clip, as `pad_clips` has it: no error there, but a mean over all elements counts
    it."""
    posterior: Posterior


class AutoEncoder(nn.Module):
    """ViTok (Hansen-Estruch et al., arXiv:2501.09755, section 2.3): tubelets, encoder, bottleneck, decoder, tubelets.

    Images are clips of one frame; `AutoEncoderConfig` says how they pass through a model with q > 1.
    The state dict has the names and shapes of the v1 code; positions are no part of it.

    Clips of different grids go through together where each is padded, at the end of its axes, to one size, and `grids`
    says what of each is real (`pad_clips` makes both). What padding holds, or a neighbour, changes no result: real
    tokens attend to real tokens alone and have the positions of their own clip, and at padding all outputs are 0. Where
    no clip is padded there is no mask, and attention takes the fastest kernel.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tubelet_embed = TubeletEmbed(config.tubelet, config.encoder.embed_dim)
        self.encoder = _transformer(config.encoder, config)
        self.encoder_to_code = xavier_linear(config.encoder.embed_dim, code_channels(config))
        self.code_to_decoder = xavier_linear(config.latent_channels, config.decoder.embed_dim)
        self.decoder = _transformer(config.decoder, config)
        self.tubelet_decode = TubeletUnembed(config.tubelet, config.decoder.embed_dim)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Compute the inside of every block again in the backward pass, or keep it (see `Transformer`)."""
        for transformer in (self.encoder, self.decoder):
            transformer.activation_checkpointing = enabled

    def freeze_encoder(self) -> None:
        """Ask for no gradients of what makes a posterior: stage 2 trains the decoder alone (paper, section 2.3).

        The decoder's side, which stays, is `code_to_decoder`, `decoder` and `tubelet_decode`, as in the v1 code.
        """
        for module in (self.tubelet_embed, self.encoder, self.encoder_to_code):
            module.requires_grad_(False)

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

    def pad_clips(self, clips: Sequence[Tensor]) -> tuple[Tensor, tuple[Grid, ...]]:
        """Put clips of any sizes into one batch, each as `pad_frames` has it and then padded with 0 (grey).

        Args:
            clips: Float [3, T, H, W] in [-1, 1] each, one dtype and device.

        Returns:
            Pixels [B, 3, T' q, H' p, W' p] of the longest, highest and widest, and the grid of every clip.

        Raises:
            ValueError: There are no clips, or `pad_frames` refuses one.
        """
        if not clips:
            raise ValueError("clips: got none, expected at least one")
        filled = [self.pad_frames(clip[None])[0] for clip in clips]
        sizes = [clip.shape[1:] for clip in filled]
        batch = filled[0].new_zeros(len(clips), PIXEL_CHANNELS, *(max(sides) for sides in zip(*sizes, strict=True)))
        for row, (clip, (frames, height, width)) in zip(batch, zip(filled, sizes, strict=True), strict=True):
            row[:, :frames, :height, :width] = clip
        grids = (self.config.grid(num_frames=t, height=h, width=w) for t, h, w in sizes)
        return batch, tuple(grids)

    def encode(self, pixels: Tensor, grids: Sequence[Grid] | None = None) -> Posterior:
        """Posterior of clips.

        >>> AutoEncoder(AutoEncoderConfig.from_name("N-N/4x8")).encode(torch.zeros(1, 3, 16, 32, 24)).mean.shape
        torch.Size([1, 4, 4, 3, 16])

        Args:
            pixels: Float [B, 3, T, H, W] in [-1, 1], any T >= 1, H and W multiples of the patch. Values at padding
                are not looked at.
            grids: Grid of every clip of a padded batch (`pad_clips`); None: all clips fill the batch.

        Returns:
            Posterior over [B, T', H', W', K].

        Raises:
            ValueError: The pixels have another shape or kind, or the grids do not fit them.
        """
        filled = self.pad_frames(pixels)
        num_clips, _, num_frames, height, width = filled.shape
        grid = self.config.grid(num_frames=num_frames, height=height, width=width)
        padding = Padding.of_grids(grids, num_clips=num_clips, grid=grid, device=filled.device)
        if padding is not None:
            filled = padding.blank_pixels(filled, self.config.tubelet)
        code = self.encoder_to_code(self.encoder(self.tubelet_embed(filled), padding))
        return posterior_of(code, self.config, padding)

    def decode(self, latent: Tensor, num_frames: int | None = None, grids: Sequence[Grid] | None = None) -> Tensor:
        """Pixels of latents.

        Args:
            latent: Float [B, T', H', W', K], unnormalised. Values at padding are not looked at.
            num_frames: Length T of the clip that was encoded, in ((T' - 1) q, T' q]: later frames, which are
                repetitions, are cut off. None: all T' q frames. Of a padded batch: the longest clip's.
            grids: Grid of every clip of a padded batch; None: all clips fill the batch.

        Returns:
            Float [B, 3, num_frames, H, W], about [-1, 1], not clamped; 0 at padding.

        Raises:
            ValueError: The latent has another shape, the clip of `num_frames` another number of tubelets, or the grids
                do not fit the latent.
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
        num_clips, frames, height, width, _ = latent.shape
        grid = Grid(frames=frames, height=height, width=width)
        padding = Padding.of_grids(grids, num_clips=num_clips, grid=grid, device=latent.device)
        if padding is not None:
            latent = padding.blank(latent)
        pixels: Tensor = self.tubelet_decode(self.decoder(self.code_to_decoder(latent), padding))
        if padding is not None:
            pixels = padding.blank_pixels(pixels, self.config.tubelet)
        return pixels if num_frames is None else pixels[:, :, :num_frames]

    def forward(
        self,
        pixels: Tensor,
        *,
        generator: torch.Generator | None = None,
        sample: bool = True,
        grids: Sequence[Grid] | None = None,
    ) -> Reconstruction:
        """Encode clips and decode a sample of their posterior.

        Args:
            pixels: As `encode` takes them.
            generator: Source of the sample's noise (see `Posterior.sample`).
            sample: False: decode the mode instead.
            grids: Grid of every clip of a padded batch; None: all clips fill the batch.

        Raises:
            ValueError: The pixels have another shape or kind, or the grids do not fit them.
        """
        posterior = self.encode(pixels, grids)
        latent = posterior.sample(generator) if sample else posterior.mode()
        return Reconstruction(pixels=self.decode(latent, grids=grids), posterior=posterior)


def _transformer(side: TransformerConfig, config: AutoEncoderConfig) -> Transformer:
    return Transformer(
        side,
        activation=config.activation,
        positions=config.positions,
        rope_theta=config.rope_theta,
        layer_norm_eps=config.layer_norm_eps,
    )
