"""Trainings of generators by name: the paper's, and one for a laptop.

ViTok, arXiv:2501.09755, section 3 and appendix; what the paper leaves open is the v1 code's, or DiT's
(arXiv:2212.09748).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.training.generator_config import (
    DitFlags,
    GeneratorOptimizerFlags,
    GeneratorTrainConfig,
    LatentFlags,
    SampleWatchFlags,
)


def paper_sweep(*, store: str, output: str) -> GeneratorTrainConfig:
    """DiT-L on ImageNet latents, 500,000 steps of 256: how the paper compares tokenizers (figures 5 to 9)."""
    return GeneratorTrainConfig(
        store=store,
        output=output,
        model=DitFlags(variant="L", process="diffusion", learned_variance=True),
        # The v1 code's latents: draws from the posterior, unnormalised.
        latents=LatentFlags(batch_size=256, latent="posterior", normalize=False, class_dropout=0.1),
        optimizer=GeneratorOptimizerFlags(max_steps=500_000, learning_rate=1e-4, ema_decay=0.9999),
        watch=SampleWatchFlags(sample_steps=250, guidance=4.0),
    )


def paper_image_256(*, store: str, output: str) -> GeneratorTrainConfig:
    """DiT-XL, 4,000,000 steps of 256: the paper's table 6 (gFID 2.45, gIS 284.39 on S-B/16)."""
    config = paper_sweep(store=store, output=output)
    return replace(
        config,
        model=replace(config.model, variant="XL"),
        optimizer=replace(config.optimizer, max_steps=4_000_000),
    )


def paper_video_128(*, store: str, output: str) -> GeneratorTrainConfig:
    """DiT-L on UCF-101 latents of 16 frames of 128 pixels, 500,000 steps of 256: table 7 (gFVD 27.44 on S-B/4x8)."""
    config = paper_sweep(store=store, output=output)
    return replace(config, watch=replace(config.watch, guidance=2.0))


def laptop(*, store: str, output: str) -> GeneratorTrainConfig:
    """A nano flow that learns something on two cores in minutes, from normalised means."""
    return GeneratorTrainConfig(
        store=store,
        output=output,
        model=DitFlags(variant="N", process="flow"),
        latents=LatentFlags(batch_size=64, time_law="logit_normal"),
        # 1e-3 at 64 latents: small models take, and on few steps need, more than the paper's.
        optimizer=GeneratorOptimizerFlags(max_steps=2000, learning_rate=4e-3, warmup_fraction=0.02, ema_decay=0.995),
        watch=SampleWatchFlags(sample_every=500, sample_steps=25, guidance=2.0, log_every=20, checkpoint_every=500),
    )


GENERATOR_RECIPES: Mapping[str, Callable[..., GeneratorTrainConfig]] = {
    recipe.__name__: recipe for recipe in (paper_image_256, paper_sweep, paper_video_128, laptop)
}
"""By name."""
