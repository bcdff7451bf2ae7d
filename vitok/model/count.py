"""Counts of a model at work on one clip: parameters, multiply-accumulates, size of the latent.

Axes: N = T' H' W' tokens of the clip, d width of a transformer, K latent channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitok.config import AutoEncoderConfig, Grid
from vitok.model.autoencoder import AutoEncoder
from vitok.model.tubelet import PIXEL_CHANNELS

_MODULES: Mapping[str, str] = {
    "tubelet_embed": "tubelet_embed",
    "encoder": "encoder",
    "to_code": "encoder_to_code",
    "from_code": "code_to_decoder",
    "decoder": "decoder",
    "unembed": "tubelet_decode",
}
"""Parts, and the submodule of `AutoEncoder` each of them is."""
_PRINTED_PATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """One count for each part of the auto-encoder."""

    tubelet_embed: int
    encoder: int
    to_code: int
    from_code: int
    decoder: int
    unembed: int

    @property
    def encode(self) -> int:
        """The part of all that encoding takes."""
        return self.tubelet_embed + self.encoder + self.to_code

    @property
    def decode(self) -> int:
        """The part of all that decoding takes."""
        return self.from_code + self.decoder + self.unembed

    @property
    def total(self) -> int:
        """All."""
        return self.encode + self.decode


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCount:
    """What a model is, and what one clip costs it."""

    parameters: Parts
    macs: Parts
    """Multiply-accumulates of one clip; a FLOP count is twice that."""
    macs_as_printed: int
    """`macs.total` as the paper counts: at every tubelet size, embed and unembed as those of 16 x 16 patches.

    The seven GFLOPs that the paper prints (Table 1 and the tables of section 4) are multiply-accumulates with
    projections of 768 d N either way, for video too.
    """
    grid: Grid
    latent_size: int
    """E = N K, numbers of a latent (paper, section 2.2)."""
    compression: float
    """Samples of the clip, 3 T H W, over E."""


def count(config: AutoEncoderConfig, *, num_frames: int, height: int, width: int) -> ModelCount:
    """Count a model at work on one clip of `num_frames` x `height` x `width` pixels.

    Counted is what runs: matrix products, those of attention included, as torch meets them in a forward pass. The pass
    is made on the meta device, so that no size of model or clip takes memory. LayerNorm, softmax, activations and
    rotary positions are no matrix products and are left out; of these the paper's figures include LayerNorm, as
    5 (2 depth + 1) N d, which is below 0.2 % in every variant.

    >>> counted = count(AutoEncoderConfig.from_name("S-B/4x8"), num_frames=16, height=128, width=128)
    >>> round(counted.macs.total / 1e9, 2), str(counted.grid), counted.compression
    (160.78, '4x16x16', 48.0)

    Raises:
        ValueError: The clip does not divide into tubelets.
    """
    grid = config.grid(num_frames=num_frames, height=height, width=width)
    with torch.device("meta"):
        model = AutoEncoder(config)
        pixels = torch.empty(1, PIXEL_CHANNELS, num_frames, height, width)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(pixels, sample=False)
    flops = counter.get_flop_counts()
    macs = Parts(**{part: sum(flops[f"AutoEncoder.{module}"].values()) // 2 for part, module in _MODULES.items()})
    parameters = Parts(
        **{
            part: sum(parameter.numel() for parameter in model.get_submodule(module).parameters())
            for part, module in _MODULES.items()
        }
    )
    # A module that is no part would be counted by nobody.
    assert 2 * macs.total == counter.get_total_flops()
    assert parameters.total == sum(parameter.numel() for parameter in model.parameters())
    printed_projection = PIXEL_CHANNELS * _PRINTED_PATCH**2 * grid.num_tokens
    latent_size = grid.num_tokens * config.latent_channels
    return ModelCount(
        parameters=parameters,
        macs=macs,
        macs_as_printed=macs.total
        - macs.tubelet_embed
        - macs.unembed
        + printed_projection * (config.encoder.embed_dim + config.decoder.embed_dim),
        grid=grid,
        latent_size=latent_size,
        compression=pixels.numel() / latent_size,
    )
