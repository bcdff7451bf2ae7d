"""Our own auto-encoder as an adapter.

Axes: B batch, T time (frames), H height, W width of pixels; T' x H' x W' the grid of tubelets, K latent channels.
"""

from collections.abc import Collection
from functools import partial

from torch import Tensor

from vitok.adapters.compiled import compile_networks
from vitok.adapters.protocol import ClipShape, Description
from vitok.config import AutoEncoderConfig, Grid, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import fingerprint
from vitok.model.posterior import Posterior


class OwnAdapter:
    """An `AutoEncoder`; see `vitok.adapters.protocol` for the members.

    It states no rule: `latents_mean` and `latents_std` of a checkpoint are those of the corpus that it was trained on,
    and no part of its fingerprint.
    """

    def __init__(self, model: AutoEncoder) -> None:
        self._model = model

    @property
    def tubelet(self) -> Tubelet:
        """That it cuts."""
        return self._model.config.tubelet

    @property
    def fingerprint(self) -> str:
        """Hash of config and weights."""
        return fingerprint(self._model)

    def encode(self, pixels: Tensor) -> Posterior:
        """Posterior over [B, T', H', W', K] of clips [B, 3, T, H, W]."""
        return self._model.encode(pixels)

    def decode(self, latent: Tensor, *, num_frames: int) -> Tensor:
        """Pixels [B, 3, num_frames, H, W] of latents [B, T', H', W', K]."""
        return self._model.decode(latent, num_frames=num_frames)

    def compile(self) -> None:
        """The two transformers, nearly all of the work."""
        compile_networks(self._model.encoder, self._model.decoder)

    def describe(self, shapes: Collection[ClipShape]) -> Description:
        """By the config.

        Raises:
            ValueError: A side is not a multiple of the patch.
        """
        config = self._model.config
        for shape in shapes:
            _grid_of(config, shape)
        return Description(
            config=config.to_json(),
            channels=config.latent_channels,
            learns_variance=config.bottleneck == "kl",
            rule=None,
            grid_of=partial(_grid_of, config),
        )


def _grid_of(config: AutoEncoderConfig, shape: ClipShape) -> Grid:
    frames, height, width = shape
    return config.grid(num_frames=frames, height=height, width=width)
