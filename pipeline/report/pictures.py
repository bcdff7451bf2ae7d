"""Clips as pictures inside a page: the frames of a clip in one WebP, which the page's script plays.

Axes: T time, H height, W width.

No video: every browser shows a WebP, the pictures of a clip stay in step to the frame, and they stop when asked.
"""

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

DIFFERENCE_GAIN: Final = 4
"""The difference shown is the absolute error of each value times this, at most 255."""
QUALITY: Final = 90
"""Of lossy WebP."""
LOSSLESS_PIXELS: Final = 2**15
"""Films of no more pixels, all frames together, lose nothing."""
LONGEST_SIDE: Final = 512
"""Of a clip's frames; larger ones are made smaller for the page."""
MOST_FRAMES: Final = 64
"""Of a longer clip, the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Frames of one size in a grid, row by row, as one picture."""

    webp: bytes
    width: int
    """Of a frame."""
    height: int
    num_frames: int
    num_columns: int
    """Frames side by side."""

    @property
    def name(self) -> str:
        """Of its content: equal films have one name."""
        return "film-" + hashlib.sha256(self.webp).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True, slots=True)
class Triptych:
    """A clip, what came back of it, and their difference, amplified; all of one size."""

    original: Film
    reconstruction: Film
    difference: Film


def film_of(frames: NDArray[np.uint8], *, longest_side: int = LONGEST_SIDE) -> Film:
    """Encode frames uint8 [T, H, W, 3] for a page.

    Args:
        frames: At most `MOST_FRAMES` are kept, the first ones.
        longest_side: Larger frames are made smaller.

    Raises:
        ValueError: There is no frame.
    """
    if not len(frames):
        raise ValueError("frames: got none, expected at least one to picture")
    frames = frames[:MOST_FRAMES]
    num_frames, height, width, _ = frames.shape
    scale = longest_side / max(height, width)
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        frames = np.stack(
            [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX)) for frame in frames]
        )
    num_columns = math.ceil(math.sqrt(num_frames))
    missing = -num_frames % num_columns
    padded = np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)])
    sheet = rearrange(padded, "(rows columns) H W c -> (rows H) (columns W) c", columns=num_columns)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, lossless=frames[..., 0].size <= LOSSLESS_PIXELS)
    return Film(webp=buffer.getvalue(), width=width, height=height, num_frames=num_frames, num_columns=num_columns)


def triptych(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> Triptych:
    """Picture a clip beside its reconstruction, both uint8 [T, H, W, 3]; the difference is that of these values.

    Raises:
        ValueError: They are not of one size.
    """
    if original.shape != reconstruction.shape:
        raise ValueError(f"reconstruction: got {reconstruction.shape}, expected the original's {original.shape}")
    error = np.abs(original.astype(np.int16) - reconstruction.astype(np.int16)) * DIFFERENCE_GAIN
    return Triptych(
        original=film_of(original),
        reconstruction=film_of(reconstruction),
        difference=film_of(np.minimum(error, 255).astype(np.uint8)),
    )
