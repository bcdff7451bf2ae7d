"""Rotary positions: every token turns the pairs of its queries and keys by angles that its position fixes.

Axes: B batch, N tokens of a grid in row-major (t, h, w) order, P = head_dim / 2 pairs of channels.

RoPE (Su et al., arXiv:2104.09864, section 3.4) turns the pair of channels (2i, 2i + 1) of a query or key at position m
by the angle m * theta^(-i/n), i = 0..n-1, so that a dot product depends on positions by their difference alone.
3D axial: the P pairs are divided among time, height and width, and n is the number of pairs of the axis. 1D: the
position is the token's row-major index in its clip, and n = P.
"""

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from vitok.config import Grid
from vitok.model.positions import axial_angles, index_angles


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """Cosine and sine of the angle of every token and pair, float32 [N, P] each, or [B, 1, N, P] by clip.

    Not part of a module's state: rebuilt from the grid in every forward pass, which costs a fraction of one block
    and leaves no cache that could outlive a device, an autograd mode or a compiled graph.
    """

    cosine: Tensor
    sine: Tensor

    @classmethod
    def of_grid(cls, grid: Grid, *, head_dim: int, theta: float, device: torch.device) -> Self:
        """3D axial rotation of the N = T' H' W' tokens of a grid.

        It serves clips that are padded to the grid, too: padding at the end of an axis moves no real token.

        Raises:
            ValueError: The head dim cannot be divided among three axes (see `axis_pairs`).
        """
        angles = torch.cat(axial_angles(grid, num_channels=head_dim, theta=theta, device=device), dim=-1)
        return cls(cosine=angles.cos(), sine=angles.sin())

    @classmethod
    def of_indices(cls, indices: Tensor, *, head_dim: int, theta: float) -> Self:
        """1D rotation of tokens by their index in the clip: [N], or [B, N] where clips differ.

        Raises:
            ValueError: The head dim is odd.
        """
        angles = index_angles(indices, num_channels=head_dim, theta=theta)
        if angles.ndim == 3:
            angles = rearrange(angles, "b n p -> b 1 n p")
        return cls(cosine=angles.cos(), sine=angles.sin())

    def turn(self, heads: Tensor) -> Tensor:
        """Turn queries or keys [..., N, head_dim]; computed in float32 at least, returned in their own dtype."""
        even, odd = rearrange(heads, "... (pairs two) -> two ... pairs", two=2)
        turned = torch.stack((even * self.cosine - odd * self.sine, even * self.sine + odd * self.cosine), dim=-1)
        return turned.flatten(-2).to(heads.dtype)
