"""Colours: pixels of any ICC profile to sRGB, by littleCMS, each profile prepared once."""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# What littleCMS and Pillow raise on a profile that is none, or that names colours other than the picture has.
_PROFILE_FAILURES = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

_GREY_MODES = frozenset({"1", "L"})
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> Pillow's mode of the pixels it speaks of."""
_CLASSES = frozenset({"scnr", "mntr", "prtr", "spac"})
"""Profiles that say what pixels mean; device links, abstract and named-colour profiles do not."""

# Largest printer profiles are about 3 MB; the cache below keeps whole profiles.
_MAX_PROFILE_BYTES = 8 * 2**20
_MAX_PREPARED = 16
_MAX_NAME = 60

# Of 21 profiles of photographs, the 10 that call themselves sRGB move colours by at most 1, the other 11 by 64 to 225.
_SRGB_TOLERANCE = 2

UNREADABLE = "icc unreadable"
"""Colour of a picture whose profile is broken, or of another kind of colour than its pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What has to be done to the pixels of one mode under one profile."""

    color: str
    """What the tags say, as they were read: "srgb", "grey", "cmyk", "icc NAME" or "icc unreadable"."""
    mode: str
    """Pillow's mode in which the transform takes pixels."""
    transform: ImageCms.ImageCmsTransform | None
    """None where the numbers are sRGB's already, or nothing better is known."""

    @property
    def changes_pixels(self) -> bool:
        """Whether the profile makes other pixels than the picture would have without it."""
        return self.transform is not None

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """An "RGB" image of a "1", "L", "RGB" or "CMYK" one."""
        if self.transform is None:
            return image.convert("RGB")
        converted = self.transform.apply(image.convert(self.mode))
        assert isinstance(converted, Image.Image)
        return converted


def conversion_of(profile: bytes | None, mode: str) -> Conversion:
    """How pixels of `mode` become sRGB.

    Relative colorimetric, with black point compensation: white stays white, colours that sRGB has stay as they are
    and the others go to its edge; the same for profiles of tables and of matrices, of which the latter know no other
    intent. A profile counts as sRGB by what it does, not by its name, and then changes nothing. Grey pixels under a
    profile of RGB are read as RGB with three equal channels. CMYK without a profile goes through Pillow's formula,
    which knows no ink.

    Args:
        profile: The ICC profile's bytes, None or empty where there is none.
        mode: Pillow's mode of the pixels: "1", "L", "RGB" or "CMYK".
    """
    if profile:
        return _conversion(profile, mode) if len(profile) <= _MAX_PROFILE_BYTES else _unconverted(UNREADABLE)
    if mode in _GREY_MODES:
        return _unconverted("grey")
    return _unconverted("cmyk" if mode == "CMYK" else "srgb")


@lru_cache(maxsize=_MAX_PREPARED)
def _conversion(profile: bytes, mode: str) -> Conversion:
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = _SPACES.get(opened.profile.xcolor_space.strip())
        fits = space == mode or (mode in _GREY_MODES and space in ("L", "RGB"))
        if space is None or not fits or opened.profile.device_class.strip() not in _CLASSES:
            return _unconverted(UNREADABLE)
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            space,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space != "CMYK" and _keeps_colors(transform, space):
            return _unconverted("grey" if mode in _GREY_MODES else "srgb")
        return Conversion(color=f"icc {_name(opened.profile.profile_description)}", mode=space, transform=transform)
    except _PROFILE_FAILURES:
        # A picture is worth more than its profile: it is shown as if it had none, and the record says so.
        return _unconverted(UNREADABLE)


def _unconverted(color: str) -> Conversion:
    return Conversion(color=color, mode="RGB", transform=None)


def _keeps_colors(transform: ImageCms.ImageCmsTransform, space: str) -> bool:
    """Whether no colour of a lattice over the space's cube moves by more than the tolerance."""
    axis = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(lattice if space == "RGB" else axis[np.newaxis])
    moved = np.asarray(transform.apply(probe)).astype(np.int16) - np.asarray(probe.convert("RGB"))
    return bool(np.abs(moved).max() <= _SRGB_TOLERANCE)


def _name(description: str | None) -> str:
    name = "".join(letter for letter in description or "" if letter.isprintable()).strip()
    return name[:_MAX_NAME].strip() or "unnamed"
