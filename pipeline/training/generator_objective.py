"""What a step of a generator's training minimises: the error of noise or velocity, under classes dropped at times.

Axes: B latents, T' x H' x W' their grid, K channels.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.training.objective import Turn
from pipeline.training.player import Player
from vitok.generator.config import DitConfig, GeneratorConfig
from vitok.generator.diffusion import diffusion_loss
from vitok.generator.dit import Dit, drop_classes
from vitok.generator.flow import TimeLaw, flow_loss
from vitok.losses.reconstruction import Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledLatents:
    """Latents of one grid and what they are of."""

    latents: Tensor
    """Float32 [B, T', H', W', K], as the network takes them."""
    classes: Tensor
    """Int64 [B], class numbers."""

    def __len__(self) -> int:
        return len(self.classes)

    def chunk(self, chunks: int, /) -> Sequence[Self]:
        """Exactly so many parts, whatever the number of latents: all workers must take as many passes in a step."""
        pairs = zip(self.latents.tensor_split(chunks), self.classes.tensor_split(chunks), strict=True)
        return [type(self)(latents=latents, classes=classes) for latents, classes in pairs]


class DenoisingObjective:
    """The transformer, on the squared error of what it says of noisy latents."""

    def __init__(self, player: Player, config: GeneratorConfig, *, class_dropout: float, time_law: TimeLaw) -> None:
        self.players: Sequence[Player] = (player,)
        self._config = config
        self._class_dropout = class_dropout
        self._time_law: TimeLaw = time_law

    def terms(self, player: Player, inputs: LabelledLatents, turn: Turn) -> Terms:
        """As `Objective.terms`."""
        dit = self._config.dit
        classes = drop_classes(
            inputs.classes, null_class=dit.null_class, probability=self._class_dropout, generator=turn.generator
        )

        def predict(latents: Tensor, times: Tensor) -> Tensor:
            outputs: Tensor = player.running(latents, times, classes)
            return outputs

        if self._config.process == "flow":
            return flow_loss(predict, inputs.latents, time_law=self._time_law, generator=turn.generator)
        return diffusion_loss(predict, inputs.latents, learned_variance=dit.learned_variance, generator=turn.generator)

    def flops(self, inputs: LabelledLatents) -> float:
        """As `Objective.flops`."""
        return len(inputs) * _training_flops(self._config.dit, tuple(inputs.latents.shape[1:]))


@functools.cache
def _training_flops(config: DitConfig, shape: tuple[int, ...]) -> float:
    """Of one latent [T', H', W', K]: matrix products, once forward and twice backward."""
    with torch.device("meta"):
        network = Dit(config)
        inputs = torch.empty(1, *shape), torch.empty(1), torch.empty(1, dtype=torch.int64)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return 3.0 * float(counter.get_total_flops())
