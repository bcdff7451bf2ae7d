"""Auto-encoders of diffusers as adapters: channels last, a time axis always, latents as the encoder gives them.

Axes: B batch, T time (frames), H height, W width of pixels; T' x H' x W' the grid of latents, K latent channels.

Only `vitok.adapters.load` imports this module: diffusers is an optional dependency.
"""

import inspect
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import fsspec
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLCosmos, AutoencoderKLWan, ModelMixin
from einops import rearrange
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from vitok.adapters.compiled import compile_networks
from vitok.adapters.compression import (
    Compression,
    Config,
    compression_of_cosmos,
    compression_of_images,
    compression_of_wan,
    stated_rule,
)
from vitok.adapters.protocol import ClipShape, Description
from vitok.config import Grid, Tubelet
from vitok.model.folder import CONFIG_NAME, fingerprint_of
from vitok.model.posterior import Posterior

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
PARTS_NAME = f"{WEIGHTS_NAME}.index.json"
"""Lists the files of weights that are in parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What the adapter must know of a class."""

    cls: type[ModelMixin]
    compression: Callable[[Config, str], Compression]
    channels: str = "latent_channels"
    """Key of K."""
    is_video: bool = False
    """Takes clips. The others take images: the frames of a clip pass beside one another."""
    learns_variance: bool = False
    scaled: bool = True
    """See `stated_rule`."""


KINDS: Mapping[str, _Kind] = {
    "AutoencoderKL": _Kind(
        cls=AutoencoderKL,
        compression=partial(compression_of_images, blocks="block_out_channels"),
        learns_variance=True,
    ),
    "AutoencoderDC": _Kind(
        cls=AutoencoderDC,
        compression=partial(compression_of_images, blocks="encoder_block_out_channels"),
    ),
    "AutoencoderKLWan": _Kind(
        cls=AutoencoderKLWan,
        compression=compression_of_wan,
        channels="z_dim",
        is_video=True,
        learns_variance=True,
        scaled=False,
    ),
    "AutoencoderKLCosmos": _Kind(
        cls=AutoencoderKLCosmos,
        compression=compression_of_cosmos,
        is_video=True,
        scaled=False,
    ),
}
"""By `_class_name`."""


class DiffusersAdapter:
    """A model of one of `KINDS`, in evaluation mode; see `vitok.adapters.protocol` for the members."""

    def __init__(self, model: ModelMixin) -> None:
        """Wrap a model.

        Raises:
            KeyError: It is of another class.
            ValueError: Its pixels are not red, green and blue.
        """
        self._model = model
        self._name = type(model).__name__
        self._kind = KINDS[self._name]
        self._defaults = {name: value.default for name, value in inspect.signature(self._kind.cls).parameters.items()}
        # Not who wrote the file and whence it came, and no key that only another diffusers knows.
        self._config = {name: _plain(value) for name, value in model.config.items() if name in self._defaults}
        self._compression = self._kind.compression(self._config, self._name)
        self._channels = cast(int, self._config[self._kind.channels])

    @property
    def tubelet(self) -> Tubelet:
        """Squares of pixels of one frame: how many frames go together is the clip's length, not a multiple."""
        return Tubelet(frames=1, patch=self._compression.patch)

    @property
    def fingerprint(self) -> str:
        """Hash of class, config and tensors.

        Keys at their class's default are left out, so that a diffusers that knows more of them names the same model
        alike.
        """
        config = {name: value for name, value in self._config.items() if value != _plain(self._defaults[name])}
        return fingerprint_of({"class": self._name, "config": config}, self._model)

    def encode(self, pixels: Tensor) -> Posterior:
        """Posterior over [B, T', H', W', K] of clips [B, 3, T, H, W].

        Raises:
            ValueError: The clips do not fit, or become other latents than the config says.
        """
        num_clips, _, num_frames, height, width = pixels.shape
        shape = (num_frames, height, width)
        grid = self._compression.grid(shape)
        if self._kind.is_video:
            code = rearrange(self._code(pixels), "b k t h w -> b t h w k")
        else:
            images = rearrange(pixels, "b c t h w -> (b t) c h w")
            code = rearrange(self._code(images), "(b t) k h w -> b t h w k", b=num_clips)
        found = Grid(frames=code.shape[1], height=code.shape[2], width=code.shape[3])
        if found != grid:
            raise ValueError(
                f"{self._name}: a clip of {num_frames}x{height}x{width} became {found} latents, by its config {grid}: "
                "the config is none that its class can keep"
            )
        return Posterior.from_moments(code) if self._kind.learns_variance else Posterior(mean=code.float(), logvar=None)

    def decode(self, latent: Tensor, *, num_frames: int) -> Tensor:
        """Pixels [B, 3, num_frames, H, W] of latents [B, T', H', W', K].

        Raises:
            ValueError: Clips of `num_frames` have another number of latents.
        """
        num_clips, grid_frames = latent.shape[:2]
        expected = self._compression.num_frames(grid_frames)
        if num_frames != expected:
            raise ValueError(f"num_frames: got {num_frames}, expected {expected} for {grid_frames} latents along time")
        if self._kind.is_video:
            clips: Tensor = self._model.decode(rearrange(latent, "b t h w k -> b k t h w")).sample
            return clips
        images: Tensor = self._model.decode(rearrange(latent, "b t h w k -> (b t) k h w")).sample
        return rearrange(images, "(b t) c h w -> b c t h w", b=num_clips)

    def compile(self) -> None:
        """Encoder and decoder, as every class names them."""
        compile_networks(self._model.encoder, self._model.decoder)

    def describe(self, shapes: Collection[ClipShape]) -> Description:
        """By the config.

        Raises:
            ValueError: Clips of one of these shapes do not fit, or the config's statistics are not one a channel.
        """
        self._compression.check(shapes)
        return Description(
            config={"adapter": "diffusers", "class": self._name, "config": self._config},
            channels=self._channels,
            learns_variance=self._kind.learns_variance,
            rule=stated_rule(self._config, self._channels, scaled=self._kind.scaled, where=self._name),
            grid_of=self._compression.grid,
        )

    def _code(self, pixels: Tensor) -> Tensor:
        """The encoder's output: K channels, or 2 K where a variance is learned."""
        encoded = self._model.encode(pixels)
        code: Tensor = encoded.latent if "latent" in encoded else encoded.latent_dist.parameters
        return code


