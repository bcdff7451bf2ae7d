"""The face of an auto-encoder: three members that every one has, and what the jobs ask of one before work begins.

Axes: B batch, T time (frames), H height, W width of pixels; T' x H' x W' the grid of latents, K latent channels.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vitok.config import Grid, Tubelet
from vitok.model.checkpoint import ChannelStatistics
from vitok.model.posterior import Posterior

ClipShape = tuple[int, int, int]
"""Frames, height and width of a clip, in pixels. An image is a clip of one frame."""


class Adapter(Protocol):
    """An auto-encoder: all that `--tokenizer module:function` has to return.

    An object that is a `torch.nn.Module` is put in evaluation mode and onto the device of the run; any other finds its
    pixels and latents on that device.
    """

    @property
    def fingerprint(self) -> str:
        """Names the weights and all else that can change a latent: another string for any other latent."""

    def encode(self, pixels: Tensor) -> Posterior:
        """Posterior over [B, T', H', W', K] of clips: float32 [B, 3, T, H, W] in [-1, 1].

        Latents as the encoder gives them, unnormalised. Clips of a batch are of one shape and change nothing of one
        another's latents.
        """

    def decode(self, latent: Tensor, *, num_frames: int) -> Tensor:
        """Float pixels [B, 3, num_frames, H, W], about [-1, 1], of latents [B, T', H', W', K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What the latents of an auto-encoder will be; holds none of its weights."""

    config: Mapping[str, object]
    """What it says of itself, JSON-ready: `AutoEncoderConfig.to_json` of ours, else with the key "adapter"."""
    channels: int
    """K."""
    learns_variance: bool
    """Whether its posteriors have a log-variance."""
    rule: ChannelStatistics | None
    """What a generator takes is (z - mean) / std by channel, by its own authors' word. None: it states no such rule.
    Told in the store, not applied."""
    grid_of: Callable[[ClipShape], Grid]
    """Grid of the latents of a clip. Raises ValueError where the clip does not fit."""


class DescribedAdapter(Adapter, Protocol):
    """An adapter as the jobs hold it."""

    @property
    def tubelet(self) -> Tubelet | None:
        """Block of pixels that clips must divide into. None: not known without trying a clip."""

    def compile(self) -> None:
        """Have torch compile the networks (`vitok.adapters.compiled`): other bits, in less time once it is done.

        Raises:
            ValueError: They are not known.
        """

    def describe(self, shapes: Collection[ClipShape]) -> Description:
        """Say what latents clips of these shapes will have; where there is a tubelet, those of others too.

        Raises:
            ValueError: Clips of one of these shapes do not fit; says which do.
        """
