"""Named variants and the sizes derived from them; loads no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self, cast, get_args

Activation = Literal["swiglu", "geglu"]
Positions = Literal["rope3d", "rope1d", "sincos3d", "none"]
Bottleneck = Literal["kl", "layer_norm", "tanh", "none"]

_DEFAULT_NOISE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Tubelet:
    """A block of `frames` x `patch` x `patch` pixels: one token (q x p x p in the paper, section 2.2)."""

    frames: int
    patch: int

    def __post_init__(self) -> None:
        if self.frames < 1 or self.patch < 1:
            raise ValueError(f"a tubelet needs frames >= 1 and patch >= 1, got {self.frames}x{self.patch}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "4x8" (q=4, p=8) or "16" (q=1, p=16).

        Raises:
            ValueError: The text is neither.
        """
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)", text)
        if match is None:
            raise ValueError(f'tubelet: got {text!r}, expected "QxP" such as "4x8", or "P" for images such as "16"')
        return cls(frames=int(match[1] or 1), patch=int(match[2]))

    def __str__(self) -> str:
        return f"{self.frames}x{self.patch}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Number of tubelets of a clip along time, height and width; names a bucket as "4x16x16"."""

    frames: int
    height: int
    width: int

    @classmethod
    def of_clip(cls, *, num_frames: int, height: int, width: int, tubelet: Tubelet) -> Self:
        """Grid of a clip of `num_frames` x `height` x `width` pixels.

        A clip whose last tubelet is not full in time (an image, where the tubelet has q > 1 frames) counts that
        tubelet whole: the model fills it by repeating the last frame (see `AutoEncoderConfig`).

        Raises:
            ValueError: Height or width is not a multiple of the patch.
        """
        if num_frames < 1 or height % tubelet.patch or width % tubelet.patch or not height or not width:
            raise ValueError(
                f"a clip of {num_frames} frames of {height}x{width} pixels does not divide into tubelets {tubelet}: "
                f"height and width must be positive multiples of {tubelet.patch}"
            )
        return cls(
            frames=math.ceil(num_frames / tubelet.frames),
            height=height // tubelet.patch,
            width=width // tubelet.patch,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "4x16x16".

        Raises:
            ValueError: The text is not three positive integers.
        """
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
        if match is None:
            raise ValueError(f'grid: got {text!r}, expected "TxHxW" such as "4x16x16"')
        return cls(frames=int(match[1]), height=int(match[2]), width=int(match[3]))

    @property
    def num_tokens(self) -> int:
        """L = T' H' W'."""
        return self.frames * self.height * self.width

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """One side of the auto-encoder (paper, Table 1)."""

    embed_dim: int
    depth: int
    num_heads: int

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 2:
            raise ValueError(
                f"embed_dim {self.embed_dim} over num_heads {self.num_heads}: "
                "the head dim must be an even whole number (RoPE turns pairs)"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the gated MLP: int(2.67 d), as the v1 code has it; the paper does not state it."""
        return int(2.67 * self.embed_dim)


SIZES: Mapping[str, TransformerConfig] = {
    "N": TransformerConfig(embed_dim=192, depth=2, num_heads=3),  # N and T are ours: for laptops and tests
    "T": TransformerConfig(embed_dim=192, depth=4, num_heads=3),
    "S": TransformerConfig(embed_dim=768, depth=6, num_heads=12),
    "B": TransformerConfig(embed_dim=768, depth=12, num_heads=12),
    "L": TransformerConfig(embed_dim=1152, depth=24, num_heads=16),
}
"""Sizes by letter. S, B and L are Table 1 of the paper; N (nano) and T (tiny) are not in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoEncoderConfig:
    """All that fixes the shape of a ViTok auto-encoder.

    Encoder and decoder have separate widths: the paper's counts for S-L need it (the v1 code gives both the
    decoder's width; see Table 1 and section 2.3 of the paper).

    Images where q > 1: a clip whose frames do not fill its last tubelet is continued by repeating its last frame,
    so an image is q equal frames: a still clip. `decode(latent, num_frames=1)` gives the first of the q frames back.
    Reason: a still is something the video weights know, so images and clips share every parameter and every latent
    statistic; filling with zeros would put a flash of grey into the tubelet, and a second embedding for images
    would be a second model. The cost is that an image takes as many tokens as q frames do.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    tubelet: Tubelet
    latent_channels: int
    activation: Activation = "swiglu"
    """The paper says SwiGLU, the v1 code runs GEGLU; the paper is followed."""
    rope_theta: float = 10000.0
    """Not in the paper; the v1 code's value."""
    layer_norm_eps: float = 1e-5
    """Not in the paper; torch's default, as in the v1 code."""
    positions: Positions = "rope3d"
    """How tokens know their place. The paper says 3D axial RoPE; the v1 code runs RoPE over the flattened index
    ("rope1d"), on videos with added sin-cos positions besides. Our "sincos3d" is the sin-cos positions alone."""
    bottleneck: Bottleneck = "kl"
    """What stands between encoder and decoder: the paper's Gaussian, v2's LayerNorm without affine, tanh and noise,
    or nothing (see `vitok.model.bottleneck`)."""
    bottleneck_noise: float = _DEFAULT_NOISE
    """Standard deviation of what a sample of the tanh bottleneck adds; ours, no source states one. The other
    bottlenecks have no use for it and refuse any value but the default."""

    def __post_init__(self) -> None:
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels: got {self.latent_channels}, expected at least 1")
        for name, choices in (("activation", Activation), ("positions", Positions), ("bottleneck", Bottleneck)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(get_args(choices))}")
        if self.bottleneck == "layer_norm" and self.latent_channels == 1:
            raise ValueError("latent_channels: got 1, expected at least 2: the layer norm of one channel is always 0")
        if not 0.0 <= self.bottleneck_noise < math.inf:
            raise ValueError(f"bottleneck_noise: got {self.bottleneck_noise}, expected a finite number of at least 0")
        if self.bottleneck != "tanh" and self.bottleneck_noise != _DEFAULT_NOISE:
            raise ValueError(
                f"bottleneck_noise: got {self.bottleneck_noise} with the bottleneck {self.bottleneck}: only tanh adds "
                "noise, so leave it out"
            )

    @classmethod
    def from_name(cls, name: str, *, latent_channels: int = 16) -> Self:
        """Config of a variant by the paper's name, encoder-decoder/qxp.

        >>> AutoEncoderConfig.from_name("S-B/4x8", latent_channels=16).decoder.depth
        12

        Raises:
            ValueError: The name is not of that form or names an unknown size.
        """
        match = re.fullmatch(r"([A-Z])-([A-Z])/(\d+(?:x\d+)?)", name)
        if match is None or match[1] not in SIZES or match[2] not in SIZES:
            raise ValueError(
                f'variant: got {name!r}, expected "ENCODER-DECODER/QxP" or "ENCODER-DECODER/P" '
                f'such as "S-B/4x8" or "S-B/16", with sizes of {", ".join(SIZES)}'
            )
        return cls(
            encoder=SIZES[match[1]],
            decoder=SIZES[match[2]],
            tubelet=Tubelet.parse(match[3]),
            latent_channels=latent_channels,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Rebuild a config from `to_json`'s value, also from one of before there were the keys of `_LATER_KEYS`.

        Raises:
            ValueError: A key is missing or unknown, or a value is of another kind.
        """
        known = {field.name for field in fields(cls)}
        required = known - set(_LATER_KEYS)
        if not required <= set(value) <= known:
            raise ValueError(
                f"auto-encoder config: missing keys {sorted(required - set(value))}, "
                f"unknown keys {sorted(set(value) - known)}"
            )
        value = {**_LATER_KEYS, **value}
        try:
            return cls(
                encoder=TransformerConfig(**_integers("encoder", value["encoder"])),
                decoder=TransformerConfig(**_integers("decoder", value["decoder"])),
                tubelet=Tubelet(**_integers("tubelet", value["tubelet"])),
                latent_channels=_integer("latent_channels", value["latent_channels"]),
                activation=cast(Activation, value["activation"]),  # __post_init__ checks it
                rope_theta=_number("rope_theta", value["rope_theta"]),
                layer_norm_eps=_number("layer_norm_eps", value["layer_norm_eps"]),
                positions=cast(Positions, value["positions"]),
                bottleneck=cast(Bottleneck, value["bottleneck"]),
                bottleneck_noise=_number("bottleneck_noise", value["bottleneck_noise"]),
            )
        except TypeError as error:
            raise ValueError(f"auto-encoder config: {error}") from error

    def to_json(self) -> dict[str, object]:
        """The config as JSON-ready values; `from_json` reads it back."""
        return asdict(self)

    def identity(self) -> dict[str, object]:
        """What of the config goes into a model's fingerprint: `to_json` without the later keys left at their defaults.

        So a model that could have been described before there were these keys keeps the fingerprint it had.
        """
        return {
            key: value for key, value in self.to_json().items() if key not in _LATER_KEYS or value != _LATER_KEYS[key]
        }

    def grid(self, *, num_frames: int, height: int, width: int) -> Grid:
        """Latent grid of a clip of that size (see `Grid.of_clip`)."""
        return Grid.of_clip(num_frames=num_frames, height=height, width=width, tubelet=self.tubelet)


_LATER_KEYS: Mapping[str, object] = {"positions": "rope3d", "bottleneck": "kl", "bottleneck_noise": _DEFAULT_NOISE}
"""Keys that configs of the first format version lack, and what their absence means."""


def _integers(name: str, value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {value!r}, expected an object")
    return {key: _integer(f"{name}.{key}", entry) for key, entry in value.items()}


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a whole number")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a number")
    return float(value)
