"""One network of a training: its module, its optimizer, its averaged weights and its learning rate."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.training.parallel import whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A learning rate by step: linear warmup to the peak, then cosine to zero or constant."""

    peak: float
    warmup_steps: int
    max_steps: int | None
    """The cosine's end; None: constant."""

    def at(self, step: int) -> float:
        """Of the step with this number, from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.max_steps is None:
            return self.peak
        share = (step - self.warmup_steps) / max(self.max_steps - self.warmup_steps, 1)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


class Player:
    """A network that is trained; stage 1 has one, stage 2 two.

    AdamW with betas (0.9, 0.95) (ViTok, arXiv:2501.09755, appendix).
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        running: nn.Module,
        *,
        schedule: Schedule,
        weight_decay: float,
        max_grad_norm: float,
        ema_decay: float = 0.0,
    ) -> None:
        """Prepare to train the parameters that ask for gradients.

        Args:
            name: Names it in checkpoints and logs.
            module: The network itself, already in its place; state dict names are its.
            running: What a forward pass goes through: the module, or what holds it for several workers.
            schedule: Of the learning rate.
            weight_decay: AdamW's.
            max_grad_norm: Gradients are clipped to it.
            ema_decay: 0 keeps no average.
        """
        self.name = name
        self.module = module
        self.running = running
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm
        self.ema_decay = ema_decay
        self._trained = {key: value for key, value in module.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=0.0, betas=(0.9, 0.95), weight_decay=weight_decay
        )
        self._ema = {key: value.detach().clone() for key, value in self._trained.items()} if ema_decay else {}

    def learning_rate(self, step: int) -> float:
        """Of the step with this number, from 0."""
        return self._schedule.at(step)

    def clip_gradients(self) -> Tensor:
        """Clip them to the greatest norm allowed; gives the norm they had, a scalar, NaN or Inf where one was."""
        return whole(torch.nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm))

    def step(self, step: int) -> None:
        """Move the weights, and their average after them, with the gradients that lie ready."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema:
            averages, weights = list(self._ema.values()), [value.detach() for value in self._trained.values()]
            torch._foreach_lerp_(averages, weights, 1.0 - self.ema_decay)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """With the weights that training is for, the averaged ones where there are any, in the module."""
        backup = {key: self._trained[key].detach().clone() for key in self._ema}
        with torch.no_grad():
            for key, value in self._ema.items():
                self._trained[key].copy_(value)
            try:
                yield
            finally:
                for key, value in backup.items():
                    self._trained[key].copy_(value)

    def kept_weights(self) -> dict[str, Tensor]:
        """State dict of what training is for: the averaged weights where there are any, the last ones elsewhere."""
        return {**self.module.state_dict(), **self._ema}

    def begin_state(self) -> None:
        """Make the optimizer's tensors, zeros, as they are after no step; a checkpoint is read into them."""
        for value in self._trained.values():
            self._optimizer.state[value] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a checkpoint holds of it, by name, always in the same order."""
        for key, tensor in self.module.state_dict().items():
            yield f"weights/{key}", tensor
        for key, tensor in self._ema.items():
            yield f"ema/{key}", tensor
        for key, parameter in self._trained.items():
            for entry, tensor in sorted(self._optimizer.state[parameter].items()):
                yield f"adamw/{key}/{entry}", tensor
