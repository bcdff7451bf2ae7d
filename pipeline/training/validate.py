"""Validation during training: held-out clips encoded and decoded, measured, and a picture of some.

Axes: B clips, T time, H height, W width, K latent channels.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store.clipshard import read_clips
from pipeline.store.index import Store
from pipeline.store.moments import ChannelMoments
from pipeline.training.objective import Validation
from pipeline.training.parallel import Parallel
from pipeline.training.player import Player
from vitok.metrics.perceptual import lpips
from vitok.metrics.pixel import SSIM_TAPS, psnr, ssim
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.networks.lpips import MIN_SIDE, Lpips
from vitok.pixels import from_uint8, to_uint8

_BATCH_SIZE = 16
_PICTURED = 8
_ACTIVE_STD = 0.1
"""Of the posterior means of a channel: below it a channel says next to nothing of the clips."""


class HeldOutClips:
    """Measures reconstructions of this worker's share of the held-out clips."""

    def __init__(self, store: Store, *, max_clips: int, parallel: Parallel, lpips: Lpips | None) -> None:
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
    def run(self, player: Player, *, step: int, precision: str) -> Validation:
        """As `Validator.run`: means over clips; and a picture of clips above, their reconstructions below."""
        sums: dict[str, Tensor] = {}
        """By name: sum over clips, and how many."""
        pictured: list[tuple[Tensor, Tensor]] = []
        assert isinstance(player.module, AutoEncoder)
        moments = ChannelMoments.empty(player.module.config.latent_channels)
        device = self._parallel.device
        with player.keeping():
            for held, counts in self._batches:
                pixels = held.to(device)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                    reconstruction: Reconstruction = player.module(from_uint8(pixels), sample=False)
                candidate = to_uint8(reconstruction.pixels[:, :, : pixels.shape[1]].float())
                for name, values in self._measure(pixels, candidate, reconstruction).items():
                    found = torch.stack([(values.double().cpu() * counts).sum(), counts.sum()])
                    sums[name] = sums[name] + found if name in sums else found
                if counts.any():
                    means = reconstruction.posterior.mean.cpu()[counts > 0]
                    moments = moments.merge(ChannelMoments.of(means.numpy()))
                pictured += zip(held, candidate.cpu(), strict=True)
        moments = self._parallel.merge(moments)
        names = sorted(sums)
        totals, clips = self._parallel.sum(torch.stack([sums[name] for name in names]).to(device)).cpu().unbind(1)
        averages = dict(zip(names, (totals / clips).tolist(), strict=True))
        return Validation(
            values={
                **averages,
                "latent_mean": float(np.abs(moments.mean).mean()),
                "latent_std": float(moments.std.mean()),
                "active_channels": float((moments.std > _ACTIVE_STD).sum()),
            },
            picture=_picture(pictured),
            note=f"step {step}, held-out PSNR {averages['psnr']:.2f} dB",
        )

    def _measure(self, pixels: Tensor, candidate: Tensor, reconstruction: Reconstruction) -> dict[str, Tensor]:
        """Metrics [B] by name, of clips large enough for them, and the KL."""
        measured = {"psnr": psnr(pixels, candidate), "kl": reconstruction.posterior.kl()}
        smallest = min(pixels.shape[2:4])
        if smallest >= SSIM_TAPS:
            measured["ssim"] = ssim(pixels, candidate)
        if self._lpips is not None and smallest >= MIN_SIDE:
            measured["lpips"] = lpips(self._lpips, pixels, candidate)
        return measured


def _clips(store: Store) -> Iterator[NDArray[np.uint8]]:
    """Pixels [T, H, W, 3] of every clip."""
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                for clip in read_clips(stream, where=store.folder.path(row.path)):
                    yield clip.pixels


def _picture(pairs: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.uint8]:
    """Some clips of the first's size, side by side, the middle frame of each."""
    size = pairs[0][0].shape
    chosen = [pair for pair in pairs if pair[0].shape == size][:_PICTURED]
    rows = torch.stack([torch.stack([clip[size[0] // 2] for clip in clips]) for clips in zip(*chosen, strict=True)])
    picture: NDArray[np.uint8] = rearrange(rows, "rows n h w c -> (rows h) (n w) c").numpy()
    return picture
