"""Pictures of clips beside each other: one frame as PNG, all of them as an animated WebP.

Axes: n clips, T time, H height, W width.
"""

import io
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

_FRAME_MILLISECONDS = 125


def grid_of(clips: Sequence[NDArray[np.uint8]], *, num_columns: int) -> NDArray[np.uint8]:
    """Clips of one size in rows: uint8 [T, H, W, 3] each to [T, rows H, columns W, 3], black where the last row ends.

    Raises:
        ValueError: There is no clip.
    """
    if not clips:
        raise ValueError("clips: got none, expected at least one to picture")
    missing = -len(clips) % num_columns
    stacked = np.stack([*clips, *[np.zeros_like(clips[0])] * missing])
    grid: NDArray[np.uint8] = rearrange(
        stacked, "(rows columns) t h w c -> t (rows h) (columns w) c", columns=num_columns
    )
    return grid


def png_of(picture: NDArray[np.uint8]) -> bytes:
    """PNG of one frame [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def webp_of(frames: NDArray[np.uint8]) -> bytes:
    """Animated WebP, lossless, of frames [T, H, W, 3] at eight a second, over and over."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=_FRAME_MILLISECONDS, loop=0, lossless=True)
    return buffer.getvalue()
