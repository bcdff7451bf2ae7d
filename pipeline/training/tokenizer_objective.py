"""What a step of a tokenizer's training minimises: the losses of stage 1 and stage 2, for each network in turn.

Axes: B clips, C = 3 pixel channels, T time, H height, W width.
"""

import functools
from collections.abc import Sequence

from torch import Tensor

from pipeline.training.objective import Turn
from pipeline.training.player import Player
from vitok.config import AutoEncoderConfig
from vitok.losses.adversarial import StageTwo, discriminator_loss, stage_two_loss
from vitok.losses.perceptual import FrameDistance
from vitok.losses.reconstruction import StageOne, Terms, stage_one_loss
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.model.count import count


class ReconstructionObjective:
    """Stage 1: all of the auto-encoder, on reconstruction, LPIPS and KL."""

    def __init__(self, tokenizer: Player, settings: StageOne, lpips: FrameDistance | None) -> None:
        self.players: Sequence[Player] = (tokenizer,)
        self._settings = settings
        self._lpips = lpips

    def terms(self, player: Player, inputs: Tensor, turn: Turn) -> Terms:
        """As `Objective.terms`, of float pixels [B, 3, T, H, W] in [-1, 1]."""
        reconstruction, target = _reconstruct(player, inputs, turn)
        return stage_one_loss(reconstruction, target, self._settings, self._lpips)

    def flops(self, inputs: Tensor) -> float:
        """As `Objective.flops`: of the auto-encoder alone, without LPIPS."""
        return len(inputs) * _training_flops(_config(self.players[0]), inputs.shape[2:], decoder_only=False)


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

    def terms(self, player: Player, inputs: Tensor, turn: Turn) -> Terms:
        """As `Objective.terms`, of float pixels [B, 3, T, H, W] in [-1, 1]."""
        tokenizer, discriminator = self.players
        if player is discriminator:
            return discriminator_loss(*self._pairs.pop(turn.part), discriminator.running)
        reconstruction, target = _reconstruct(tokenizer, inputs, turn)
        self._pairs[turn.part] = (reconstruction.pixels.detach(), target)
        return stage_two_loss(
            reconstruction,
            target,
            self._settings,
            step=turn.step,
            lpips=self._lpips,
            discriminator=discriminator.module,
        )

    def flops(self, inputs: Tensor) -> float:
        """As `Objective.flops`: of the auto-encoder alone, without LPIPS and discriminator."""
        return len(inputs) * _training_flops(_config(self.players[0]), inputs.shape[2:], decoder_only=True)


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
