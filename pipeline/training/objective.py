"""What a step minimises: the losses of stage 1 and stage 2, part by part of a step, for each network in turn.

Axes: B clips, C = 3 pixel channels, T time, H height, W width.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.training.player import Player
from vitok.config import AutoEncoderConfig
from vitok.losses.adversarial import StageTwo, discriminator_loss, stage_two_loss
from vitok.losses.perceptual import FrameDistance
from vitok.losses.reconstruction import StageOne, Terms, stage_one_loss
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.model.count import count


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """When and with which numbers."""

    step: int
    """From 0."""
    part: int
    """Of the step, where gradients are accumulated."""
    generator: torch.Generator
    """Of this part's noise."""


class Objective(Protocol):
    """Networks, and what each is to minimise; `loop` gives each of them a step, in order."""

    @property
    def players(self) -> Sequence[Player]:
        """In the order of their steps."""

    def terms(self, player: Player, pixels: Tensor, turn: Turn) -> Terms:
        """Loss of a player on float pixels [B, 3, T, H, W] in [-1, 1]."""

    def flops(self, shape: torch.Size) -> float:
        """Operations of a training step on pixels of that shape, for the rate of work."""


class ReconstructionObjective:
    """Stage 1: all of the auto-encoder, on reconstruction, LPIPS and KL."""

    def __init__(self, tokenizer: Player, settings: StageOne, lpips: FrameDistance | None) -> None:
        self.players: Sequence[Player] = (tokenizer,)
        self._settings = settings
        self._lpips = lpips

    def terms(self, player: Player, pixels: Tensor, turn: Turn) -> Terms:
        """As `Objective.terms`."""
        reconstruction, target = _reconstruct(player, pixels, turn)
        return stage_one_loss(reconstruction, target, self._settings, self._lpips)

    def flops(self, shape: torch.Size) -> float:
        """As `Objective.flops`: of the auto-encoder alone, without LPIPS."""
        return shape[0] * _training_flops(_config(self.players[0]), shape[2:], decoder_only=False)


class AdversarialObjective:
    """Stage 2: the decoder against a discriminator of its reconstructions, which learns from the same ones."""

    def __init__(
        self, tokenizer: Player, discriminator: Player, settings: StageTwo, lpips: FrameDistance | None
    ) -> None:
        self.players: Sequence[Player] = (tokenizer, discriminator)
        self._settings = settings
        self._lpips = lpips
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        """Reconstruction and target of each part of the step, from the decoder's turn to the discriminator's."""

    def terms(self, player: Player, pixels: Tensor, turn: Turn) -> Terms:
        """As `Objective.terms`."""
        tokenizer, discriminator = self.players
        if player is discriminator:
            return discriminator_loss(*self._pairs.pop(turn.part), discriminator.running)
        reconstruction, target = _reconstruct(tokenizer, pixels, turn)
        self._pairs[turn.part] = (reconstruction.pixels.detach(), target)
        return stage_two_loss(
            reconstruction,
            target,
            self._settings,
            step=turn.step,
            lpips=self._lpips,
            discriminator=discriminator.module,
        )

    def flops(self, shape: torch.Size) -> float:
        """As `Objective.flops`: of the auto-encoder alone, without LPIPS and discriminator."""
        return shape[0] * _training_flops(_config(self.players[0]), shape[2:], decoder_only=True)


def _reconstruct(tokenizer: Player, pixels: Tensor, turn: Turn) -> tuple[Reconstruction, Tensor]:
    assert isinstance(tokenizer.module, AutoEncoder)
    reconstruction: Reconstruction = tokenizer.running(pixels, generator=turn.generator)
    return reconstruction, tokenizer.module.pad_frames(pixels)


def _config(tokenizer: Player) -> AutoEncoderConfig:
    assert isinstance(tokenizer.module, AutoEncoder)
    return tokenizer.module.config


@functools.cache
def _training_flops(config: AutoEncoderConfig, size: tuple[int, int, int], *, decoder_only: bool) -> float:
    """Of one clip of `size` T, H, W: two a multiply-accumulate, once forward and twice backward."""
    macs = count(config, num_frames=size[0], height=size[1], width=size[2]).macs
    return 2.0 * (macs.total + 2 * (macs.decode if decoder_only else macs.total))
