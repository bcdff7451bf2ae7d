"""ViTok S-B/16 beside diffusers' AutoencoderKL in the SD-VAE configuration, on images of 256 x 256.

ours is ViTok with 16 latent channels, other the SD-VAE (diffusers of peers/diffusers.txt); S-L/16 is only counted. MACs
are what torch's FlopCounterMode counts, halved. Speeds are of one process with 2 threads on the CPU, batch 1, the two
models by turns within each repetition; encode ends at the posterior's mean, decode starts there. bfloat16 is both
models `.to(torch.bfloat16)`, no autocast. Weights are random, so of the outputs only shapes and finiteness are checked:
this says nothing of quality, and the latents differ: 16 x 16 x 16 numbers here, 32 x 32 x 4 there.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Row, main
from make_peers import interpreter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder

ROOT = Path(__file__).parents[1]
VARIANT, COUNTED_VARIANT = "S-B/16", "S-L/16"
LATENT_CHANNELS = 16
RESOLUTION = 256
BATCH_SIZE = 1
THREADS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SD_VAE_PARAMETERS_M = 83.7
SD_VAE_GMACS = 447.5
"""445.3 of them without the products of queries, keys and values, which counters of layers leave out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One of the two models, through one face."""

    module: nn.Module
    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def measure(runs: int) -> list[Row]:
    """Run both models in the peer's environment, where diffusers is, and read the rows it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))}
    command = (interpreter("diffusers"), "-c", f"import model; model.side_by_side({runs})")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return [Row(**row) for row in json.loads(done.stdout)]


def side_by_side(runs: int) -> None:
    """Count and time both; print the rows' fields as JSON.

    Raises:
        ValueError: The SD-VAE does not count what it is known for, or an output has another shape or is not finite.
    """
    torch.set_num_threads(THREADS)
    rows = [*_counts()]
    for name, dtype in DTYPES.items():
        torch.manual_seed(0)
        rows += _speeds(name, _vitok(VARIANT), _sd_vae(), dtype, runs)
    print(json.dumps([{field: getattr(row, field) for field in Row.__dataclass_fields__} for row in rows]))


def _vitok(variant: str) -> Subject:
    config = AutoEncoderConfig.from_name(variant, latent_channels=LATENT_CHANNELS)
    module = AutoEncoder(config).eval()
    grid = config.grid(num_frames=1, height=RESOLUTION, width=RESOLUTION)
    return Subject(
        module=module,
        image_shape=(BATCH_SIZE, 3, 1, RESOLUTION, RESOLUTION),
        latent_shape=(BATCH_SIZE, grid.frames, grid.height, grid.width, LATENT_CHANNELS),
        encode=lambda images: module.encode(images).mode(),
        decode=module.decode,
    )


def _sd_vae() -> Subject:
    from diffusers import AutoencoderKL

    channels = (128, 256, 512, 512)
    module = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=RESOLUTION,
    ).eval()
    return Subject(
        module=module,
        image_shape=(BATCH_SIZE, 3, RESOLUTION, RESOLUTION),
        latent_shape=(BATCH_SIZE, 4, RESOLUTION // 8, RESOLUTION // 8),
        encode=lambda images: module.encode(images).latent_dist.mode(),
        decode=lambda latents: module.decode(latents).sample,
    )


def _counts() -> list[Row]:
    """Parameters and MACs, counted without memory for weights."""
    with torch.device("meta"):
        ours, larger, other = _vitok(VARIANT), _vitok(COUNTED_VARIANT), _sd_vae()
        sd_vae = _counted(other)
        known = (SD_VAE_PARAMETERS_M, SD_VAE_GMACS)
        if (round(sd_vae["parameters", "M"], 1), round(_gmacs(sd_vae), 1)) != known:
            raise ValueError(
                f"SD-VAE: got {sd_vae['parameters', 'M']:.3f} M parameters and {_gmacs(sd_vae):.1f} GMAC, "
                f"expected {SD_VAE_PARAMETERS_M} M and {SD_VAE_GMACS} GMAC: not the configuration this is about"
            )
        counted = {VARIANT: _counted(ours), COUNTED_VARIANT: _counted(larger)}
    return [
        Row.of(f"{variant} {what}", [value], [sd_vae[what, unit]], unit)
        for variant, counts in counted.items()
        for (what, unit), value in counts.items()
    ]


def _counted(subject: Subject) -> dict[tuple[str, str], float]:
    sizes = [parameter.numel() for parameter in subject.module.parameters()]
    counts = {("parameters", "M"): sum(sizes) / 1e6}
    for what, call, shape in (
        ("encode", subject.encode, subject.image_shape),
        ("decode", subject.decode, subject.latent_shape),
    ):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call(torch.zeros(shape))
        counts[what, "GMAC/image"] = counter.get_total_flops() / 2e9 / BATCH_SIZE
    return counts


def _gmacs(counts: dict[tuple[str, str], float]) -> float:
    return counts["encode", "GMAC/image"] + counts["decode", "GMAC/image"]


def _speeds(name: str, ours: Subject, other: Subject, dtype: torch.dtype, runs: int) -> list[Row]:
    """Images a second of both, by turns; one unmeasured round first."""
    subjects = (ours, other)
    for subject in subjects:
        subject.module.to(dtype)
    speeds: dict[tuple[str, int], list[float]] = {}
    for repetition in range(runs + 1):
        for which, subject in enumerate(subjects):
            images = torch.rand(subject.image_shape).to(dtype) * 2 - 1
            latents, encode_seconds = _timed(subject.encode, images, subject.latent_shape)
            _, decode_seconds = _timed(subject.decode, latents.to(dtype), subject.image_shape)
            if repetition:
                speeds.setdefault(("encode", which), []).append(BATCH_SIZE / encode_seconds)
                speeds.setdefault(("decode", which), []).append(BATCH_SIZE / decode_seconds)
    return [
        Row.of(f"{VARIANT} {what} {name}", speeds[what, 0], speeds[what, 1], "images/s")
        for what in ("encode", "decode")
    ]


def _timed(call: Callable[[Tensor], Tensor], value: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, float]:
    with torch.inference_mode():
        start = time.perf_counter()
        output = call(value)
        seconds = time.perf_counter() - start
    if tuple(output.shape) != shape or not output.isfinite().all():
        raise ValueError(f"output: got shape {tuple(output.shape)} or numbers not finite, expected {shape}, all finite")
    return output, seconds


if __name__ == "__main__":
    main(measure, description=__doc__, runs=5)