def load_diffusers(folder: str, *, class_name: str, device: str) -> DiffusersAdapter:
    """Read a model as its `save_pretrained` wrote it, as float32; no pickle, nothing from elsewhere.

    Args:
        folder: Path or any address fsspec knows.
        class_name: What its config.json says.
        device: Where it is to run.

    Raises:
        FileNotFoundError: There are no weights in safetensors.
        ValueError: The class is not one of `KINDS`, or the weights are not those that the config asks for.
    """
    if class_name not in KINDS:
        raise ValueError(
            f"{folder}/{CONFIG_NAME}: _class_name is {class_name!r}, expected one of {', '.join(KINDS)}; for another "
            "auto-encoder give module:function that returns an object with encode, decode and fingerprint"
        )
    with _local_copy(folder) as path:
        try:
            model, found = KINDS[class_name].cls.from_pretrained(
                path,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # needs a further package
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, RuntimeError) as error:  # of a damaged file, and of tensors of other shapes
            raise ValueError(f"{folder}: the weights cannot be loaded: {error}") from error
    # diffusers fills gaps with random weights and a warning.
    wrong = {name: sorted(map(str, keys)) for name, keys in found.items() if keys}
    if wrong:
        raise ValueError(f"{folder}: the weights are not those of its {CONFIG_NAME}: {wrong}")
    return DiffusersAdapter(model.to(device))


@contextmanager
def _local_copy(folder: str) -> Iterator[str]:
    """Path on this machine of the config and the weights.

    Raises:
        FileNotFoundError: There are no weights in safetensors.
    """
    filesystem, root = fsspec.url_to_fs(folder)
    names = {str(path).rpartition("/")[2] for path in filesystem.ls(root, detail=False)}
    if not {WEIGHTS_NAME, PARTS_NAME} & names:
        raise FileNotFoundError(
            f"{folder}: neither {WEIGHTS_NAME} nor {PARTS_NAME}; weights are read from safetensors only, never from a "
            f"pickle: save the model with save_pretrained. The folder holds {', '.join(sorted(names))}"
        )
    if isinstance(filesystem, LocalFileSystem):
        yield root
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in sorted(names):
            if name.endswith((".json", ".safetensors")):
                filesystem.get_file(f"{root}/{name}", f"{copy}/{name}")
        yield copy


def _plain(value: object) -> object:
    """As JSON has it, where a tuple is a list."""
    return json.loads(json.dumps(value))
