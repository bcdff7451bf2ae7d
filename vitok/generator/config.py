"""What a generator is: the diffusion transformer's sizes by name, and what its samples mean; loads no torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self, cast, get_args

from vitok.config import Activation, Grid, TransformerConfig

DitPositions = Literal["rope3d", "learned_rope1d"]
Process = Literal["diffusion", "flow"]

DIT_SIZES: Mapping[str, TransformerConfig] = {
    "N": TransformerConfig(embed_dim=192, depth=4, num_heads=3),
    "S": TransformerConfig(embed_dim=384, depth=12, num_heads=6),
    "B": TransformerConfig(embed_dim=768, depth=12, num_heads=12),
    "L": TransformerConfig(embed_dim=1024, depth=24, num_heads=16),
    "XL": TransformerConfig(embed_dim=1152, depth=28, num_heads=16),
}
"""Sizes by name: S to XL are those of DiT (Peebles & Xie, arXiv:2212.09748, table 1), of which ViTok trains L and XL;
N (nano) is ours, for laptops and tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DitConfig:
    """All that fixes the shape of a diffusion transformer.

    One token a latent vector, no patches of them (ViTok, arXiv:2501.09755, appendix): the latent's grid is the
    transformer's. Images and clips differ in nothing but their grid.
    """

    transformer: TransformerConfig
    latent_channels: int
    num_classes: int
    """Without the null class, which is class number `num_classes` and always there; 0: the null class alone."""
    learned_variance: bool
    """Whether K more outputs a token tell the variance of a step backwards (Nichol & Dhariwal, arXiv:2102.09672)."""
    positions: DitPositions = "rope3d"
    """How tokens know their place. The paper says "the same Llama changes" as the auto-encoder has, so 3D axial RoPE,
    which takes any grid; its code has learned positions of one grid and RoPE over the flattened index."""
    grid: Grid | None = None
    """That the learned positions are of; None with RoPE alone."""
    activation: Activation = "swiglu"
    rope_theta: float = 10000.0
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.latent_channels < 1 or self.num_classes < 0:
            raise ValueError(
                f"latent_channels and num_classes: got {self.latent_channels} and {self.num_classes}, "
                "expected at least 1 and 0"
            )
        for name, choices in (("positions", DitPositions), ("activation", Activation)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(get_args(choices))}")
        if (self.grid is None) != (self.positions == "rope3d"):
            raise ValueError(
                f"grid: got {self.grid} with positions {self.positions}: learned positions are of one grid, and RoPE "
                "alone takes any"
            )

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        latent_channels: int,
        num_classes: int,
        learned_variance: bool = True,
        positions: DitPositions = "rope3d",
        grid: Grid | None = None,
    ) -> Self:
        """Config of a size of `DIT_SIZES`.

        >>> DitConfig.from_name("XL", latent_channels=16, num_classes=1000).transformer.depth
        28

        Raises:
            ValueError: The size is unknown.
        """
        if name not in DIT_SIZES:
            raise ValueError(f"generator variant: got {name!r}, expected one of {', '.join(DIT_SIZES)}")
        return cls(
            transformer=DIT_SIZES[name],
            latent_channels=latent_channels,
            num_classes=num_classes,
            learned_variance=learned_variance,
            positions=positions,
            grid=grid if positions == "learned_rope1d" else None,
        )

    @property
    def null_class(self) -> int:
        """The class of nothing in particular: what labels are dropped to, and guidance leads away from."""
        return self.num_classes

    @property
    def out_channels(self) -> int:
        """Numbers a token comes out as."""
        return self.latent_channels * (2 if self.learned_variance else 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """A trained transformer's config, and what turns its numbers into latents of a tokenizer."""

    dit: DitConfig
    process: Process
    """What its outputs are: the noise of a diffusion, or the velocity of a flow."""
    classes: tuple[str, ...]
    """Label of every class number."""
    grids: tuple[Grid, ...]
    """That it was trained on; samples are of the first unless another is asked for."""
    num_frames: tuple[int, ...]
    """Of the clips that latents of each grid were made of, so what they decode to; 1: an image."""
    latents_mean: tuple[float, ...]
    """Per channel: the network's numbers are (z - mean) / std."""
    latents_std: tuple[float, ...]
    tokenizer_fingerprint: str
    """Of the auto-encoder whose latents it makes."""

    def __post_init__(self) -> None:
        if self.process not in get_args(Process):
            raise ValueError(f"process: got {self.process!r}, expected one of {', '.join(get_args(Process))}")
        if self.process == "flow" and self.dit.learned_variance:
            raise ValueError("learned_variance: got true with process flow, which has no variance to learn")
        if len(self.classes) != self.dit.num_classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(
                f"classes: got {len(self.classes)} labels, {len(set(self.classes))} of them different, expected "
                f"{self.dit.num_classes} different ones"
            )
        if not self.grids or len(self.num_frames) != len(self.grids) or min(self.num_frames) < 1:
            raise ValueError(
                f"grids and num_frames: got {len(self.grids)} and {list(self.num_frames)}, expected those that it was "
                "trained on, and a number of at least 1 for each"
            )
        channels = self.dit.latent_channels
        if not len(self.latents_mean) == len(self.latents_std) == channels:
            raise ValueError(
                f"latents_mean and latents_std: got {len(self.latents_mean)} and {len(self.latents_std)} numbers, "
                f"expected {channels}, one a latent channel"
            )
        if not all(map(math.isfinite, (*self.latents_mean, *self.latents_std))) or min(self.latents_std) < 0:
            raise ValueError(
                f"latents_mean and latents_std: got {list(self.latents_mean)} and {list(self.latents_std)}, expected "
                "finite numbers, and deviations of at least 0"
            )

    def to_json(self) -> dict[str, object]:
        """The config as JSON-ready values; `from_json` reads it back."""
        dit = asdict(self.dit) | {"grid": None if self.dit.grid is None else str(self.dit.grid)}
        return {
            "dit": dit,
            "process": self.process,
            "classes": list(self.classes),
            "grids": [str(grid) for grid in self.grids],
            "num_frames": list(self.num_frames),
            "latents_mean": list(self.latents_mean),
            "latents_std": list(self.latents_std),
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value.

        Raises:
            ValueError: A key is missing or unknown, or a value is of another kind.
        """
        _check_keys("generator", value, {field.name for field in fields(cls)})
        dit = _object("dit", value["dit"])
        _check_keys("dit", dit, {field.name for field in fields(DitConfig)})
        transformer = _object("transformer", dit["transformer"])
        sizes = {"embed_dim", "depth", "num_heads"}
        _check_keys("transformer", transformer, sizes)
        return cls(
            dit=DitConfig(
                transformer=TransformerConfig(**{name: _integer(name, transformer[name]) for name in sizes}),
                latent_channels=_integer("latent_channels", dit["latent_channels"]),
                num_classes=_integer("num_classes", dit["num_classes"]),
                learned_variance=_truth("learned_variance", dit["learned_variance"]),
                positions=cast(DitPositions, dit["positions"]),  # __post_init__ checks it, and those below
                grid=None if dit["grid"] is None else Grid.parse(str(dit["grid"])),
                activation=cast(Activation, dit["activation"]),
                rope_theta=_number("rope_theta", dit["rope_theta"]),
                layer_norm_eps=_number("layer_norm_eps", dit["layer_norm_eps"]),
            ),
            process=cast(Process, value["process"]),
            classes=tuple(str(label) for label in _list("classes", value["classes"])),
            grids=tuple(Grid.parse(str(grid)) for grid in _list("grids", value["grids"])),
            num_frames=tuple(_integer("num_frames", entry) for entry in _list("num_frames", value["num_frames"])),
            latents_mean=tuple(
                _number("latents_mean", entry) for entry in _list("latents_mean", value["latents_mean"])
            ),
            latents_std=tuple(_number("latents_std", entry) for entry in _list("latents_std", value["latents_std"])),
            tokenizer_fingerprint=str(value["tokenizer_fingerprint"]),
        )


def _check_keys(name: str, value: Mapping[str, object], expected: set[str]) -> None:
    if set(value) != expected:
        raise ValueError(
            f"{name} config: missing keys {sorted(expected - set(value))}, unknown keys {sorted(set(value) - expected)}"
        )


def _object(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: got {value!r}, expected an object")
    return value


def _list(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{name}: got {value!r}, expected a list")
    return value


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected true or false")
    return value


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected a whole number")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected a number")
    return float(value)
