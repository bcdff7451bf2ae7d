"""What hardly shows anything: clips that are almost black, and clips in which nothing moves."""

import itertools

import numpy as np
from einops import einsum
from numpy.typing import NDArray

# ITU-R BT.709 luma of code values.
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def is_near_black(frames: NDArray[np.uint8], threshold: float) -> bool:
    """Whether the mean luma of every frame is below `threshold`.

    Args:
        frames: [T, H, W, 3] RGB.
        threshold: Luma in code values, 0-255; 0 finds nothing.
    """
    # Frame by frame, for the sums are wider than the pixels.
    return all(float(einsum(frame.mean(axis=(0, 1)), _LUMA, "c, c ->")) < threshold for frame in frames)


def is_frozen(frames: NDArray[np.uint8], threshold: float) -> bool:
    """Whether each frame differs from the one before by less than `threshold` in the mean; one frame is never frozen.

    Args:
        frames: [T, H, W, 3] RGB.
        threshold: Mean absolute difference in code values, 0-255; 0 finds nothing.
    """
    return len(frames) > 1 and all(
        float(np.abs(after.astype(np.int16) - before).mean()) < threshold
        for before, after in itertools.pairwise(frames)
    )
