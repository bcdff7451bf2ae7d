"""LPIPS: how different two images look, by VGG16's features (Zhang et al. 2018, arXiv:1801.03924).

Axes: N images, C channels, H height, W width.
"""

from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn

from vitok.networks.vgg import VGG16_CHANNELS, Vgg16
from vitok.networks.weights import load_weights

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Pixels in [-1, 1] to the range VGG16 was trained on; rounded as in the lpips package, whose heads expect it so."""

EPS = 1e-10
MIN_SIDE = 16
"""Four poolings leave one pixel of it."""


class Lpips(nn.Module):
    """LPIPS-VGG, version 0.1 with its learnt heads: equals lpips.LPIPS(net="vgg") of the lpips package 0.1.4.

    Frozen: gradients flow to both images and to no weight. `Lpips()` has the architecture with random VGG weights and
    even heads; `Lpips.load()` has the published ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.vgg = Vgg16()
        self.heads = nn.ParameterList(torch.full((channels,), 1.0 / channels) for channels in VGG16_CHANNELS)
        self.register_buffer("shift", rearrange(torch.tensor(SHIFT), "C -> 1 C 1 1"))
        self.register_buffer("scale", rearrange(torch.tensor(SCALE), "C -> 1 C 1 1"))
        self.requires_grad_(False)

    @classmethod
    def load(cls) -> Self:
        """The network with the published weights, on the CPU.

        Raises:
            MissingWeightsError: The weights folder lacks VGG16 or the heads.
            ValueError: A file is there and is not what it should be.
        """
        network = cls()
        network.vgg.take_weights(load_weights("vgg16"))
        published = load_weights("lpips_vgg")
        for index, head in enumerate(network.heads):
            head.copy_(rearrange(published[f"lin{index}.model.1.weight"], "1 C 1 1 -> C"))
        return network

    def forward(self, reference: Tensor, candidate: Tensor) -> Tensor:
        """Distance of each pair, 0 for equal images.

        The convolutions run in autocast's dtype, norms and sums in float32. Only the maps of one slice are held at a
        time, unless a gradient is wanted.

        Args:
            reference: Float [N, 3, H, W] in [-1, 1], H and W at least 16.
            candidate: The same shape.

        Returns:
            Float32 [N].

        Raises:
            ValueError: The two are not of one shape [N, 3, H, W], or smaller than 16 x 16.
        """
        if reference.shape != candidate.shape or reference.ndim != 4 or reference.shape[1] != 3:
            raise ValueError(
                f"images: got shapes {tuple(reference.shape)} and {tuple(candidate.shape)}, "
                "expected one shape [N, 3, H, W]"
            )
        if min(reference.shape[2:]) < MIN_SIDE:
            height, width = reference.shape[2:]
            raise ValueError(f"images: got {height}x{width} pixels, expected at least {MIN_SIDE}x{MIN_SIDE} for LPIPS")
        x, y = (reference - self.shift) / self.scale, (candidate - self.shift) / self.scale
        distance = torch.zeros(len(reference), device=reference.device)
        for layers, head in zip(self.vgg.slices(), self.heads, strict=True):
            x, y = layers(x), layers(y)
            weights = rearrange(head, "C -> C 1 1").float()
            distance = distance + (weights * (_unit(x) - _unit(y)).square()).sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit(maps: Tensor) -> Tensor:
    """Each pixel's features to length one, [N, C, H, W]; where none fires they stay zero."""
    maps = maps.float()
    unit: Tensor = maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + EPS)
    return unit
