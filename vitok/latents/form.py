"""What a batch of a dataset holds, and how stored latents become it.

B batch, T time, H height, W width, K latent channels, N tokens.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vitok.latents.draws import normals
from vitok.latents.moments import Rule, normalised

Sample = Literal["mean", "posterior"]
View = Literal["plain", "random_flip"]
Layout = Literal["channels_last", "channels_first", "tokens"]
_PATTERNS = {
    "channels_last": "B T H W K -> B T H W K",
    "channels_first": "B T H W K -> B K T H W",
    "tokens": "B T H W K -> B (T H W) K",
}
FLIP_SUFFIX = "_flip"
"""Ends the name of a latent column of the mirrored clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchForm:
    """What a batch holds."""

    columns: tuple[str, ...] = ()
    """Other columns than latents, such as "label", "caption", "key"."""
    sample: Sample = "mean"
    """The posterior's mean, or a draw from it; a draw belongs to (seed, pass, sample)."""
    normalize: Rule | None = "corpus"
    """Zero mean and unit variance per channel as measured over the store, or by the tokenizer's own constants; None: as
    stored."""
    view: View = "plain"
    """The clip, or it or its mirror image with equal odds; a coin belongs to (seed, pass, sample)."""
    layout: Layout = "channels_last"
    """[B, T', H', W', K], [B, K, T', H', W'] or [B, N, K]."""

    def __post_init__(self) -> None:
        expected = {
            "sample": ("mean", "posterior"),
            "normalize": ("corpus", "tokenizer", None),
            "view": ("plain", "random_flip"),
            "layout": tuple(_PATTERNS),
        }
        for name, values in expected.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {values}")

    @property
    def moments(self) -> tuple[str, ...]:
        """Latent columns that are read of the plain view, without their ending."""
        return ("mean", "logvar") if self.sample == "posterior" else ("mean",)

    @property
    def latents(self) -> tuple[str, ...]:
        """Latent columns that the store must have."""
        mirrored = tuple(name + FLIP_SUFFIX for name in self.moments) if self.view == "random_flip" else ()
        return (*self.moments, *mirrored)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn."""
        return self.sample == "posterior" or self.view == "random_flip"

    def finish(
        self, moments: dict[str, Tensor], keys: NDArray[np.uint64] | None, scale: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Stored moments to what the batch holds.

        Args:
            moments: By name without ending, [B, T', H', W', K] of the stored dtype.
            keys: [B], of `vitok.latents.draws.sample_keys`; None where nothing is drawn.
            scale: Mean and std [K], where the latents are normalised.

        Returns:
            Laid out as asked, contiguous; of the stored dtype where it is the mean as stored, else float32.
        """
        latent = moments["mean"]
        if self.sample == "posterior" and keys is not None:
            deviation = moments["logvar"].to(torch.float32).mul_(0.5).exp_()
            noise = normals(keys, tuple(latent.shape[1:]))
            latent = noise.mul_(deviation).add_(latent)
        if scale is not None:
            latent = normalised(latent, *scale)
        return rearrange(latent, _PATTERNS[self.layout]).contiguous()
