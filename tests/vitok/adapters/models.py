"""Small auto-encoders: one of each class of diffusers with seeded weights, and a user's own."""

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLCosmos, AutoencoderKLWan
from einops import rearrange, reduce, repeat

from vitok.model.posterior import Posterior

CONFIGS = {
    "AutoencoderKL": {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 8,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 16),
        "decoder_block_out_channels": (8, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "scaling_factor": 0.41407,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [0.1, -0.2, 0.3, -0.4],
        "latents_std": [1.5, 2.5, 3.5, 4.5],
        "scale_factor_spatial": 4,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4,
        "encoder_block_out_channels": (8, 8, 8, 16),
        "decode_block_out_channels": (8, 8, 8, 16),
        "attention_resolutions": (),
        "resolution": 32,
        "num_layers": 1,
        "patch_size": 4,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 8,
        "latents_mean": [0.1, -0.2, 0.3, -0.4],
        "latents_std": [1.5, 2.5, 3.5, 4.5],
    },
}
CLASSES = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderDC, AutoencoderKLWan, AutoencoderKLCosmos)}
CHANNELS = {"AutoencoderKL": 4, "AutoencoderDC": 8, "AutoencoderKLWan": 4, "AutoencoderKLCosmos": 4}
VIDEO = ("AutoencoderKLWan", "AutoencoderKLCosmos")


def make(name, **changes):
    """A model of a class, the same each time."""
    torch.manual_seed(0)
    return CLASSES[name](**CONFIGS[name] | changes).eval()


class Average:
    """A latent is the mean colour of 8 x 8 pixels over all frames of a clip: clips of any length have one grid."""

    fingerprint = "average-1"

    def encode(self, pixels):
        mean = reduce(pixels, "b c t (h p) (w q) -> b 1 h w c", "mean", p=8, q=8)
        return Posterior(mean=mean, logvar=None)

    def decode(self, latent, *, num_frames):
        return repeat(rearrange(latent, "b 1 h w c -> b c h w"), "b c h w -> b c t (h p) (w q)", t=num_frames, p=8, q=8)


class Pooled(Average):
    """Four latents, the mean colours of the quarters of a clip: clips of any size have one grid."""

    fingerprint = "pooled-1"

    def encode(self, pixels):
        mean = reduce(pixels, "b c t (h p) (w q) -> b 1 h w c", "mean", h=2, w=2)
        return Posterior(mean=mean, logvar=None)


def pooled():
    """As `average`."""
    return Pooled()


def average():
    """What `--tokenizer tests.vitok.adapters.models:average` calls."""
    return Average()


class Wrong(torch.nn.Module):
    """Has the members, and gives what `encode` was set to."""

    fingerprint = "wrong"

    def __init__(self, given):
        super().__init__()
        self.given = given

    def encode(self, pixels):
        return self.given(pixels)

    def decode(self, latent, *, num_frames):
        raise NotImplementedError(num_frames)


def untrained():
    """A module in training mode."""
    return Wrong(lambda pixels: pixels)


def no_members():
    """An object with none of the members."""
    return torch.nn.Identity()
