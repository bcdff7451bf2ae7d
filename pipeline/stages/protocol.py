"""The protocol of a clip store: everything that makes clips of media. Part of the fingerprint, told in the store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, Literal, Self, cast

from pipeline.media.bucket import bucket_name, clip_grid, parse_bucket
from pipeline.media.color_tags import VIDEO_COLORS
from pipeline.media.guard import MediaLimits
from pipeline.media.image import DECODING
from pipeline.media.resize import Kernel, ResizeProtocol
from pipeline.media.similar import DEFAULT_MAX_DISTANCE, MAX_DISTANCE
from pipeline.media.source import MediaKind
from pipeline.media.span import SpanPolicy
from pipeline.store.clipshard import PixelCodec
from vitok.config import Tubelet

Decoder = Literal["pyav", "decord"]
Duplicates = Literal["keep", "exact", "near"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which sound media and clips are not wanted; what stands at 0 filters nothing. Each counts as `filtered`."""

    min_side: int = 0
    """Shortest side a media must have, in pixels as shown."""
    max_aspect: float = 0.0
    """Longest side over shortest that a media may have."""
    min_seconds: float = 0.0
    """Shortest duration of a video."""
    max_seconds: float = 0.0
    """Longest duration of a video."""
    near_black: float = 0.0
    """Clips whose brightest frame has a mean luma (0 to 255) under this are dropped; 8 is a good value."""
    frozen: float = 0.0
    """Clips of several frames in which no frame differs from the one before by this much in the mean (0 to 255) are
    dropped; 0.5 is a good value."""
    duplicates: Duplicates = "keep"
    """exact: media with the bytes of an earlier one are dropped; near: those too that look like an earlier one."""
    near_distance: int = DEFAULT_MAX_DISTANCE
    """near: bits of the 64-bit perceptual hash in which two media that look alike may differ, 0 to 8."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_aspect", "min_seconds", "max_seconds", "near_black", "frozen"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 (off) or more")
        if 0 < self.max_aspect < 1:
            raise ValueError(f"--max-aspect: got {self.max_aspect}, expected 0 (off), or 1 (squares) or more")
        if 0 < self.max_seconds < self.min_seconds:
            raise ValueError(f"--max-seconds: got {self.max_seconds}, which is under --min-seconds {self.min_seconds}")
        if not 0 <= self.near_distance <= MAX_DISTANCE:
            raise ValueError(f"--near-distance: got {self.near_distance}, expected 0 to {MAX_DISTANCE} bits")
        if self.duplicates == "near" and find_spec("imagehash") is None:
            raise ValueError("--duplicates near needs the package imagehash: install the extra `dedup`")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipProtocol:
    """What makes clips of media."""

    resize: ResizeProtocol
    tubelet: Tubelet
    num_frames: int
    """Of a video's clip; an image is a clip of one frame."""
    fps: Fraction
    spans: SpanPolicy
    timestamps: str | None
    """Pass-through column with the times in seconds that clips are centred on (policy "around")."""
    scene_threshold: float
    """0 to 1: how much a frame must differ from the one before to begin a new shot, which no clip spans; 0: off."""
    decoder: Decoder
    codec: PixelCodec | None
    """How clips stand in their shards; None where their pixels go on as they are."""
    filters: Filters
    limits: MediaLimits

    def bucket(self, kind: MediaKind, size: tuple[int, int]) -> str:
        """Folder of a media's clips once they are resized to `size` (height, width)."""
        return bucket_name(clip_grid(kind, size, self.num_frames, self.tubelet))

    def size_of(self, bucket: str) -> tuple[int, int]:
        """Height and width in pixels of a bucket's clips."""
        grid = parse_bucket(bucket)
        return grid.height * self.tubelet.patch, grid.width * self.tubelet.patch

    def to_json(self) -> dict[str, object]:
        """The protocol as JSON-ready values."""
        return {
            "sizes": [list(size) for size in self.resize.sizes],
            "resize": self.resize.describe(),
            "kernel": self.resize.kernel,
            "images": DECODING,
            "videos": VIDEO_COLORS,
            "tubelet": str(self.tubelet),
            "num_frames": self.num_frames,
            "fps": str(self.fps),
            "spans": asdict(self.spans),
            "timestamps": self.timestamps,
            "scene_threshold": self.scene_threshold,
            "decoder": self.decoder,
            **({"codec": self.codec.to_json()} if self.codec else {}),
            "filters": asdict(self.filters),
            "limits": asdict(self.limits),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read `to_json`'s value."""
        sizes = cast(list[list[int]], value["sizes"])
        return cls(
            resize=ResizeProtocol(
                sizes=tuple((height, width) for height, width in sizes), kernel=cast(Kernel, value["kernel"])
            ),
            tubelet=Tubelet.parse(cast(str, value["tubelet"])),
            num_frames=cast(int, value["num_frames"]),
            fps=Fraction(cast(str, value["fps"])),
            spans=SpanPolicy(**cast(dict[str, Any], value["spans"])),
            timestamps=cast(str | None, value["timestamps"]),
            scene_threshold=cast(float, value["scene_threshold"]),
            decoder=cast(Decoder, value["decoder"]),
            codec=PixelCodec(**cast(dict[str, Any], value["codec"])) if "codec" in value else None,
            filters=Filters(**cast(dict[str, Any], value["filters"])),
            limits=MediaLimits(**cast(dict[str, Any], value["limits"])),
        )
