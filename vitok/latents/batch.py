"""How a dataset is read, and the batches that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from vitok.latents.form import BatchForm
from vitok.latents.steps import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a dataset is read: the arguments of `LatentStore.dataset`."""

    form: BatchForm
    batch_size: int
    seed: int
    shuffle: bool
    rank: int
    world_size: int
    window: int
    endless: bool

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("seed", 0), ("window", 1), ("world_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank: got {self.rank}, expected 0 to {self.world_size - 1}: world_size counts the ranks")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetBatch:
    """Samples of one bucket; B of them, which may be fewer than asked for at a bucket's end (`vitok.latents.steps`)."""

    latent: Tensor
    """[B, T', H', W', K], or as the layout says."""
    columns: dict[str, list[object]]
    """The columns asked for by name, each of length B; null is None."""
    grid: Grid
    """Tubelets along time, height and width."""
    source: Tensor
    """[B], int64: number of the sample's store within a mixture, else 0."""
    position: Tensor
    """[B], int64: where the sample stands in its store."""
    epoch: int
    step: int
    """Steps of all epochs before this one: the same number on all ranks at one time."""
    global_size: int
    """Samples of all ranks in this step: a loss summed over the batch, times world_size / global_size, has the gradient
    of the global mean once ranks average theirs."""
    state: Mapping[str, object]
    """For `LatentDataset.load_state_dict`: goes on after this step."""

    def __len__(self) -> int:
        return len(self.latent)

    def pin_memory(self) -> Self:
        """The same in page-locked memory; a DataLoader calls it where it is asked to."""
        return replace(self, latent=self.latent.pin_memory())
