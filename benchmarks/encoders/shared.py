"""What the programs share that encode beside us: the tokenizer, the clips, and how their output is handed back.

Needs torch, einops, safetensors, fsspec, numpy and simplejpeg: it runs in the peers' environments too.
Axes: B batch, T time, H height, W width, C pixel channels; latents are [B, T', H', W', K].
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from vitok.model.checkpoint import load_checkpoint
from vitok.pixels import from_uint8

LOG_VARIABLE = "ENCODED_LOG"
"""Names a file to which every encoded key is appended: what a program does twice stands there twice."""


class Encoder:
    """A tokenizer of ours, as a user's own loop would hold it."""

    def __init__(self, tokenizer: str, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = load_checkpoint(tokenizer).eval()
        self._bfloat16 = precision == "bfloat16"

    @torch.inference_mode()
    def __call__(self, keys: Sequence[str], pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Means [B, T', H', W', K] of clips [B, T, H, W, C]."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16):
            posterior = self._model.encode(from_uint8(torch.from_numpy(pixels)))
        latents: NDArray[np.float16] = posterior.mean.to(torch.float16).numpy()
        if LOG_VARIABLE in os.environ:
            with Path(os.environ[LOG_VARIABLE]).open("a") as log:
                log.write("".join(f"{key}\n" for key in keys))
        return latents


def shard_paths(clips: str) -> list[str]:
    """The tars of a clip store of images, in order."""
    return sorted(str(path) for path in Path(clips).glob("grid=*/*.tar"))


def read_images(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Key and JPEG of each clip of tars of images."""
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension.endswith("jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield key, file.read()


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    """An image as a clip of one frame, [1, H, W, C]."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, "RGB")[np.newaxis]
    return pixels


def chunked(items: Iterable[tuple[str, bytes]], batch_size: int) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Keys and clips [B, T, H, W, C] of up to `batch_size` images at a time."""
    held: list[tuple[str, bytes]] = []
    for item in items:
        held.append(item)
        if len(held) == batch_size:
            yield [key for key, _ in held], np.stack([decode(jpeg) for _, jpeg in held])
            held = []
    if held:
        yield [key for key, _ in held], np.stack([decode(jpeg) for _, jpeg in held])


def dump(path: str, keys: Sequence[str], latents: Sequence[NDArray[np.float16]]) -> None:
    """Hand back what a program stored: every key as often as it is there, and its latent."""
    np.savez(path, keys=np.array(keys), latents=np.stack(latents))
