"""Trainings by name: the paper's, each with a tiny twin that shows soon whether everything is in its place.

ViTok, arXiv:2501.09755, section 2.3, appendix A and table 5; what the paper leaves open is the v1 code's.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.training.config import DataFlags, GanFlags, LossFlags, ModelFlags, OptimizerFlags, TrainConfig, WatchFlags


def paper_image_256(*, shards: tuple[str, ...], output: str) -> TrainConfig:
    """S-B/16 on images of 256 pixels, stage 1: 100,000 steps of 1024, peak learning rate 4e-4."""
    return TrainConfig(
        shards=shards,
        output=output,
        model=ModelFlags(variant="S-B/16", latent_channels=16),
        data=DataFlags(batch_size=1024, augmentation="random_resized_crop", resolution=256),
        optimizer=OptimizerFlags(max_steps=100_000, learning_rate=1e-4),
        loss=LossFlags(pixel_loss="l2", kl_weight=1e-3, lpips_weight=1.0),
    )


def paper_image_512(*, shards: tuple[str, ...], output: str) -> TrainConfig:
    """S-B/16 on images of 512 pixels, stage 1; the paper trains it as it does at 256."""
    config = paper_image_256(shards=shards, output=output)
    return replace(config, data=replace(config.data, resolution=512))


def paper_video_128(*, shards: tuple[str, ...], output: str) -> TrainConfig:
    """S-B/4x8 on clips of 16 frames of 128 pixels, stage 1: 100,000 steps of 256.

    The paper scales the learning rate with "batch size x frames": 16 times that of as many images, 1.6e-3. Its code
    has 3e-4.
    """
    return TrainConfig(
        shards=shards,
        output=output,
        model=ModelFlags(variant="S-B/4x8", latent_channels=16),
        data=DataFlags(batch_size=256, augmentation="random_crop", resolution=128),
        optimizer=OptimizerFlags(max_steps=100_000, learning_rate=16 * 1e-4),
        loss=LossFlags(pixel_loss="l2", kl_weight=1e-3, lpips_weight=1.0),
    )


def paper_video_256(*, shards: tuple[str, ...], output: str) -> TrainConfig:
    """S-B/4x8 on clips of 16 frames of 256 pixels, stage 1."""
    config = paper_video_128(shards=shards, output=output)
    return replace(config, data=replace(config.data, resolution=256))


def stage_two(config: TrainConfig, *, batch_size: int) -> TrainConfig:
    """Stage 2 of a recipe: the decoder against the discriminator, averaged weights; needs --tokenizer.

    The weight of the GAN is 0.05, which appendix A.2 calls best; section 2.3 says 1.0.
    """
    return replace(
        config,
        stage=2,
        tokenizer=config.tokenizer or "runs/stage1/tokenizer",
        data=replace(config.data, batch_size=batch_size),
        optimizer=replace(config.optimizer, ema_decay=0.9999),
        gan=GanFlags(gan_weight=0.05, discriminator_learning_rate=2e-5, discriminator_warmup_steps=25_000),
    )


def laptop(*, shards: tuple[str, ...], output: str) -> TrainConfig:
    """A small model that learns something on two cores in two minutes: the demo's, without LPIPS."""
    return TrainConfig(
        shards=shards,
        output=output,
        model=ModelFlags(variant="N-T/4x8", latent_channels=16),
        data=DataFlags(batch_size=16, augmentation="flip"),
        # 1.5e-3 at 16 clips: small models take, and on few steps need, more than the paper's.
        optimizer=OptimizerFlags(max_steps=400, learning_rate=2.4e-2),
        loss=LossFlags(lpips_weight=0.0),
        watch=WatchFlags(log_every=10, checkpoint_every=100, validate_every=100, validation_clips=32),
    )


def tiny(config: TrainConfig) -> TrainConfig:
    """The same training with the smallest model, 64 pixels and 20 steps of 8: the twin of a big one."""
    tubelet = config.model.variant.partition("/")[2]
    return replace(
        config,
        model=replace(config.model, variant=f"N-N/{tubelet}"),
        data=replace(config.data, batch_size=8, resolution=64),
        optimizer=replace(config.optimizer, max_steps=20, learning_rate=2.4e-2),
        gan=replace(
            config.gan,
            gan_start_step=2,
            gan_ramp_steps=10,
            discriminator_learning_rate=1e-3,
            discriminator_warmup_steps=4,
            discriminator_channels=16,
        ),
        watch=WatchFlags(log_every=1, checkpoint_every=10, validate_every=10, validation_clips=8),
    )


Recipe = Callable[..., TrainConfig]


def _named() -> dict[str, Recipe]:
    stage_one: dict[str, Recipe] = {
        recipe.__name__: recipe for recipe in (paper_image_256, paper_image_512, paper_video_128, paper_video_256)
    }
    batch_sizes = {"paper_image_256": 256, "paper_image_512": 256, "paper_video_128": 128, "paper_video_256": 128}
    big = dict(stage_one)
    for name, recipe in stage_one.items():
        big[f"{name}_stage2"] = _then(recipe, functools.partial(stage_two, batch_size=batch_sizes[name]))
    twins = {f"{name}_tiny": _then(recipe, tiny) for name, recipe in big.items()}
    return {**big, **twins, "laptop": laptop}


def _then(recipe: Recipe, change: Callable[[TrainConfig], TrainConfig]) -> Recipe:
    def changed(*, shards: tuple[str, ...], output: str) -> TrainConfig:
        return change(recipe(shards=shards, output=output))

    return changed


RECIPES: Mapping[str, Recipe] = _named()
"""By name: stage 1 of each of the paper's, NAME_stage2, the twins NAME_tiny and NAME_stage2_tiny, and laptop."""
