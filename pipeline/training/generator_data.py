"""Latents into a training worker: its own share of the store, read directly, with classes for labels.

No Ray Data stream stands between store and worker, as it does for clips: there is nothing to decode or augment, and the
order of `vitok.latents.dataset` is a function of (seed, epoch) that workers only divide. One thread reads ahead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.training.generator_config import LatentFlags
from pipeline.training.generator_objective import LabelledLatents
from vitok.config import Grid
from vitok.latents.store import LatentStore


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsOfStep:
    """One worker's latents of one step."""

    inputs: LabelledLatents
    keys: Sequence[str]
    used: Mapping[str, object]
    """The dataset's state behind this batch, the same on every worker."""

    def to(self, device: torch.device) -> LabelledLatents:
        """The latents on a device."""
        latents, classes = (
            (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
            for tensor in (self.inputs.latents, self.inputs.classes)
        )
        return LabelledLatents(latents=latents, classes=classes)


class LatentBatches:
    """The latents of one worker, step after step without end."""

    def __init__(
        self,
        store: LatentStore,
        flags: LatentFlags,
        *,
        classes: Sequence[str],
        seed: int,
        rank: int,
        world_size: int,
        num_parts: int,
        used: Mapping[str, object],
    ) -> None:
        """Begin at the start, or where a state was taken.

        Args:
            store: What is read.
            flags: Batch size, and what of the store makes a latent.
            classes: Label of each class number; other labels, and none, become the null class.
            seed: Of the order, and of draws from posteriors and mirrored views.
            rank: Of this worker.
            world_size: Number of workers.
            num_parts: A batch has at least so many latents; one that ends a bucket's epoch gives some of its own again.
            used: The state; empty: the start.
        """
        self._numbers = {label: number for number, label in enumerate(classes)}
        self._num_parts = num_parts
        dataset = store.dataset(
            batch_size=flags.batch_size // world_size,
            seed=seed,
            columns=("key", "label"),
            sample=flags.latent,
            normalize=flags.normalize,
            view="random_flip" if flags.flip else "plain",
            rank=rank,
            world_size=world_size,
            positions=_positions(store, flags.grid),
            endless=True,
        )
        if used:
            dataset.load_state_dict(used)
        self._batches = iter(dataset)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> LatentsOfStep:
        """The next step's latents."""
        batch = next(self._batches)
        keys = [str(key) for key in batch.columns["key"]]
        null = len(self._numbers)
        classes = torch.tensor([self._numbers.get(cast(str, label), null) for label in batch.columns["label"]])
        latents = batch.latent.float()
        if len(keys) < self._num_parts:
            places = torch.arange(self._num_parts) % len(keys)
            latents, classes = latents[places], classes[places]
        return LatentsOfStep(inputs=LabelledLatents(latents=latents, classes=classes), keys=keys, used=batch.state)


def _positions(store: LatentStore, grid: str) -> NDArray[np.int64] | None:
    """Global positions of the latents of a grid; None: of all."""
    if not grid:
        return None
    index, wanted = store.index, Grid.parse(grid)
    place = index.grids.index((wanted.frames, wanted.height, wanted.width))
    return np.flatnonzero(np.repeat(index.bucket == place, np.diff(index.offsets)))
