"""Clips of different grids in one batch: which tubelets are real, and where each stands in its own clip.

Axes: B batch, C pixel channels, T' x H' x W' the batch's grid of tubelets of q frames x p x p pixels, N = T' H' W'
tokens in row-major (t, h, w) order, K channels of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange, repeat
from torch import Tensor

from vitok.config import Grid, Tubelet


@dataclass(frozen=True, kw_only=True, slots=True)
class Padding:
    """What is real in a batch of clips that were padded, at the end of each axis, to one grid."""

    mask: Tensor
    """Bool [B, T', H', W'], True where a tubelet is the clip's own. Each clip has at least one."""
    indices: Tensor
    """Int64 [B, N]: row-major index of a token within its clip's own grid; without meaning where the mask is False."""

    @classmethod
    def of_grids(cls, grids: Sequence[Grid] | None, *, num_clips: int, grid: Grid, device: torch.device) -> Self | None:
        """Padding of clips of these grids in a batch of one larger grid; None where there is none.

        Args:
            grids: Each clip's own grid, or None: all fill the batch's.
            num_clips: B.
            grid: The batch's.
            device: Where the batch is.

        Raises:
            ValueError: There is not one grid a clip, or one is empty or does not fit into the batch's.
        """
        if grids is None:
            return None
        if len(grids) != num_clips:
            raise ValueError(f"grids: got {len(grids)}, expected one for each of {num_clips} clips")
        for place, own in enumerate(grids):
            sides = ((own.frames, grid.frames), (own.height, grid.height), (own.width, grid.width))
            if not all(1 <= side <= whole for side, whole in sides):
                raise ValueError(f"grids: number {place} is {own}, expected 1x1x1 to the batch's {grid}")
        if all(own == grid for own in grids):
            return None
        sizes = torch.tensor([(own.frames, own.height, own.width) for own in grids], device=device)
        frames, height, width = rearrange(sizes, "b axes -> axes b 1 1 1")
        t = rearrange(torch.arange(grid.frames, device=device), "t -> 1 t 1 1")
        h = rearrange(torch.arange(grid.height, device=device), "h -> 1 1 h 1")
        w = rearrange(torch.arange(grid.width, device=device), "w -> 1 1 1 w")
        return cls(
            mask=(t < frames) & (h < height) & (w < width),
            indices=rearrange((t * height + h) * width + w, "b t h w -> b (t h w)"),
        )

    def key_mask(self) -> Tensor:
        """Which keys every query of a clip attends to: bool [B, 1, 1, N]."""
        return rearrange(self.mask, "b t h w -> b 1 1 (t h w)")

    def blank(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T', H', W', K] with 0 for those that are not real, whatever they were: NaN too."""
        return tokens.masked_fill(~rearrange(self.mask, "b t h w -> b t h w 1"), 0.0)

    def blank_pixels(self, pixels: Tensor, tubelet: Tubelet) -> Tensor:
        """Pixels [B, C, T' q, H' p, W' p] with 0 (grey) in tubelets that are not real, whatever they were."""
        real = repeat(
            self.mask,
            "b t h w -> b 1 (t frames) (h rows) (w columns)",
            frames=tubelet.frames,
            rows=tubelet.patch,
            columns=tubelet.patch,
        )
        return pixels.masked_fill(~real, 0.0)
