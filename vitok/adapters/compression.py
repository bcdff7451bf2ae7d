"""What the config of a diffusers auto-encoder says: which clips fit, which latents they become, which rule it states.

Axes: T time (frames), H height, W width of pixels; T' x H' x W' the grid of latents, K latent channels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from vitok.adapters.protocol import ClipShape
from vitok.config import Grid
from vitok.model.checkpoint import ChannelStatistics

Config = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Clips of T = 1 + `step` k frames become T' = 1 + (T - 1) / q, H' = H / p, W' = W / p latents."""

    owner: str
    """Whose it is, for errors."""
    patch: int
    """p."""
    frames: int = 1
    """q: frames that become one latent after the first frame, which has one of its own."""
    step: int = 1
    """Frames that are encoded together after the first; 1: a clip of any length fits."""

    def grid(self, shape: ClipShape) -> Grid:
        """Latents of a clip.

        >>> Compression(owner="Wan", patch=8, frames=4, step=4).grid((17, 256, 256))
        Grid(frames=5, height=32, width=32)

        Raises:
            ValueError: The clip does not fit.
        """
        self.check([shape])
        frames, height, width = shape
        return Grid(frames=1 + (frames - 1) // self.frames, height=height // self.patch, width=width // self.patch)

    def num_frames(self, grid_frames: int) -> int:
        """T of T'."""
        return 1 + (grid_frames - 1) * self.frames

    def check(self, shapes: Collection[ClipShape]) -> None:
        """Refuse clips that do not fit: the auto-encoders themselves drop what is left over, some without a word.

        Raises:
            ValueError: Says of every shape which one would fit.
        """
        fitting = {shape: self._nearest(shape) for shape in sorted(shapes)}
        misfits = [f"{_text(shape)} (fits: {_text(near)})" for shape, near in fitting.items() if near != shape]
        if misfits:
            length = "any number of frames" if self.step == 1 else f"1 + {self.step} k frames"
            raise ValueError(
                f"{self.owner} takes clips of {length} whose height and width are multiples of {self.patch}, got "
                f"{', '.join(misfits)} as frames x height x width"
            )

    def _nearest(self, shape: ClipShape) -> ClipShape:
        """The largest clip that fits into this one, or the smallest there is."""
        frames, height, width = shape
        height, width = (max(side - side % self.patch, self.patch) for side in (height, width))
        return frames - (frames - 1) % self.step, height, width


def compression_of_images(config: Config, owner: str, *, blocks: str) -> Compression:
    """Of a class whose levels of blocks, but the last, each halve both sides; `blocks` is the key that lists them.

    Raises, as the others do:
        ValueError: The pixels are not red, green and blue.
    """
    _check_pixels(config, 3)
    return Compression(owner=owner, patch=2 ** (len(cast(Sequence[int], config[blocks])) - 1))


def compression_of_wan(config: Config, owner: str) -> Compression:
    """Of AutoencoderKLWan. Its `encode` takes four frames at a time and drops what is left over."""
    halvings = len(cast(Sequence[int], config["dim_mult"])) - 1
    folded = cast(int | None, config["patch_size"]) or 1  # side of the squares of pixels that become channels first
    _check_pixels(config, 3 * folded**2)
    return Compression(
        owner=owner,
        patch=2**halvings * folded,
        frames=2 ** sum(cast(Sequence[bool], config["temperal_downsample"])),
        step=4,
    )


def compression_of_cosmos(config: Config, owner: str) -> Compression:
    """Of AutoencoderKLCosmos."""
    _check_pixels(config, 3)
    frames = cast(int, config["temporal_compression_ratio"])
    return Compression(owner=owner, patch=cast(int, config["spatial_compression_ratio"]), frames=frames, step=frames)


def stated_rule(config: Config, channels: int, *, scaled: bool, where: str) -> ChannelStatistics | None:
    """(z - latents_mean or shift_factor) scaling_factor / latents_std by channel, as mean and std.

    As the pipelines of diffusers compute what their generators take: Stable Diffusion (scaling_factor; XL with
    latents_mean and latents_std), Flux (shift_factor), SANA (scaling_factor), Wan (latents_mean and latents_std).

    Args:
        config: Of the auto-encoder.
        channels: K.
        scaled: Whether the class has a scaling factor that is in use; the pipelines of Cosmos pass theirs over.
        where: Names the config in the error.

    Returns:
        None where the statistics are stated for every latent frame apart, as those of Cosmos 1.0 are, K lists one after
        another: no rule by channel.

    Raises:
        ValueError: There are other than K numbers of one of them.
    """
    mean, std = (list(cast(Sequence[float], config.get(name) or ())) for name in ("latents_mean", "latents_std"))
    if len(mean) == len(std) > channels and len(mean) % channels == 0:
        return None
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if values and len(values) != channels:
            raise ValueError(f"{where}: {name} has {len(values)} numbers, expected {channels}, one a latent channel")
    shift = cast(float | None, config.get("shift_factor")) or 0.0
    scale = cast(float, config["scaling_factor"]) if scaled else 1.0
    return ChannelStatistics(
        mean=tuple(mean or [shift] * channels), std=tuple(value / scale for value in std or [1.0] * channels)
    )


def _check_pixels(config: Config, expected: int) -> None:
    for name in ("in_channels", "out_channels"):
        found = config.get(name, expected)  # AutoencoderDC has no out_channels: as many as go in
        if found != expected:
            raise ValueError(f"{name}: got {found}, expected {expected}: clips have red, green and blue")


def _text(shape: ClipShape) -> str:
    return "x".join(map(str, shape))
