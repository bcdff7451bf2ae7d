"""Images: bytes to upright RGB pixels, or a RejectClip that says why not."""

import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.media.guard import MediaLimits
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

# Pillow knows forty formats more; one of them (EPS) starts another program. These are the formats that are media.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# What Pillow raises on bad bytes, besides UnidentifiedImageError and DecompressionBombError: collected over fuzzers'
# files. Deliberately not Exception: a fault of ours must stop the run.
PILLOW_FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = 1
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """An image's upright pixels and what was done to get them."""

    pixels: NDArray[np.uint8]
    """[H, W, 3] RGB, upright."""
    orientation: int
    """EXIF orientation 1-8 that was applied; 1 is upright."""


def decode_image(data: bytes, limits: MediaLimits) -> DecodedImage:
    """Decode the first frame of an image, turn it upright, put it on white where it is transparent.

    Args:
        data: The file's bytes.
        limits: `max_bytes` and `max_pixels` apply.

    Raises:
        RejectClip: `empty_file`, `too_large`, `unknown_format`, or `corrupt` (truncation included: Pillow is never
            asked to fill what is missing with grey).
    """
    if not data:
        raise RejectClip(Reason.EMPTY_FILE, "0 bytes")
    if len(data) > limits.max_bytes:
        raise RejectClip(Reason.TOO_LARGE, f"{len(data)} bytes, limit {limits.max_bytes}")
    with warnings.catch_warnings():
        # Pillow warns of what the limits and the rejects already cover (bombs, broken EXIF).
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(data), formats=_FORMATS) as image:
                return _decode_opened(image, limits)
        except UnidentifiedImageError:
            raise RejectClip(Reason.UNKNOWN_FORMAT, f"not one of {', '.join(_FORMATS)}") from None
        except Image.DecompressionBombError as error:
            raise RejectClip(Reason.TOO_LARGE, str(error)) from error
        except PILLOW_FAILURES as error:
            raise RejectClip(Reason.CORRUPT, f"{type(error).__name__}: {error}") from error


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation: [H, W, 3] -> [H, W, 3] for 1-4, [W, H, 3] for 5-8.

    Args:
        pixels: [H, W, 3] as stored.
        orientation: 1-8; 6, for example, turns a quarter clockwise.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _decode_opened(image: Image.Image, limits: MediaLimits) -> DecodedImage:
    if image.width * image.height > limits.max_pixels:
        raise RejectClip(Reason.TOO_LARGE, f"{image.height}x{image.width} pixels, limit {limits.max_pixels}")
    orientation = _orientation(image)
    image.load()
    # TIFF is turned by Pillow itself while it loads, which takes the tag away; others keep theirs.
    pixels = turn_upright(_rgb(image), _orientation(image))
    return DecodedImage(pixels=pixels, orientation=orientation)


def _orientation(image: Image.Image) -> int:
    try:
        tag = image.getexif().get(_EXIF_ORIENTATION, _UPRIGHT)
    except PILLOW_FAILURES:
        # The picture is whole even where its EXIF is not; a viewer shows it as stored.
        return _UPRIGHT
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else _UPRIGHT


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if image.mode in ("I", "F"):
        raise RejectClip(Reason.UNKNOWN_FORMAT, f"mode {image.mode}: its values name no white")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return np.asarray(image.convert("RGB"))
