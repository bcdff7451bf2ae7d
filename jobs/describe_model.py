"""Describe models: parameters, multiply-accumulates and latent size of variants at work on one clip; starts no Ray."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command import run
from pipeline.runs.record import StartClock


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribeConfig:
    """Print parameters, MACs, tokens, grid, latent size E and compression of variants."""

    variants: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names such as S-B/4x8 or S-B/16; one row each."""
    resolution: int = 256
    """Height and width of the clip, in pixels."""
    num_frames: int = 1
    """Frames of the clip; 1 is an image."""
    latent_channels: int = 16
    """Channels of a latent vector."""

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("variants: got none, expected at least one, such as S-B/4x8")


HEADER = ("variant", "M params", "encode", "decode", "GMAC", "printed", "grid", "tokens", "E", "compression")


def describe_model(config: DescribeConfig, _clock: StartClock) -> int:
    """Print one row a variant."""
    rows = [HEADER, *(_row(name, config) for name in config.variants)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join([row[0].ljust(len(first)), *others]) + "\n")
    frames = "an image" if config.num_frames == 1 else f"{config.num_frames} frames"
    sys.stdout.write(
        f"one clip: {frames} of {config.resolution}x{config.resolution} pixels, {config.latent_channels} latent "
        "channels; encode, decode, GMAC: 1e9 multiply-accumulates as they run (FLOPs are twice that); printed: as the "
        "paper counts its GFLOPs, projections as of 16x16 patches\n"
    )
    return 0


def _row(name: str, config: DescribeConfig) -> tuple[str, ...]:
    # Here, because they load torch: seconds that --help need not spend.
    from vitok.config import AutoEncoderConfig
    from vitok.model.count import count

    counted = count(
        AutoEncoderConfig.from_name(name, latent_channels=config.latent_channels),
        num_frames=config.num_frames,
        height=config.resolution,
        width=config.resolution,
    )
    return (
        name,
        f"{counted.parameters.total / 1e6:.3f}",
        f"{counted.macs.encode / 1e9:.2f}",
        f"{counted.macs.decode / 1e9:.2f}",
        f"{counted.macs.total / 1e9:.2f}",
        f"{counted.macs_as_printed / 1e9:.1f}",
        str(counted.grid),
        str(counted.grid.num_tokens),
        str(counted.latent_size),
        f"{counted.compression:g}",
    )


def main() -> int:
    """Entry point."""
    return run(DescribeConfig, describe_model)


if __name__ == "__main__":
    sys.exit(main())
