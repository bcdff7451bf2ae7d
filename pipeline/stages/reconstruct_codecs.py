"""Reference lines beside tokenizers: clips through image codecs, through fewer pixels, or not through anything.

Axes: T time, H height, W width; frames are coded one by one.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.stages.reconstruct import Reconstructed, Reconstruction
from pipeline.store.clipshard import Clip

ImageCodecName = Literal["jpeg", "webp"]
ClipShape = tuple[int, int, int]
"""Frames, height and width."""


@dataclass(frozen=True, slots=True)
class Originals:
    """The clips themselves: whose features reconstructions are compared with."""

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Every clip as it is."""
        return Reconstructed(
            results=[Reconstruction(pixels=clip.pixels, size_bytes=clip.pixels.nbytes) for clip in clips]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCodec:
    """Every frame a file of its own."""

    name: ImageCodecName
    """jpeg: libjpeg-turbo, chroma halved both ways; webp: lossy, method 4."""
    quality: int
    """1 to 100."""

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Code and decode every frame."""
        return Reconstructed(results=[self._coded(clip.pixels) for clip in clips])

    def _coded(self, pixels: NDArray[np.uint8]) -> Reconstruction:
        files = [self._encode(frame) for frame in np.ascontiguousarray(pixels)]
        frames = [self._decode(file) for file in files]
        return Reconstruction(pixels=np.stack(frames), size_bytes=sum(map(len, files)))

    def _encode(self, frame: NDArray[np.uint8]) -> bytes:
        if self.name == "jpeg":
            file: bytes = simplejpeg.encode_jpeg(frame, quality=self.quality, colorsubsampling="420")
            return file
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP", quality=self.quality, method=4)
        return buffer.getvalue()

    def _decode(self, file: bytes) -> NDArray[np.uint8]:
        if self.name == "jpeg":
            frame: NDArray[np.uint8] = simplejpeg.decode_jpeg(file)
            return frame
        with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bicubic:
    """Every frame made smaller, then as large as it was, by Pillow's bicubic filter."""

    floats: Mapping[ClipShape, int]
    """Most numbers that may stand for a clip, by its shape: as many as a tokenizer's latent has."""

    def __call__(self, clips: Sequence[Clip]) -> Reconstructed:
        """Resize every frame down and up."""
        return Reconstructed(results=[self._resized(clip.pixels) for clip in clips])

    def _resized(self, pixels: NDArray[np.uint8]) -> Reconstruction:
        num_frames, height, width, channels = pixels.shape
        rows, columns = smaller_size((num_frames, height, width), self.floats[num_frames, height, width])
        frames = []
        for frame in pixels:
            small = Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC)
            frames.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
        return Reconstruction(pixels=np.stack(frames), size_bytes=num_frames * rows * columns * channels)


def smaller_size(shape: ClipShape, floats: int) -> tuple[int, int]:
    """Height and width of the largest frames of about a clip's aspect whose 3 T h w values are at most `floats`.

    One pixel a frame, where even that is more.

    >>> smaller_size((1, 256, 256), 4096)
    (36, 37)
    """
    num_frames, height, width = shape
    area = floats / (3 * num_frames)
    rows = min(height, max(1, math.floor(math.sqrt(area * height / width))))
    return rows, min(width, max(1, math.floor(area / rows)))
