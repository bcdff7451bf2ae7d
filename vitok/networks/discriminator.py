"""The discriminator of stage two: which frames are real and which reconstructed.

Axes: N frames, C channels, H height, W width.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitok.model.block import xavier_linear
from vitok.model.tubelet import PIXEL_CHANNELS

FINAL_SIDE = 4
"""Side of the last feature map, which the fully connected layers see."""
SLOPE = 0.2
"""Of LeakyReLU below 0."""
RESOLUTIONS = (8, 1024)
"""Smallest and largest."""


class StyleGanDiscriminator(nn.Module):
    """StyleGAN's discriminator (Karras et al., arXiv:1912.04958), residual, as in the v1 code of ViTok.

    A 3x3 convolution, residual blocks that halve the sides down to 4 x 4, a 3x3 convolution, two linear layers;
    min(512, 16384 / side) channels: 512 up to 32 pixels, then 256, 128, 64, 32. Xavier-uniform weights, zero biases.
    Unlike StyleGAN2's, and as in the v1 code's list of layers: no minibatch statistics, so that a frame's logit does
    not depend on the frames beside it, and no equalised learning rates.

    Made for square frames of `resolution`, it takes frames of any sides of at least `resolution / 4`: sides that are
    odd on the way are rounded up when halved, and a last feature map that is not 4 x 4 is averaged to 4 x 4 (adaptive
    average pooling, which leaves a 4 x 4 map as it is). So all buckets of aspect ratios share one discriminator, and
    square frames lose nothing. The sides of a bucket should be near the resolution.

    Args:
        resolution: Side of the frames it is made for, in pixels: a power of two from 8 to 1024.
        max_channels: Most channels of a layer. 512 is StyleGAN's and v1's; fewer make one for laptops and tests.

    Raises:
        ValueError: The resolution is another, or max_channels is below 1.
    """

    def __init__(self, resolution: int, *, max_channels: int = 512) -> None:
        super().__init__()
        smallest, largest = RESOLUTIONS
        if not smallest <= resolution <= largest or resolution & (resolution - 1):
            raise ValueError(f"resolution: got {resolution}, expected a power of two from {smallest} to {largest}")
        if max_channels < 1:
            raise ValueError(f"max_channels: got {max_channels}, expected at least 1")
        self.min_side = resolution // FINAL_SIDE
        sides = [resolution >> halvings for halvings in range(int(math.log2(self.min_side)) + 1)]
        channels = [min(max_channels, 16384 // side) for side in sides]
        self.stem = _convolution(PIXEL_CHANNELS, channels[0], kernel_size=3)
        self.blocks = nn.ModuleList(ResidualBlock(before, after) for before, after in pairwise(channels))
        self.last = _convolution(channels[-1], channels[-1], kernel_size=3)
        self.pool = nn.AdaptiveAvgPool2d(FINAL_SIDE)
        self.hidden = xavier_linear(channels[-1] * FINAL_SIDE**2, channels[-1])
        self.logit = xavier_linear(channels[-1], 1)

    def forward(self, frames: Tensor) -> Tensor:
        """One logit a frame, above 0 for real.

        >>> StyleGanDiscriminator(64, max_channels=8)(torch.zeros(2, 3, 36, 64)).shape
        torch.Size([2])

        Args:
            frames: Float [N, 3, H, W] in [-1, 1], H and W at least `resolution / 4`.

        Returns:
            Logits [N], float32 or wider also under an autocast to half precision.

        Raises:
            ValueError: The frames have another shape.
        """
        if frames.ndim != 4 or frames.shape[1] != PIXEL_CHANNELS or min(frames.shape[2:]) < self.min_side:
            raise ValueError(
                f"frames: got shape {tuple(frames.shape)}, expected [N, {PIXEL_CHANNELS}, H, W] "
                f"with H and W at least {self.min_side}: a quarter of the discriminator's resolution"
            )
        features = F.leaky_relu(self.stem(frames), SLOPE)
        for block in self.blocks:
            features = block(features)
        features = self.pool(F.leaky_relu(self.last(features), SLOPE))
        hidden = F.leaky_relu(self.hidden(features.flatten(1)), SLOPE)
        logits: Tensor = self.logit(hidden).squeeze(1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class ResidualBlock(nn.Module):
    """A 3x3 convolution, halving and a 3x3 convolution, beside halving and a 1x1 convolution.

    Their sum over sqrt(2), which keeps the variance (arXiv:1912.04958, section 4.1).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _convolution(in_channels, in_channels, kernel_size=3)
        self.blur_pool = BlurPool()
        self.second = _convolution(in_channels, out_channels, kernel_size=3)
        self.skip = _convolution(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C, H, W] to [N, C', ceil(H / 2), ceil(W / 2)]."""
        inner = F.leaky_relu(self.first(features), SLOPE)
        inner = F.leaky_relu(self.second(self.blur_pool(inner)), SLOPE)
        outer: Tensor = self.skip(self.blur_pool(features))
        return (inner + outer) / math.sqrt(2.0)


class BlurPool(nn.Module):
    """Every second pixel after a blur with [1, 3, 3, 1] / 8 along both sides, edges repeated.

    Without the blur, what a frame's logit says of fine texture would depend on which pixels are kept (Zhang,
    arXiv:1904.11486). The taps are StyleGAN2's, the v1 code's are not known; with them an even side stays centred,
    so a mirrored frame gives the mirrored result.
    """

    taps: Tensor
    """[1, 1, 4, 4]; exact in half precision too."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
        self.register_buffer("taps", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C, H, W] to [N, C, ceil(H / 2), ceil(W / 2)].

        >>> BlurPool()(torch.zeros(1, 8, 6, 5)).shape
        torch.Size([1, 8, 3, 3])
        """
        num_channels, height, width = features.shape[1:]
        padded = F.pad(features, (1, 1 + width % 2, 1, 1 + height % 2), mode="replicate")
        return F.conv2d(padded, self.taps.expand(num_channels, -1, -1, -1), stride=2, groups=num_channels)


def _convolution(in_channels: int, out_channels: int, *, kernel_size: int, bias: bool = True) -> nn.Conv2d:
    """Convolution that keeps the size, with Xavier-uniform weight (Glorot & Bengio 2010) and zero bias."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.xavier_uniform_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
