"""Clips through latents and back: encoded and decoded, or decoded out of a latent store."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.media.reject import RejectClip
from pipeline.stages.reconstruct import Reconstructed, Reconstruction
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.clipshard import Clip
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.stored_keys import read_stored_keys
from schemas.latent import LATENT_DTYPES
from schemas.metadata import LATENT_STORE_FORMAT
from schemas.outcome import Reason
from vitok.latents.store import LatentStore
from vitok.model.posterior import Posterior
from vitok.pixels import to_uint8

ENCODED_DTYPE = "float16"
"""Of latents that are not stored: their size is told as that of `vitok encode`'s default."""


class TokenizerReconstructor:
    """Encodes, and decodes the posterior's mean, as in the paper's evaluation."""

    def __init__(self, url: str, inference: Inference) -> None:
        self._tokenizer = Tokenizer(url, inference)

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Up to `inference.batch_size` clips of one shape; one that comes out as NaN or Inf is its own reject."""
        posterior = self._tokenizer.encode(clips)
        results = decoded(self._tokenizer, posterior.mode(), clips, bytes_per_value=LATENT_DTYPES[ENCODED_DTYPE])
        return Reconstructed(results=results, latents=posterior)


class StoredReconstructor:
    """Decodes what a latent store holds of the clips, found by their keys; a clip that it lacks is rejected."""

    def __init__(self, url: str, inference: Inference, latents: Folder) -> None:
        self._tokenizer = Tokenizer(url, inference)
        self._latents = LatentStore(latents.url)
        self._keys = _KeyFinder(open_store(latents, format_name=LATENT_STORE_FORMAT))

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Up to `inference.batch_size` clips of one shape."""
        positions = self._keys.find([clip.metadata.key for clip in clips])
        there = [clip for clip, position in zip(clips, positions, strict=True) if position >= 0]
        if not there:
            return Reconstructed(results=[_missing() for _ in clips])
        taken = self._latents.take(positions[positions >= 0], columns=()).latents
        latents = Posterior(mean=taken["mean"].float(), logvar=taken["logvar"].float() if "logvar" in taken else None)
        size = self._latents.dtype.itemsize
        results = iter(decoded(self._tokenizer, latents.mode(), there, bytes_per_value=size))
        return Reconstructed(
            results=[next(results) if position >= 0 else _missing() for position in positions], latents=latents
        )


def decoded(
    tokenizer: Tokenizer, latent: Tensor, clips: Sequence[Clip], *, bytes_per_value: int
) -> list[Reconstruction | RejectClip]:
    """Decode the latents [B, T', H', W', K] of clips of one shape."""
    size_bytes = latent[0].numel() * bytes_per_value
    return [
        Reconstruction(pixels=to_uint8(pixels[None])[0].numpy(), size_bytes=size_bytes)
        if torch.isfinite(pixels).all()
        else RejectClip(Reason.NONFINITE_RECONSTRUCTION, "NaN or Inf among the decoded pixels")
        for pixels in tokenizer.decode(latent, num_frames=len(clips[0].pixels))
    ]


def _missing() -> RejectClip:
    return RejectClip(Reason.MISSING_LATENT, "the latent store holds no clip of this key")


class _KeyFinder:
    """Positions in a latent store by key; holds the keys of one shard at a time.

    The search goes on in the shard where it last ended: a store that was encoded from the clips has them in their
    order, and all its keys are read once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shards = [row for row in store.rows if row.path is not None]
        self._starts = np.cumsum([0, *(row.stored for row in self._shards)])
        self._number = 0
        self._places: dict[str, int] | None = None

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Position of each key, -1 where the store has none."""
        found = dict.fromkeys(keys, -1)
        missing = set(keys)
        for turn in range(len(self._shards)):
            if turn:
                self._number, self._places = (self._number + 1) % len(self._shards), None
            places = self._places_here()
            for key in missing & places.keys():
                found[key] = int(self._starts[self._number]) + places[key]
            missing -= places.keys()
            if not missing:
                break
        return np.array([found[key] for key in keys], np.int64)

    def _places_here(self) -> dict[str, int]:
        if self._places is None:
            path = self._shards[self._number].path
            assert path is not None, "filtered above"
            self._places = {key: place for place, key in enumerate(read_stored_keys(self._store.folder, path))}
        return self._places
