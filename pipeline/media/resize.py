"""Resize: whole frames to a square by the paper's protocol, short side first, then the centre."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

Kernel = Literal["box", "bilinear", "bicubic", "lanczos"]

_PILLOW_KERNELS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A picture of 1 x 65535 pixels becomes 256 x 16.8 million on the way to its 256 x 256 centre.
_MAX_RESIZED_PIXELS = 178_956_970


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeProtocol:
    """How a frame of any size becomes a square."""

    resolution: int
    """Side of the square in pixels."""
    kernel: Kernel = "bilinear"
    """Pillow's filter, always antialiased."""

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution: got {self.resolution}, expected at least 1")
        if self.kernel not in _PILLOW_KERNELS:
            raise ValueError(f"kernel: got {self.kernel!r}, expected one of {', '.join(_PILLOW_KERNELS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CropBox:
    """The part of a source frame that survived, [top, bottom) x [left, right) in its upright pixels.

    Edges fall between pixels, for the crop is made after the resize.
    """

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resized:
    """Frames after the protocol, and where in the source they lie."""

    pixels: NDArray[np.uint8]
    """[T, R, R, 3] RGB."""
    crop: CropBox


def resize_frames(frames: NDArray[np.uint8], protocol: ResizeProtocol) -> Resized:
    """Resize the short side to R, then cut the central R x R: bit for bit Pillow's resize of the whole frame.

    [T, H, W, 3] -> [T, R, R, 3]. The integer rounding is torchvision's (`Resize` and `CenterCrop` of a PIL image), in
    which the published tokenizers were trained and scored.

    Args:
        frames: [T, H, W, 3] uint8 RGB; H and W at least 1.
        protocol: The square's side and the kernel.

    Raises:
        RejectClip: `too_large`, where the frame is so long and thin that its resized whole would not fit in memory.
    """
    num_frames, height, width, _ = frames.shape
    side = protocol.resolution
    resized_height, resized_width = _short_side_to(side, height, width)
    if resized_height * resized_width > _MAX_RESIZED_PIXELS:
        raise RejectClip(
            Reason.TOO_LARGE,
            f"a frame of {height}x{width} resized to {resized_height}x{resized_width} "
            f"is over {_MAX_RESIZED_PIXELS} pixels",
        )
    top = round((resized_height - side) / 2)
    left = round((resized_width - side) / 2)
    pixels = np.empty((num_frames, side, side, 3), np.uint8)
    for frame, square in zip(frames, pixels, strict=True):
        image = Image.fromarray(frame)
        if (resized_height, resized_width) != (height, width):
            image = image.resize((resized_width, resized_height), _PILLOW_KERNELS[protocol.kernel])
        square[:] = np.asarray(image.crop((left, top, left + side, top + side)))
    rows, columns = height / resized_height, width / resized_width
    crop = CropBox(top=top * rows, left=left * columns, bottom=(top + side) * rows, right=(left + side) * columns)
    return Resized(pixels=pixels, crop=crop)


def _short_side_to(side: int, height: int, width: int) -> tuple[int, int]:
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side
