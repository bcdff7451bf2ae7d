"""HDR to SDR: PQ and HLG code values of BT.2020 to 8-bit sRGB.

Light above reference white (203 cd/m2, ITU-R BT.2408) is rolled off, light up to half of it is kept; the display is
taken to peak at 1000 cd/m2, whatever the mastering metadata says, so that frames of a corpus map alike.
"""

from functools import cache
from typing import Literal

import numpy as np
from einops import einsum
from numpy.typing import NDArray

Transfer = Literal["pq", "hlg"]

_WHITE_NITS = 203.0
_PEAK_NITS = 1000.0
_KNEE = 0.5
"""Luminance, in units of reference white, up to which nothing changes."""
_HLG_GAMMA = 1.2
"""System gamma of BT.2100 for a display of 1000 cd/m2."""

# ITU-R BT.2100: luminance of BT.2020 primaries. ITU-R BT.2087: linear BT.2020 to linear BT.709.
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_LUMINANCE_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_LEVELS = 65536
# Rows at a time: intermediate values take eight times the memory of the frame.
_STRIP_PIXELS = 1 << 18


def tone_map(pixels: NDArray[np.uint16], transfer: Transfer) -> NDArray[np.uint8]:
    """[H, W, 3] -> [H, W, 3]: linear light, BT.709 primaries, roll-off on luminance, sRGB.

    Args:
        pixels: [H, W, 3] RGB code values, 0-65535 full range, BT.2020 primaries.
        transfer: The curve they are in.
    """
    result = np.empty(pixels.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        light = _linear_levels(transfer)[pixels[top : top + rows]]
        if transfer == "hlg":
            scene = einsum(light, _LUMINANCE_2020, "h w c, c -> h w")
            light *= np.power(scene, _HLG_GAMMA - 1)[:, :, np.newaxis] * np.float32(_PEAK_NITS / _WHITE_NITS)
        light = einsum(light, _TO_709, "h w c, d c -> h w d").clip(min=0)
        luminance = einsum(light, _LUMINANCE_709, "h w c, c -> h w")
        light *= (_roll_off(luminance) / np.maximum(luminance, np.float32(1e-9)))[:, :, np.newaxis]
        levels = (np.minimum(light, 1) * (_LEVELS - 1) + 0.5).astype(np.uint16)
        result[top : top + rows] = _srgb_levels()[levels]
    return result


def _roll_off(luminance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Identity up to the knee, then Reinhard's curve with a white point (2002, eq. 4), which has slope 1 at its 0."""
    peak = (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    above = np.maximum(luminance - np.float32(_KNEE), 0) / np.float32(1 - _KNEE)
    rolled = above * (1 + above / np.float32(peak**2)) / (1 + above)
    curve: NDArray[np.float32] = np.minimum(luminance, np.float32(_KNEE)) + np.float32(1 - _KNEE) * rolled
    return curve


@cache
def _linear_levels(transfer: Transfer) -> NDArray[np.float32]:
    """Light of each code value: display light in units of reference white (PQ), scene light 0-1 (HLG)."""
    code = np.arange(_LEVELS) / (_LEVELS - 1)
    if transfer == "pq":
        # SMPTE ST 2084: EOTF to 0-10000 cd/m2.
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = code ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * (10000 / _WHITE_NITS)
    else:
        # ITU-R BT.2100: inverse of the HLG OETF.
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    return light.astype(np.float32)


@cache
def _srgb_levels() -> NDArray[np.uint8]:
    """8-bit code of each level of linear light (IEC 61966-2-1)."""
    light = np.arange(_LEVELS) / (_LEVELS - 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    levels: NDArray[np.float64] = np.rint(code * 255)
    return levels.astype(np.uint8)
