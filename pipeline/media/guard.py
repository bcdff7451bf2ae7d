"""Limits that keep one hostile or broken media from costing more than itself."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaLimits:
    """Bounds checked while a media is opened and decoded; beyond one of size, the media is rejected as `too_large`."""

    max_bytes: int = 256 * 2**20
    """Size of an image file, or of a video that decord decodes: they are read whole."""
    max_pixels: int = 178_956_970
    """Height times width of one frame, read from the header before any pixel is decoded.

    The default is the bound at which Pillow itself refuses a file as a decompression bomb. Pillow's bound stays in
    force, so a higher value here reaches video only.
    """
    max_video_bytes: int = 64 * 2**30
    """Size of a video file: it is streamed, so this bounds time, not memory."""
    max_duration_seconds: int = 24 * 3600
    """Duration a video may claim: a header is free to claim years, and each clip of them would be planned."""
    max_frames_per_clip: int = 20_000
    """Frames decoded to make one clip, those skipped on the way to it counted: 20,000 frames fit in 1 MB of file."""
    max_clip_bytes: int = 4 * 2**30
    """Size of one clip's sampled frames after they are resized; they are all held at once."""
    timeout_s: int = 300
    """Wall time that one clip may take to decode; beyond it the media is rejected as `decoder_timeout`."""

    probe_timeout_s: int = 3600
    """Wall time that the probe of one media may take while planning: finding shots decodes a video whole."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name}: got {getattr(self, field.name)}, expected at least 1")
