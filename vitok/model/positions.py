"""Angles of positions on the axes of a grid, and the sin-cos positions that are made of them.

Axes: T' x H' x W' the grid of tubelets, N = T' H' W' tokens in row-major (t, h, w) order, D width of the transformer,
n pairs of channels of an axis.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor

from vitok.config import Grid

SINCOS_THETA = 10000.0
"""Of the sin-cos positions: Vaswani et al., arXiv:1706.03762, section 3.5."""


def axis_pairs(num_channels: int) -> tuple[int, int, int]:
    """How many pairs of channels tell time, height and width.

    Equal thirds where the channels are a multiple of 6: a head of size L (72), and the width of every size. Heads of
    sizes S and B have 64: height and width, which always share one number so that no direction in the image is
    special, are rounded to the nearest third, and time takes the rest.

    >>> axis_pairs(64), axis_pairs(72)
    ((10, 11, 11), (12, 12, 12))

    Raises:
        ValueError: The number is odd, or too small to give each axis a pair.
    """
    if num_channels < 6 or num_channels % 2:
        raise ValueError(f"channels: got {num_channels}, expected an even number of at least 6 (a pair for each axis)")
    num_pairs = num_channels // 2
    space = (num_pairs + 1) // 3
    return num_pairs - 2 * space, space, space


def axial_angles(grid: Grid, *, num_channels: int, theta: float, device: torch.device) -> tuple[Tensor, ...]:
    """Angles m theta^(-i/n) of every token along time, height and width, float32 [N, n] each.

    m is the token's position on the axis, i = 0..n-1, and n the axis's part of `axis_pairs`.

    Raises:
        ValueError: The channels cannot be divided among three axes (see `axis_pairs`).
    """
    lengths = (grid.frames, grid.height, grid.width)
    time, height, width = (
        _angles(torch.arange(length, dtype=torch.float32, device=device), num_pairs, theta)
        for length, num_pairs in zip(lengths, axis_pairs(num_channels), strict=True)
    )
    return (
        repeat(time, "t n -> (t h w) n", h=grid.height, w=grid.width),
        repeat(height, "h n -> (t h w) n", t=grid.frames, w=grid.width),
        repeat(width, "w n -> (t h w) n", t=grid.frames, h=grid.height),
    )


def index_angles(indices: Tensor, *, num_channels: int, theta: float) -> Tensor:
    """Angles m theta^(-i/n) of tokens by their flattened index m, n = num_channels / 2.

    Args:
        indices: [..., N].
        num_channels: Of what is turned.
        theta: Base of the frequencies.

    Returns:
        Float32 [..., N, n].

    Raises:
        ValueError: The number of channels is odd.
    """
    if num_channels % 2:
        raise ValueError(f"channels: got {num_channels}, expected an even number")
    return _angles(indices.to(torch.float32), num_channels // 2, theta)


def sincos3d(grid: Grid, *, embed_dim: int, device: torch.device) -> Tensor:
    """Fixed positions that are added to tokens: float32 [N, D] in [-1, 1].

    Sines, then cosines, of the angles along time, then height, then width (Vaswani et al., arXiv:1706.03762, section
    3.5, an axis at a time as in MAE, arXiv:2111.06377). Not part of a module's state: any grid has its own.

    Raises:
        ValueError: The width cannot be divided among three axes (see `axis_pairs`).
    """
    angles = axial_angles(grid, num_channels=embed_dim, theta=SINCOS_THETA, device=device)
    return torch.cat([wave for axis in angles for wave in (axis.sin(), axis.cos())], dim=-1)


def _angles(positions: Tensor, num_pairs: int, theta: float) -> Tensor:
    exponents = torch.arange(num_pairs, dtype=torch.float32, device=positions.device) / num_pairs
    # A broadcast product: autocast would run an outer product by matmul in half precision.
    return rearrange(positions, "... tokens -> ... tokens 1") * theta**-exponents
