"""3D axial rotary positions: each of time, height and width turns its own part of the head.

Axes: B batch, N tokens of a grid in row-major (t, h, w) order, P = head_dim / 2 pairs of channels.

RoPE (Su et al., arXiv:2104.09864, section 3.4) turns the pair of channels (2i, 2i + 1) of a query or key at position m
by the angle m * theta^(-i/n), i = 0..n-1, so that a dot product depends on positions by their difference alone.
Axial: the P pairs are divided among the three axes, and n is the number of pairs of the axis.
"""

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange, repeat
from torch import Tensor

from vitok.config import Grid


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many pairs of channels turn with time, height and width.

    Equal thirds where the head dim is a multiple of 6, as the paper wants it (72 in size L). Sizes S and B have
    64: height and width, which always share one number so that no direction in the image is special, are rounded to
    the nearest third, and time takes the rest.

    >>> axis_pairs(64), axis_pairs(72)
    ((10, 11, 11), (12, 12, 12))

    Raises:
        ValueError: The head dim is odd, or too small to give each axis a pair.
    """
    if head_dim < 6 or head_dim % 2:
        raise ValueError(f"head_dim: got {head_dim}, expected an even number of at least 6 (a pair for each of 3 axes)")
    num_pairs = head_dim // 2
    space = (num_pairs + 1) // 3
    return num_pairs - 2 * space, space, space


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """Cosine and sine of the angle of every token and pair, float32 [N, P] each.

    Not part of a module's state: rebuilt from the grid in every forward pass, which costs a fraction of one block
    and leaves no cache that could outlive a device, an autograd mode or a compiled graph.
    """

    cosine: Tensor
    sine: Tensor

    @classmethod
    def of_grid(cls, grid: Grid, *, head_dim: int, theta: float, device: torch.device) -> Self:
        """Rotation of the N = T' H' W' tokens of a grid.

        Raises:
            ValueError: The head dim cannot be divided among three axes (see `axis_pairs`).
        """
        axes = []
        for length, num_pairs in zip((grid.frames, grid.height, grid.width), axis_pairs(head_dim), strict=True):
            positions = torch.arange(length, dtype=torch.float32, device=device)
            exponents = torch.arange(num_pairs, dtype=torch.float32, device=device) / num_pairs
            # A broadcast product: autocast would run an outer product by matmul in half precision.
            axes.append(rearrange(positions, "n -> n 1") * theta**-exponents)
        time, height, width = axes
        angles = torch.cat(
            [
                repeat(time, "t p -> (t h w) p", h=grid.height, w=grid.width),
                repeat(height, "h p -> (t h w) p", t=grid.frames, w=grid.width),
                repeat(width, "w p -> (t h w) p", t=grid.frames, h=grid.height),
            ],
            dim=-1,
        )
        return cls(cosine=angles.cos(), sine=angles.sin())

    def turn(self, heads: Tensor) -> Tensor:
        """Turn queries or keys [..., N, head_dim]; computed in float32 at least, returned in their own dtype."""
        even, odd = rearrange(heads, "... (pairs two) -> two ... pairs", two=2)
        turned = torch.stack((even * self.cosine - odd * self.sine, even * self.sine + odd * self.cosine), dim=-1)
        return turned.flatten(-2).to(heads.dtype)
