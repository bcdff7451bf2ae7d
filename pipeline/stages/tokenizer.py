"""An auto-encoder at work on clips: fixed batches in, arrays out; a caller may begin a batch before it takes the last.

Axes: B batch, C pixel channels, T time, H height, W width of pixels; T' x H' x W' the grid of latents, K latent
channels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

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
    compile: bool = False
    """Networks by torch.compile, whose kernels round in other places (`vitok.adapters.compiled`)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.threads < 1:
            raise ValueError(f"batch_size and threads must be at least 1, got {self.batch_size} and {self.threads}")

    def to_json(self) -> dict[str, object]:
        """As fingerprints have it. `compile` stands there only where it is on: stores that do without it are alike."""
        return {name: value for name, value in asdict(self).items() if name != "compile" or value}


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingPosterior:
    """The posterior of a batch whose forward pass has begun, and on a GPU may go on while the caller works."""

    arriving: Posterior
    """On the CPU, float32; what it holds is sound once the copies to it are over."""
    arrived: torch.cuda.Event | None
    """That they are; None: they were when this was made."""

    def result(self) -> Posterior:
        """The posterior [B, T', H', W', K], waited for."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.arriving


class Tokenizer:
    """Loaded once a worker; the same clips at the same place in a shard give the same bits."""

    def __init__(self, url: str, inference: Inference) -> None:
        """Load the auto-encoder that `vitok.adapters.load.load_adapter` finds at `url`."""
        torch.set_num_threads(inference.threads)
        self.inference = inference
        self._is_cuda = inference.device == "cuda"
        self._adapter = load_adapter(url, device=inference.device)
        if inference.compile:
            self._adapter.compile()

    def encode(self, clips: Sequence[Clip]) -> Posterior:
        """Posterior of up to `batch_size` clips of one shape, float32 on the CPU, [B, T', H', W', K]."""
        return self.submit(clips).result()

    @torch.inference_mode()
    def submit(self, clips: Sequence[Clip]) -> PendingPosterior:
        """Begin what `encode` does: on a GPU copies and forward pass are queued, and nothing is waited for.

        Passes run in the order of their submission, whichever result is asked for first. The clips are read before this
        returns.
        """
        levels = self._filled(clips).to(self.inference.device, non_blocking=True)
        with self._autocast():
            posterior = self._adapter.encode(from_uint8(levels))
        arriving = Posterior(
            mean=self._to_host(posterior.mean[: len(clips)]),
            logvar=None if posterior.logvar is None else self._to_host(posterior.logvar[: len(clips)]),
            noise_std=posterior.noise_std,
        )
        arrived = None
        if self._is_cuda:
            # Blocking: a wait that leaves the worker's CPU to its decoder.
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record()
        return PendingPosterior(arriving=arriving, arrived=arrived)

    def _filled(self, clips: Sequence[Clip]) -> Tensor:
        """Pixels of a whole batch on the host, uint8 [B, T, H, W, C], black where there are no more clips.

        Kernels are chosen by shape: one shape for all passes keeps a latent independent of its batch neighbours.
        """
        # Page-locked memory is given out again, by torch, only when the copies from it are over: no batch waits here
        # for the one before, and none overwrites it.
        shape = (self.inference.batch_size, *clips[0].pixels.shape)
        levels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._is_cuda)
        np.stack([clip.pixels for clip in clips], out=levels[: len(clips)].numpy())
        levels[len(clips) :] = 0
        return levels

    def _to_host(self, values: Tensor) -> Tensor:
        """Queue the copy of values, as float32, into page-locked memory."""
        host = torch.empty(values.shape, dtype=torch.float32, pin_memory=self._is_cuda)
        return host.copy_(values.float(), non_blocking=True)

    @torch.inference_mode()
    def decode(self, latent: Tensor, *, num_frames: int) -> Tensor:
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
