"""Pixels between storage (uint8, channels last) and the model (float in [-1, 1], channels first).

Axes: B batch, C pixel channels, T time, H height, W width.
"""

import torch
from einops import rearrange
from torch import Tensor


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 [B, T, H, W, C] to float32 [B, C, T, H, W] in [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return rearrange(pixels, "B T H W C -> B C T H W").to(torch.float32) / 127.5 - 1.0


def to_uint8(pixels: Tensor) -> Tensor:
    """Float [B, C, T, H, W] to uint8 [B, T, H, W, C]: [-1, 1] to 0..255.

    Clamped, then rounded to the nearest level, a half to the even one, so that every 8-bit level survives the way
    to [-1, 1] and back. The v1 code of ViTok truncates instead, which darkens every picture by half a level on
    average and costs PSNR.

    Raises:
        ValueError: A pixel is NaN, which has no level.
    """
    if pixels.isnan().any():
        raise ValueError(f"pixels: {int(pixels.isnan().sum())} of {pixels.numel()} are NaN")
    levels = ((pixels.float() + 1.0) * 127.5).clamp(0.0, 255.0).round().to(torch.uint8)
    return rearrange(levels, "B C T H W -> B T H W C")
