r"""Clip shards: WebDataset tars of uint8 clips, byte-reproducible.

Members of one clip, in this order, for a clip of T frames::

    KEY.000.jpg .. KEY.{T-1}.jpg   pixels, uint8 RGB, codec "jpeg" (quality and subsampling in the store's record)
    KEY.000.png .. KEY.{T-1}.png   the same, codec "png" (lossless)
    KEY.npy                        the same, codec "raw": one uint8 array [T, H, W, 3]
    KEY.json                       ClipMetadata

USTAR headers, mtime 0, no user or group, mode 0444; KEY matches `KEY_PATTERN`, so that no member can leave its folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,96}")
"""What a key may look like; everything that reads a shard checks it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipMetadata:
    """What is known of one clip: `KEY.json` in a clip shard, columns of the same names in a latent store."""

    key: str
    media_uri: str
    media_sha256: str
    """Hash of the media's bytes."""
    clip_index: int
    start_seconds: float | None
    """Presentation time of the clip's start after the media's first frame; None for an image."""
    end_seconds: float | None
    """Exclusive."""
    fps: float | None
    """Frames a second of the clip (not of its media); None for an image."""
    num_frames: int
    height: int
    width: int
    source_height: int
    """Pixels of the media after its orientation was applied."""
    source_width: int
    orientation: int
    """EXIF orientation 1-8 that was applied, of an image or a video; 1 is none."""
    pixel_aspect: float
    """Width over height of a source pixel as shown; the clip's pixels are square."""
    color: str
    """What the source's tags say of its colours, as they were read: "srgb", "icc Adobe RGB (1998)", "bt709 limited"."""
    interlaced: bool
    """Whether frames are marked as two fields; they are kept woven."""
    crop_left: float
    """The kept region, in source pixels."""
    crop_top: float
    crop_right: float
    crop_bottom: float
    label: str | None
    caption: str | None
    columns: Mapping[str, object]
    """Pass-through columns of the media, by name."""

    def to_json(self) -> dict[str, object]:
        """The metadata as JSON-ready values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read `to_json`'s value.

        Raises:
            ValueError: It is no object, a key is missing or unknown, or the clip's key is not a safe name.
        """
        if not isinstance(value, dict):
            raise ValueError(f"clip metadata: got {type(value).__name__}, expected a JSON object")
        expected = {field.name for field in fields(cls)}
        if set(value) != expected:
            raise ValueError(
                f"clip metadata: missing {sorted(expected - set(value))}, unknown {sorted(set(value) - expected)}"
            )
        if KEY_PATTERN.fullmatch(str(value["key"])) is None:
            raise ValueError(f"clip metadata: key {value['key']!r} does not match {KEY_PATTERN.pattern}")
        return cls(**value)
