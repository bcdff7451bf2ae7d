"""The auto-encoder with the face that trainers of diffusion models expect: that of diffusers' AutoencoderKL family.

Axes: B batch, T time (frames), H height, W width; T' = T / q, H' = H / p, W' = W / p for tubelets of q x p x p pixels;
K latent channels, which come first here as in diffusers, and last everywhere else in `vitok`.

Written from the interface of diffusers (AutoencoderKL, and AutoencoderKLWan for videos), on which nothing here depends.
"""

import math
from collections.abc import Mapping
from typing import Self

import fsspec
import torch
from einops import rearrange
from torch import Tensor, nn

from vitok.card import Audit, model_card
from vitok.interface import DecoderOutput, EncoderOutput, HubConfig, LatentDistribution
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import ChannelStatistics, load_checkpoint, read_latent_statistics, save_checkpoint
from vitok.model.tiling import Tiling, decode_tiled, encode_tiled

CARD_NAME = "README.md"


class AutoencoderViTok(nn.Module):
    """An `AutoEncoder` whose images are [B, 3, H, W], videos [B, 3, T, H, W], and latents channels first.

    An image passes through a model with q > 1 as `AutoEncoderConfig` says, and only its first frame comes back.

    >>> vae = AutoencoderViTok.from_pretrained("runs/training/tokenizer")  # doctest: +SKIP
    >>> z = vae.encode(torch.zeros(1, 3, 16, 32, 24)).latent_dist.mode()  # doctest: +SKIP
    >>> z.shape, vae.decode(z).sample.shape  # doctest: +SKIP
    (torch.Size([1, 16, 4, 4, 3]), torch.Size([1, 3, 16, 32, 24]))
    """

    def __init__(self, model: AutoEncoder, statistics: ChannelStatistics | None = None) -> None:
        """Wrap a model.

        Raises:
            ValueError: The statistics have another number of channels.
        """
        super().__init__()
        if statistics is not None and len(statistics.mean) != model.config.latent_channels:
            raise ValueError(
                f"statistics: got {len(statistics.mean)} channels, the model has {model.config.latent_channels}"
            )
        self.model = model
        self.config = HubConfig(autoencoder=model.config, statistics=statistics)
        self._tiling: Tiling | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str, *, subfolder: str | None = None, torch_dtype: torch.dtype | None = None
    ) -> Self:
        """Read a folder that `save_pretrained` or a training wrote, in evaluation mode, on the CPU.

        Args:
            folder: Path or any address fsspec knows, such as "s3://bucket/vae"; "hf://OWNER/NAME" where
                huggingface_hub is installed, which brings that protocol.
            subfolder: Folder inside it.
            torch_dtype: To cast to; None: as saved.

        Raises:
            FileNotFoundError: The folder holds no complete checkpoint.
            ValueError: It is of another format or version, or damaged.
        """
        place = folder if subfolder is None else f"{folder.rstrip('/')}/{subfolder}"
        vae = cls(load_checkpoint(place), read_latent_statistics(place)).eval()
        return vae if torch_dtype is None else vae.to(torch_dtype)

    def save_pretrained(
        self, folder: str, *, audit: Audit | None = None, training: Mapping[str, object] | None = None
    ) -> None:
        """Write config.json, model.safetensors and the model card README.md: a folder that can be pushed as it is.

        Args:
            folder: Path or any address fsspec can write to.
            audit: Measured quality, for the card.
            training: As `save_checkpoint` takes it.

        Raises:
            ValueError: The training record holds NaN or infinity.
            TypeError: The training record holds what JSON cannot.
        """
        card = model_card(self.model.config, statistics=self.config.statistics, audit=audit)
        filesystem, root = fsspec.url_to_fs(folder)
        filesystem.makedirs(root, exist_ok=True)
        filesystem.pipe_file(f"{root}/{CARD_NAME}", card.encode())
        save_checkpoint(
            folder,
            self.model,
            training,
            latents_mean=self.config.latents_mean,
            latents_std=self.config.latents_std,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.model.parameters()).device

    @property
    def tiling(self) -> Tiling | None:
        """The tiles in use; None: clips pass whole."""
        return self._tiling

    def enable_tiling(self, tiling: Tiling | None = None) -> None:
        """Encode and decode by tiles from now on (see `vitok.model.tiling`).

        Args:
            tiling: None: 16 frames of 256 x 256 pixels, to the next multiple of the tubelet, overlapping by a quarter.

        Raises:
            ValueError: It is not of multiples of the model's tubelet.
        """
        chosen = self._default_tiling() if tiling is None else tiling
        chosen.in_tubelets(self.model.config.tubelet)
        self._tiling = chosen

    def disable_tiling(self) -> None:
        """Encode and decode whole clips from now on."""
        self._tiling = None

    # The unused arguments below are those that pipelines of diffusers pass: a named tuple needs no `return_dict`, and
    # decoding draws nothing from a generator.
    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput:  # noqa: ARG002
        """Posterior of images [B, 3, H, W] or videos [B, 3, T, H, W] in [-1, 1], cast to the model's dtype.

        Raises:
            ValueError: The pixels have another shape.
        """
        if x.ndim not in (4, 5):
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected [B, 3, H, W] or [B, 3, T, H, W]")
        is_image = x.ndim == 4
        pixels = (rearrange(x, "b c h w -> b c 1 h w") if is_image else x).to(self.dtype)
        if self._tiling is None:
            posterior = self.model.encode(pixels)
        else:
            posterior = encode_tiled(self.model, pixels, self._tiling)
        return EncoderOutput(LatentDistribution(posterior=posterior, is_image=is_image, dtype=self.dtype))

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,  # noqa: ARG002
        generator: torch.Generator | None = None,  # noqa: ARG002
        *,
        num_frames: int | None = None,
    ) -> DecoderOutput:
        """Pixels of latents, unnormalised, cast to the model's dtype.

        Args:
            z: [B, K, H', W'] of images or [B, K, T', H', W'] of videos.
            return_dict: Changes nothing.
            generator: Changes nothing.
            num_frames: Length of the videos, where it is no multiple of q (see `AutoEncoder.decode`).

        Raises:
            ValueError: The latents have another shape, or videos of `num_frames` another number of tubelets.
        """
        channels = self.config.latent_channels
        if z.ndim not in (4, 5) or z.shape[1] != channels:
            raise ValueError(f"z: got shape {tuple(z.shape)}, expected [B, {channels}, H', W'] or with T' before H'")
        is_image = z.ndim == 4
        if is_image and num_frames not in (None, 1):
            raise ValueError(f"num_frames: got {num_frames} for latents of images, which have 1")
        latent = rearrange(z, "b k h w -> b 1 h w k" if is_image else "b k t h w -> b t h w k").to(self.dtype)
        length = 1 if is_image else num_frames
        if self._tiling is None:
            pixels = self.model.decode(latent, num_frames=length)
        else:
            pixels = decode_tiled(self.model, latent, self._tiling, length)
        return DecoderOutput(rearrange(pixels, "b c 1 h w -> b c h w") if is_image else pixels)

    def forward(
        self, sample: Tensor, *, sample_posterior: bool = False, generator: torch.Generator | None = None
    ) -> DecoderOutput:
        """Reconstruction of images or videos, through the posterior's mode or a sample of it."""
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, num_frames=sample.shape[2] if sample.ndim == 5 else None)

    def normalize(self, latents: Tensor) -> Tensor:
        """(z - mean) / std by channel, [B, K, ...]: what a generator learns.

        Raises:
            ValueError: The statistics are not known.
        """
        mean, std = self._moments(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """Z std + mean by channel, [B, K, ...]: what `decode` takes.

        Raises:
            ValueError: The statistics are not known.
        """
        mean, std = self._moments(latents)
        return latents * std + mean

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.statistics is None:
            raise ValueError(
                "latents_mean and latents_std are not known to this model: wrap it with the statistics of a latent "
                "store, AutoencoderViTok(model, ChannelStatistics(mean=..., std=...))"
            )
        shape = (1, self.config.latent_channels, *([1] * (latents.ndim - 2)))
        moments = (self.config.statistics.mean, self.config.statistics.std)
        mean, std = (latents.new_tensor(values).reshape(shape) for values in moments)
        return mean, std

    def _default_tiling(self) -> Tiling:
        tubelet = self.model.config.tubelet
        frames, overlap_frames = (math.ceil(length / tubelet.frames) * tubelet.frames for length in (16, 4))
        side, overlap = (math.ceil(length / tubelet.patch) * tubelet.patch for length in (256, 64))
        return Tiling(
            frames=frames,
            height=side,
            width=side,
            overlap_frames=overlap_frames,
            overlap_height=overlap,
            overlap_width=overlap,
        )
