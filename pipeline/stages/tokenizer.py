"""An auto-encoder at work on clips: fixed batches in, arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pipeline.store.clipshard import Clip
from vitok.adapters.load import load_adapter
from vitok.model.posterior import Posterior
from vitok.pixels import from_uint8

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """All of the running that can change a latent's bits; part of the fingerprint."""

    batch_size: int = 8
    """Clips of one forward pass. The last batch of a shard is filled up, so that every pass has one shape."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast)."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    """CPU threads of one worker: sums depend on how they are split."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.threads < 1:
            raise ValueError(f"batch_size and threads must be at least 1, got {self.batch_size} and {self.threads}")


class Tokenizer:
    """Loaded once a worker; the same clips at the same place in a shard give the same bits."""

    def __init__(self, url: str, inference: Inference) -> None:
        """Load the auto-encoder that `vitok.adapters.load.load_adapter` finds at `url`."""
        torch.set_num_threads(inference.threads)
        self.inference = inference
        self._adapter = load_adapter(url, device=inference.device)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Clip]) -> Posterior:
        """Posterior of up to `batch_size` clips of one shape, float32 on the CPU, [B, T', H', W', K]."""
        pixels = np.stack([clip.pixels for clip in clips])
        missing = self.inference.batch_size - len(clips)
        # Kernels are chosen by shape: one shape for all passes keeps a latent independent of its batch neighbours.
        filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        with self._autocast():
            posterior = self._adapter.encode(from_uint8(torch.from_numpy(filled).to(self.inference.device)))
        kept = slice(len(clips))
        return Posterior(
            mean=posterior.mean[kept].float().cpu(),
            logvar=None if posterior.logvar is None else posterior.logvar[kept].float().cpu(),
            noise_std=posterior.noise_std,
        )

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor, *, num_frames: int) -> torch.Tensor:
        """Pixels of up to `batch_size` latents [B, T', H', W', K]: float32 on the CPU, [B, C, T, H, W]."""
        missing = self.inference.batch_size - len(latent)
        filled = torch.cat([latent, latent.new_zeros((missing, *latent.shape[1:]))])
        with self._autocast():
            pixels = self._adapter.decode(filled.to(self.inference.device), num_frames=num_frames)
        return pixels[: len(latent)].float().cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.inference.device, dtype=torch.bfloat16, enabled=self.inference.precision == "bfloat16"
        )
