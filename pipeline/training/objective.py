"""What the training loop asks of what is trained: batches, an objective to minimise on them, a look at the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.training.player import Player
from vitok.losses.reconstruction import Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """When and with which numbers."""

    step: int
    """From 0."""
    part: int
    """Of the step, where gradients are accumulated."""
    generator: torch.Generator
    """Of this part's noise."""


class Divisible(Protocol):
    """What a step is taken on; a tensor is one."""

    def __len__(self) -> int:
        """Clips."""

    def chunk(self, chunks: int, /) -> Sequence[Self]:
        """Parts, about equal."""


Inputs = TypeVar("Inputs", bound=Divisible)
InputsOut = TypeVar("InputsOut", bound=Divisible, covariant=True)
InputsIn = TypeVar("InputsIn", bound=Divisible, contravariant=True)


class Batch(Protocol[InputsOut]):
    """One worker's clips of one step, as they were read."""

    @property
    def keys(self) -> Sequence[str]:
        """Of the clips."""

    @property
    def used(self) -> Mapping[str, object]:
        """The position in the data behind this batch, JSON-ready: what a checkpoint holds of it."""

    def to(self, device: torch.device) -> InputsOut:
        """As the objective takes it, on the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What came of looking at a network during its training."""

    values: Mapping[str, float]
    """By name."""
    picture: NDArray[np.uint8]
    """[H, W, 3]."""
    note: str
    """The step, and the heart of it, for the log."""


class Validator(Protocol):
    """Looks at a network during its training."""

    def run(self, player: Player, *, step: int, precision: str) -> Validation:
        """Look at the weights that would be kept after so many steps; every worker calls it at the same one."""


class Objective(Protocol[InputsIn]):
    """Networks, and what each is to minimise; `loop` gives each of them a step, in order."""

    @property
    def players(self) -> Sequence[Player]:
        """In the order of their steps."""

    def terms(self, player: Player, inputs: InputsIn, turn: Turn) -> Terms:
        """Loss of a player on some clips."""

    def flops(self, inputs: InputsIn) -> float:
        """Operations of a training step on these clips, for the rate of work."""
