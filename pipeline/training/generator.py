"""Train a generator: a latent store in, a checkpoint out, through Ray Train."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.runs.clips import tokenizer_url
from pipeline.runs.record import StartClock
from pipeline.store.files import Folder
from pipeline.training.fit import Trained, Training, train_once
from pipeline.training.generator_config import GeneratorTrainConfig
from schemas.metadata import FORMAT_VERSION
from vitok.config import Grid
from vitok.generator.config import GeneratorConfig

if TYPE_CHECKING:
    from vitok.latents.store import LatentStore


def train_generator(config: GeneratorTrainConfig, *, clock: StartClock | None = None) -> Trained:
    """Run the job, or go on from its newest checkpoint.

    Raises:
        RunRefusedError: Another run holds the folder, or it was begun with other settings.
        ValueError: There is no latent store, it lacks what is asked of it, or the tokenizer is not the store's.
        FileNotFoundError: There is no tokenizer.
        NonFiniteLossError: A loss or a gradient was not finite.
    """
    from pipeline.training.generator_worker import (
        GENERATOR_FOLDER,
        GeneratorTask,
        sample_settings,
        train_generator_worker,
    )
    from vitok.latents.store import LatentStore

    output = Folder(config.output)
    config = replace(config, store=Folder(config.store).url)  # workers run in another directory
    store = LatentStore(config.store)
    if config.tokenizer:
        config = replace(config, tokenizer=_tokenizer_of(config, store))
        sample_settings(config).solver_of(config.model.process)  # here, so that what cannot be drawn costs no training
    generator, counts = describe_generator(config, store), latents_by_grid(config, store)
    identity = {
        "format_version": FORMAT_VERSION,
        "latents": {"fingerprint": store.document["fingerprint"], "index": store.document["index"]},
        "generator": generator.to_json(),
        "recipe": config.recipe(),
    }
    task = GeneratorTask(config=config, generator=generator, output=output, record=identity)
    return train_once(
        Training(
            job="train-generator",
            output=output,
            identity=identity,
            num_samples=sum(counts.values()),
            result=GENERATOR_FOLDER,
            player="generator",
            max_steps=config.optimizer.max_steps,
            parallel=config.parallel,
            counts={"buckets": {str(grid): count for grid, count in counts.items()}},
        ),
        lambda: partial(train_generator_worker, task),
        config=config,
        clock=clock,
        break_claim=config.break_claim,
    )


def describe_generator(config: GeneratorTrainConfig, store: "LatentStore") -> GeneratorConfig:
    """What a generator of a store will be: its classes are the store's labels, sorted.

    Raises:
        ValueError: The store has no latents, none of the grid or columns that are asked for, or fewer of a grid than
            workers.
    """
    from pipeline.training.generator_classes import labels_of

    counts = latents_by_grid(config, store)
    fewest = min(counts.values())
    if fewest < config.parallel.num_workers:
        raise ValueError(
            f"--num-workers: got {config.parallel.num_workers}, more than the {fewest} latents of one of the store's "
            "grids, so that a worker would have none"
        )
    if config.model.positions == "learned_rope1d" and len(counts) > 1:
        raise ValueError(
            f"--positions: got learned_rope1d for grids {', '.join(map(str, counts))}: learned positions are of one "
            "grid: name it (--grid), or take rope3d"
        )
    missing = [name for name in _columns(config) if name not in store.latent_columns]
    if missing:
        raise ValueError(
            f"--store: {store.url} has the latent columns {', '.join(store.latent_columns)}, not {', '.join(missing)}: "
            "encode with --logvar for --latent posterior, with --flip for --flip"
        )
    classes = labels_of(store.url)
    # The most frequent grid first: samples are of it unless another is asked for.
    grids = sorted(counts, key=lambda grid: -counts[grid])
    statistics = store.statistics()
    return GeneratorConfig(
        dit=config.model.dit(latent_channels=store.channels, num_classes=len(classes), grid=grids[0]),
        process=config.model.process,
        classes=classes,
        grids=tuple(grids),
        num_frames=tuple(_num_frames(store, grid) for grid in grids),
        latents_mean=tuple(statistics.mean.tolist() if config.latents.normalize else [0.0] * store.channels),
        latents_std=tuple(statistics.std.tolist() if config.latents.normalize else [1.0] * store.channels),
        tokenizer_fingerprint=store.tokenizer_fingerprint,
    )


def latents_by_grid(config: GeneratorTrainConfig, store: "LatentStore") -> dict[Grid, int]:
    """How many latents there are to learn.

    Raises:
        ValueError: There are none.
    """
    counts = {Grid(frames=t, height=h, width=w): count for (t, h, w), count in store.buckets.items() if count}
    if not counts:
        raise ValueError(f"--store: {store.url} holds no latents to train on")
    if not config.latents.grid:
        return counts
    grid = Grid.parse(config.latents.grid)
    if grid not in counts:
        raise ValueError(f"--grid: got {grid}, {store.url} has latents of {', '.join(map(str, counts))}")
    return {grid: counts[grid]}


def _columns(config: GeneratorTrainConfig) -> list[str]:
    names = ["mean", "logvar"] if config.latents.latent == "posterior" else ["mean"]
    return [*names, *(f"{name}_flip" for name in names)] if config.latents.flip else names


def _num_frames(store: "LatentStore", grid: Grid) -> int:
    """Frames of the first clip of a grid."""
    index = store.index
    of_grid = index.bucket == index.grids.index((grid.frames, grid.height, grid.width))
    first = np.flatnonzero(of_grid & (np.diff(index.offsets) > 0))[0]
    (frames,) = store.take(index.offsets[first : first + 1], columns=["num_frames"]).columns["num_frames"]
    assert isinstance(frames, int)
    return frames


def _tokenizer_of(config: GeneratorTrainConfig, store: "LatentStore") -> str:
    """What workers load it by.

    Raises:
        ValueError: It is not the one that made the store.
    """
    from vitok.adapters.load import load_adapter

    url = tokenizer_url(config.tokenizer)
    found = load_adapter(url).fingerprint
    if found != store.tokenizer_fingerprint:
        raise ValueError(
            f"--tokenizer: {url} has the fingerprint {found}, the latents of {store.url} were made by "
            f"{store.tokenizer_fingerprint}: give that tokenizer, or none, and no pictures are drawn"
        )
    return url
