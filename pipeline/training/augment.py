"""What training does to a stored clip: crops and mirrors, the same for all frames of a clip.

Axes: T time, H height, W width, 3 channels (red, green, blue).
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.training.config import Augmentation

_SCALE = (0.8, 1.0)
"""Share of the area that a random resized crop keeps (v1 code)."""
_RATIO = (3 / 4, 4 / 3)
"""Width over height of what it keeps, relative to the clip's (torchvision's default, which the v1 code leaves)."""
_TRIES = 10


def augment(
    pixels: NDArray[np.uint8], *, how: Augmentation, resolution: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Crop and mirror a clip.

    Args:
        pixels: uint8 [T, H, W, 3].
        how: What is done (see `DataFlags.augmentation`).
        resolution: Height and width of what comes out; 0: those of the clip.
        generator: Source of the draws.

    Returns:
        uint8 [T, resolution, resolution, 3], or [T, H, W, 3].

    Raises:
        ValueError: The clip is smaller than the crop, or has another size and is not to be cropped.
    """
    height, width = pixels.shape[1:3]
    wanted = (resolution, resolution) if resolution else (height, width)
    if min(height - wanted[0], width - wanted[1]) < 0 or (how in ("none", "flip") and wanted != (height, width)):
        raise ValueError(
            f"--resolution: got {resolution} for clips of {height}x{width} pixels with --augmentation {how}: "
            "give a crop that fits in them, or 0"
        )
    if how == "random_crop":
        top = int(generator.integers(height - wanted[0] + 1))
        left = int(generator.integers(width - wanted[1] + 1))
        pixels = pixels[:, top : top + wanted[0], left : left + wanted[1]]
    elif how == "random_resized_crop":
        box = _random_box(height, width, generator)
        frames = [Image.fromarray(frame) for frame in pixels]
        resized = [frame.resize(wanted[::-1], Image.Resampling.BILINEAR, box=box) for frame in frames]
        pixels = np.stack([np.asarray(frame) for frame in resized])
    if how != "none" and generator.random() < 0.5:
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def _random_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a box of a random share of the area and a random ratio; the whole if none fits."""
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_SCALE)
        ratio = width / height * math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(width - box_width + 1))
            top = int(generator.integers(height - box_height + 1))
            return left, top, left + box_width, top + box_height
    return 0, 0, width, height
