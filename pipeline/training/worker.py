"""One training worker: networks, data and validation made from the config, then the loop. Runs under Ray Train."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pipeline.runs.clips import clip_shapes
from pipeline.store.files import Folder
from pipeline.store.index import Store
from pipeline.store.moments import ChannelMoments
from pipeline.training.config import DataFlags, TrainConfig
from pipeline.training.data import Batches, streams_of
from pipeline.training.loop import LoopSettings, resume, run_loop
from pipeline.training.objective import Objective
from pipeline.training.order import Mixture
from pipeline.training.parallel import Parallel, this_worker, whole
from pipeline.training.player import Player, Schedule
from pipeline.training.tokenizer_objective import AdversarialObjective, ReconstructionObjective
from pipeline.training.validate import HeldOutClips
from vitok.config import AutoEncoderConfig
from vitok.losses.adversarial import StageTwo
from vitok.losses.reconstruction import StageOne
from vitok.model.autoencoder import AutoEncoder
from vitok.model.block import Block
from vitok.model.checkpoint import load_checkpoint, save_checkpoint
from vitok.networks.discriminator import StyleGanDiscriminator
from vitok.networks.lpips import Lpips
from vitok.pixels import from_uint8

TOKENIZER_FOLDER = "tokenizer"
_STATISTICS_CLIPS = 1024
"""Clips that the latent's mean and std in the tokenizer's config are taken over, about."""
_LEAST_STD = 1e-6
"""Of a channel that says nothing, so that it can be divided by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTask:
    """Everything a worker needs; picklable."""

    config: TrainConfig
    autoencoder: AutoEncoderConfig
    output: Folder
    stores: tuple[Store, ...]
    validation: Store | None
    record: dict[str, object]
    """Goes into the finished tokenizer's config."""


def train_worker(task: WorkerTask) -> None:
    """Train from the newest checkpoint, or from the start, to the last step; the first worker writes the tokenizer."""
    config = task.config
    parallel = this_worker(config.parallel)
    streams = streams_of(task.stores)
    lpips = Lpips.load().to(parallel.device) if config.loss.lpips_weight else None
    objective = build_objective(config, task.autoencoder, task.stores, parallel=parallel, lpips=lpips)
    progressed = resume(task.output, objective.players)
    batches = Batches(
        [store.folder for store in task.stores],
        streams,
        mixture=Mixture(streams, weights=config.shard_weights, seed=config.optimizer.seed),
        flags=config.data,
        seed=config.optimizer.seed,
        rank=parallel.rank,
        world_size=parallel.world_size,
        step=progressed.step,
        num_steps=config.optimizer.max_steps - progressed.step + statistics_steps(config.data),
        used=cast(Mapping[str, int], progressed.used),
    )
    validator = None
    if task.validation is not None:
        validator = HeldOutClips(
            task.validation, max_clips=config.watch.validation_clips, parallel=parallel, lpips=lpips
        )
    finished = run_loop(
        LoopSettings(
            output=task.output,
            optimizer=config.optimizer,
            intervals=config.watch,
            validate_every=config.watch.validate_every,
        ),
        objective=objective,
        batches=batches,
        progressed=progressed,
        parallel=parallel,
        validator=validator,
    )
    if finished:
        save_tokenizer(task, objective.players[0], batches, parallel)


def build_objective(
    config: TrainConfig,
    autoencoder: AutoEncoderConfig,
    stores: Sequence[Store],
    *,
    parallel: Parallel,
    lpips: Lpips | None,
) -> Objective[Tensor]:
    """Networks of a stage with their weights at its start, and what they minimise."""
    torch.manual_seed(config.optimizer.seed)
    model = load_checkpoint(config.tokenizer) if config.tokenizer else AutoEncoder(autoencoder)
    if config.stage == 2:
        model.freeze_encoder()
    model.set_activation_checkpointing(config.parallel.activation_checkpointing)
    if config.parallel.compile:
        model.encoder.compile()
        model.decoder.compile()
    optimizer = config.optimizer
    tokenizer = Player(
        "tokenizer",
        model,
        parallel.divided(model, layers=Block),
        schedule=Schedule(
            peak=config.peak_learning_rate,
            warmup_steps=round(optimizer.max_steps * optimizer.warmup_fraction),
            max_steps=optimizer.max_steps,
        ),
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        ema_decay=optimizer.ema_decay,
    )
    loss, gan = config.loss, config.gan
    stage_one = StageOne(pixel=loss.pixel_loss, kl_weight=loss.kl_weight, lpips_weight=loss.lpips_weight)
    if config.stage == 1:
        return ReconstructionObjective(tokenizer, stage_one, lpips)
    largest = max(_sides(config, stores))
    network = StyleGanDiscriminator(1 << (largest - 1).bit_length(), max_channels=gan.discriminator_channels)
    discriminator = Player(
        "discriminator",
        network,
        parallel.replicated(network),  # small, and its weights are looked at outside of its own forward pass
        schedule=Schedule(
            peak=gan.discriminator_learning_rate, warmup_steps=gan.discriminator_warmup_steps, max_steps=None
        ),
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
    )
    settings = StageTwo(
        stage_one=stage_one,
        gan_weight=gan.gan_weight,
        start_step=gan.gan_start_step,
        ramp_steps=gan.gan_ramp_steps,
    )
    return AdversarialObjective(tokenizer, discriminator, settings, lpips)


def statistics_steps(data: DataFlags) -> int:
    """Batches over which the latent's statistics are taken once the last step is done."""
    return math.ceil(_STATISTICS_CLIPS / data.batch_size)


@torch.no_grad()  # inference mode would make weights of several workers whole that nothing may touch later
def save_tokenizer(task: WorkerTask, tokenizer: Player, batches: Batches, parallel: Parallel) -> None:
    """Write the weights that are kept, with the latent's statistics over the training clips that would come next."""
    kept = {key: whole(value).cpu() for key, value in tokenizer.kept_weights().items()}
    model = AutoEncoder(task.autoencoder)
    model.load_state_dict(kept)
    model = model.to(parallel.device)
    moments = ChannelMoments.empty(task.autoencoder.latent_channels)
    for _ in range(statistics_steps(task.config.data)):
        for part in torch.split(next(batches).pixels, 16):
            mean = model.encode(from_uint8(part.to(parallel.device))).mean
            moments = moments.merge(ChannelMoments.of(mean.cpu().numpy()))
    moments = parallel.merge(moments)
    if parallel.rank == 0:
        save_checkpoint(
            task.output.subfolder(TOKENIZER_FOLDER).url,
            model,
            {**task.record, "steps": task.config.optimizer.max_steps},
            latents_mean=moments.mean.tolist(),
            latents_std=np.maximum(moments.std, _LEAST_STD).tolist(),
        )
    parallel.wait()


def _sides(config: TrainConfig, stores: Sequence[Store]) -> list[int]:
    """Heights and widths of the clips of all buckets, after augmentation."""
    if config.data.resolution:
        return [config.data.resolution]
    return [side for store in stores for _, *sides in clip_shapes(store) for side in sides]
