"""Validation during training: held-out clips encoded and decoded, measured, and a picture of some.

Axes: B clips, T time, H height, W width, K latent channels.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store.clipshard import read_clips
from pipeline.store.index import Store
from pipeline.training.parallel import Parallel
from pipeline.training.player import Player
from vitok.losses.perceptual import FrameDistance
from vitok.metrics.pixel import psnr, ssim
from vitok.model.autoencoder import Reconstruction
from vitok.pixels import from_uint8, to_uint8

_BATCH_SIZE = 16
_PICTURED = 8
_ACTIVE_STD = 0.1
"""Of the posterior means of a channel: below it a channel says next to nothing of the clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What came of one."""

    values: Mapping[str, float]
    """Means over clips, by name."""
    picture: NDArray[np.uint8]
    """[H, W, 3]: clips above, their reconstructions below, the middle frame of each."""


class Validator:
    """Holds this worker's share of the held-out clips."""

    def __init__(self, store: Store, *, max_clips: int, parallel: Parallel, lpips: FrameDistance | None) -> None:
        """Read the clips: the first `max_clips` of the store, dealt out to the workers.

        Raises:
            ValueError: The store has no clips.
        """
        self._parallel = parallel
        self._lpips = lpips
        shapes: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
        for pixels in itertools.islice(_clips(store), max_clips):
            shapes.setdefault(pixels.shape, []).append(pixels)
        if not shapes:
            raise ValueError(f"--validation: {store.folder.url} holds no clips")
        self._batches: list[tuple[Tensor, Tensor]] = []
        """Pixels uint8 [B, T, H, W, 3] and what each clip counts: 0 where it only fills this worker's last batch."""
        for clips in shapes.values():
            mine = clips[parallel.rank :: parallel.world_size]
            share = -(-len(clips) // parallel.world_size)
            counts = torch.tensor([1.0] * len(mine) + [0.0] * (share - len(mine)), dtype=torch.float64)
            filled = torch.from_numpy(np.stack([*mine, *[clips[0]] * (share - len(mine))]))
            for start in range(0, share, _BATCH_SIZE):
                self._batches.append((filled[start : start + _BATCH_SIZE], counts[start : start + _BATCH_SIZE]))

    @torch.no_grad()  # not inference mode: weights divided among workers keep what they were gathered into
    def run(self, tokenizer: Player, *, precision: str) -> Validation:
        """Measure the weights that would be kept; every worker calls it at the same step."""
        totals: dict[str, Tensor] = {}
        pictured: list[tuple[Tensor, Tensor]] = []
        latents = _LatentSums()
        device = self._parallel.device
        with tokenizer.keeping():
            for pixels, counts in self._batches:
                floats = from_uint8(pixels.to(device))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                    reconstruction: Reconstruction = tokenizer.module(floats, sample=False)
                candidate = to_uint8(reconstruction.pixels[:, :, : pixels.shape[1]].float())
                measured = {"psnr": psnr(pixels.to(device), candidate)}
                if min(pixels.shape[2:4]) >= 11:
                    measured["ssim"] = ssim(pixels.to(device), candidate)
                if self._lpips is not None:
                    measured["lpips"] = self._distances(floats, candidate)
                for name, values in {**measured, "clips": torch.ones_like(measured["psnr"])}.items():
                    totals[name] = totals.get(name, 0.0) + (values.double().cpu() * counts).sum()
                latents.add(reconstruction, counts)
                pictured += zip(pixels, candidate.cpu(), strict=True)
        names = sorted(totals)
        sums = self._parallel.sum(torch.stack([totals[name] for name in names]).to(device)).cpu()
        clips = float(sums[names.index("clips")])
        means = {name: float(total) / clips for name, total in zip(names, sums, strict=True) if name != "clips"}
        return Validation(values={**means, **latents.values(self._parallel)}, picture=_picture(pictured))

    def _distances(self, floats: Tensor, candidate: Tensor) -> Tensor:
        """LPIPS [B] of 8-bit reconstructions, mean over the frames of a clip."""
        assert self._lpips is not None
        frames = [
            rearrange(clips, "b c t h w -> (b t) c h w") for clips in (floats, from_uint8(candidate.to(floats.device)))
        ]
        return reduce(self._lpips(*frames).double(), "(b t) -> b", "mean", b=len(floats))


class _LatentSums:
    """Sums of posterior means over clips and tokens, for what is seen of the latent."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, reconstruction: Reconstruction, counts: Tensor) -> None:
        """Add a batch; a clip counts as often as `counts` [B] says."""
        tokens = rearrange(reconstruction.posterior.mean.double().cpu(), "b t h w k -> b (t h w) k")
        weighted = tokens * counts[:, None, None]
        number = counts.sum() * tokens.shape[1]
        kl = (reconstruction.posterior.kl().double().cpu() * counts).sum() * tokens.shape[1]
        sums = [weighted.sum((0, 1)), (weighted * tokens).sum((0, 1))]
        parts = torch.stack([*sums, kl.expand_as(sums[0]), number.expand_as(sums[0])])
        self._sums = parts if self._sums is None else self._sums + parts

    def values(self, parallel: Parallel) -> dict[str, float]:
        """Statistics over all workers."""
        assert self._sums is not None
        total, squares, kl, number = parallel.sum(self._sums.to(parallel.device)).cpu()
        mean = total / number
        std = (squares / number - mean.square()).clamp(min=0.0).sqrt()
        return {
            "kl": float((kl / number).mean()),
            "latent_mean": float(mean.abs().mean()),
            "latent_std": float(std.mean()),
            "active_channels": float((std > _ACTIVE_STD).sum()),
        }


def _clips(store: Store) -> Iterator[NDArray[np.uint8]]:
    """Pixels [T, H, W, 3] of every clip."""
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                for clip in read_clips(stream, where=store.folder.path(row.path)):
                    yield clip.pixels


def _picture(pairs: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.uint8]:
    """Some clips of the first's size, side by side."""
    size = pairs[0][0].shape
    chosen = [pair for pair in pairs if pair[0].shape == size][:_PICTURED]
    rows = torch.stack([torch.stack([clip[size[0] // 2] for clip in clips]) for clips in zip(*chosen, strict=True)])
    picture: NDArray[np.uint8] = rearrange(rows, "rows n h w c -> (rows h) (n w) c").numpy()
    return picture
