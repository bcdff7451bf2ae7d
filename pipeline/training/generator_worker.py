"""One worker of a generator's training: network, data and pictures made from the config, then the loop.

Runs under Ray Train.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.report.samples import grid_of
from pipeline.store.files import Folder
from pipeline.training.generator_config import GeneratorTrainConfig
from pipeline.training.generator_data import LatentBatches
from pipeline.training.generator_objective import DenoisingObjective
from pipeline.training.loop import LoopSettings, resume, run_loop
from pipeline.training.objective import Validation
from pipeline.training.parallel import Parallel, this_worker, whole
from pipeline.training.player import Player, Schedule
from vitok.adapters.load import load_adapter
from vitok.generator.checkpoint import Generator, save_generator
from vitok.generator.config import GeneratorConfig
from vitok.generator.dit import Dit, DitBlock
from vitok.generator.sampler import SampleSettings, sample_latents
from vitok.latents.store import LatentStore
from vitok.pixels import to_uint8

GENERATOR_FOLDER = "generator"
GENERATORS_FOLDER = "generators"


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorTask:
    """Everything a worker needs; picklable."""

    config: GeneratorTrainConfig
    generator: GeneratorConfig
    output: Folder
    record: dict[str, object]
    """Goes into the finished generator's config."""


def train_generator_worker(task: GeneratorTask) -> None:
    """Train from the newest checkpoint, or from the start, to the last step; the first worker writes the generator."""
    config = task.config
    parallel = this_worker(config.parallel)
    objective = build_generator_objective(config, task.generator, parallel=parallel)
    (player,) = objective.players
    progressed = resume(task.output, objective.players)
    batches = LatentBatches(
        LatentStore(config.store),
        config.latents,
        classes=task.generator.classes,
        seed=config.optimizer.seed,
        rank=parallel.rank,
        world_size=parallel.world_size,
        num_parts=config.optimizer.accumulation,
        used=progressed.used,
    )
    finished = run_loop(
        LoopSettings(
            output=task.output,
            optimizer=config.optimizer,
            intervals=config.watch,
            validate_every=config.watch.sample_every,
        ),
        objective=objective,
        batches=batches,
        progressed=progressed,
        parallel=parallel,
        validator=SampleGrid(task, parallel) if config.tokenizer else None,
    )
    if finished:
        kept = kept_generator(player, task.generator)
        if parallel.rank == 0:
            record = {**task.record, "steps": config.optimizer.max_steps}
            save_generator(task.output.subfolder(GENERATOR_FOLDER).url, kept, record)
        parallel.wait()


def build_generator_objective(
    config: GeneratorTrainConfig, generator: GeneratorConfig, *, parallel: Parallel
) -> DenoisingObjective:
    """The transformer with its weights at the start, and what it minimises."""
    torch.manual_seed(config.optimizer.seed)
    network = Dit(generator.dit)
    network.activation_checkpointing = config.parallel.activation_checkpointing
    if config.parallel.compile:
        network.compile()
    optimizer = config.optimizer
    player = Player(
        "generator",
        network,
        parallel.divided(network, layers=DitBlock),
        schedule=Schedule(
            peak=config.peak_learning_rate,
            warmup_steps=round(optimizer.max_steps * optimizer.warmup_fraction),
            max_steps=optimizer.max_steps if optimizer.cosine else None,
        ),
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        ema_decay=optimizer.ema_decay,
    )
    return DenoisingObjective(
        player, generator, class_dropout=config.latents.class_dropout, time_law=config.latents.time_law
    )


class SampleGrid:
    """Draws the same samples, class after class, of the network as it stands."""

    def __init__(self, task: GeneratorTask, parallel: Parallel) -> None:
        num_classes, num_samples = task.generator.dit.num_classes, task.config.watch.samples
        self._task = task
        self._parallel = parallel
        self._settings = sample_settings(task.config)
        self._tokenizer = load_adapter(task.config.tokenizer, device=str(parallel.device))
        self._classes = [place * num_classes // num_samples for place in range(num_samples)]

    @torch.no_grad()  # not inference mode: weights divided among workers keep what they were gathered into
    def run(self, player: Player, *, step: int, precision: str) -> Validation:
        """As `Validator.run`: no values, and a picture of the samples.

        Every worker draws all of them: a part of a divided network cannot run without the others.
        """
        config, device = self._task.generator, self._parallel.device

        def network(latents: Tensor, times: Tensor, classes: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                outputs: Tensor = player.module(latents, times, classes)
            return outputs

        with player.keeping():
            latents = sample_latents(
                config,
                network,
                classes=self._classes,
                seeds=range(len(self._classes)),
                settings=self._settings,
                device=device,
            )
        if self._task.config.watch.keep_generators:
            kept = kept_generator(player, config)
            if self._parallel.rank == 0:
                save_generator(self._task.output.subfolder(f"{GENERATORS_FOLDER}/step-{step:08d}").url, kept)
        pixels = self._tokenizer.decode(latents.to(device), num_frames=config.num_frames[0]).float()
        # A network at its beginning may send a sample to where it is no number any more: grey.
        clips = to_uint8(pixels.nan_to_num(0.0, 0.0, 0.0)).cpu().numpy()
        middle = grid_of(list(clips), num_columns=max(1, round(len(clips) ** 0.5)))[clips.shape[1] // 2]
        return Validation(
            values={}, picture=np.ascontiguousarray(middle), note=f"step {step}, {len(clips)} samples drawn"
        )


def sample_settings(config: GeneratorTrainConfig) -> SampleSettings:
    """How the samples of the grids are drawn."""
    watch = config.watch
    return SampleSettings(num_steps=watch.sample_steps, guidance=watch.guidance, batch_size=watch.samples)


def kept_generator(player: Player, config: GeneratorConfig) -> Generator:
    """The generator that training is for, as it stands; every worker must ask at once."""
    with torch.device("meta"):
        network = Dit(config.dit)
    network.load_state_dict({key: whole(value).cpu() for key, value in player.kept_weights().items()}, assign=True)
    return Generator(config=config, network=network)
