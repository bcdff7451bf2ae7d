"""One clip's frames as they come from a decoder, each prepared at once so that only what is kept is held."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

PrepareFrame = Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]
"""An upright frame [H, W, 3] and the width over height of its pixels -> the frame to keep [H', W', 3]."""


class ClipFrames:
    """Collects `num_frames` frames [H', W', 3] of one clip."""

    def __init__(self, num_frames: int, limits: MediaLimits, prepare_frame: PrepareFrame | None) -> None:
        self._num_frames = num_frames
        self._limits = limits
        self._prepare_frame = prepare_frame
        self._num_added = 0
        self._source_size = (0, 0)
        self._frames = np.empty((0, 0, 0, 3), np.uint8)

    def add(self, pixels: NDArray[np.uint8], pixel_aspect: float) -> None:
        """Prepare and keep the next frame.

        Args:
            pixels: [H, W, 3] RGB, upright.
            pixel_aspect: Width over height of its pixels.

        Raises:
            RejectClip: `corrupt` where the size is another than before, `too_large` beyond `max_clip_bytes`, and
                whatever the preparation rejects.
        """
        height, width = pixels.shape[:2]
        if self._num_added and (height, width) != self._source_size:
            was = f"{self._source_size[0]}x{self._source_size[1]}"
            raise RejectClip(Reason.CORRUPT, f"frames change from {was} to {height}x{width} in a clip")
        kept = pixels if self._prepare_frame is None else self._prepare_frame(pixels, pixel_aspect)
        if not self._num_added:
            size_bytes = self._num_frames * kept.size
            if size_bytes > self._limits.max_clip_bytes:
                raise RejectClip(Reason.TOO_LARGE, f"a clip of {size_bytes} bytes, limit {self._limits.max_clip_bytes}")
            self._source_size = (height, width)
            self._frames = np.empty((self._num_frames, *kept.shape), np.uint8)
        self._frames[self._num_added] = kept
        self._num_added += 1

    def repeat(self) -> None:
        """Keep the last frame once more: it is still on show."""
        self._frames[self._num_added] = self._frames[self._num_added - 1]
        self._num_added += 1

    @property
    def source_size(self) -> tuple[int, int]:
        """Height and width of the upright frames before they were prepared."""
        return self._source_size

    def finished(self) -> NDArray[np.uint8]:
        """[T, H', W', 3], all of them."""
        assert self._num_added == self._num_frames, f"{self._num_added} of {self._num_frames} frames"
        return self._frames
