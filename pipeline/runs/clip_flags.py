"""The flags that make clips of media, in groups, and the protocol they make: of every job that takes media."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from pipeline.media.bucket import aspect_sizes, parse_sizes
from pipeline.media.columns import ColumnNames
from pipeline.media.guard import MediaLimits
from pipeline.media.resize import Kernel, ResizeProtocol
from pipeline.media.retry import RetryPolicy
from pipeline.media.span import SpanPolicy, parse_fps
from pipeline.stages.protocol import ClipProtocol, Decoder, Filters
from pipeline.store.clipshard import PixelCodec
from vitok.config import Tubelet


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFlags:
    """How lists and tables of media are read; what is not given is found by the usual names."""

    media_column: str | None = None
    """Column with the media: bytes, a path or a URL."""
    caption_column: str | None = None
    """Column with the caption."""
    label_column: str | None = None
    """Column with the label."""
    media_kind: Literal["image", "video"] | None = None
    """What the entries of a list are whose names do not say it."""
    labels_from_folders: bool = False
    """The label of a file is the name of its folder."""

    def column_names(self) -> ColumnNames:
        """The same for the listing."""
        return ColumnNames(
            media=self.media_column, caption=self.caption_column, label=self.label_column, kind=self.media_kind
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadFlags:
    """How long failing servers and disks are borne with; changes no byte of what they give in the end."""

    read_attempts: int = 4
    """Times that a read is tried before its media is rejected as `unreadable`."""
    read_backoff_s: float = 0.5
    """Wait before the second attempt; each further one waits twice as long, to 20 s."""
    read_timeout_s: float = 60.0
    """Without a byte from an HTTP server, after which an attempt has failed."""

    def policy(self) -> RetryPolicy:
        """The same for who opens media."""
        return RetryPolicy(
            attempts=self.read_attempts,
            base_seconds=self.read_backoff_s,
            max_seconds=max(20.0, self.read_backoff_s),
            timeout_seconds=self.read_timeout_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanFlags:
    """Which clips of a video are taken."""

    clips: Literal["all", "count", "random", "around"] = "all"
    """all: one after the other; count: `--clips-per-media`, evenly spread; random: as many, anywhere; around: one
    about each time in `--timestamp-column`."""
    clips_per_media: int = 1
    """For count and random."""
    seed: int = 0
    """For random."""
    timestamp_column: str | None = None
    """Column with a time in seconds, or a list of them."""
    scene_threshold: float = 0.0
    """0 to 1: where more than this changes between two frames a new shot begins, and no clip spans the cut; 0.3 is a
    good value, 0 looks for none."""
    decoder: Decoder = "pyav"
    """What decodes videos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFlags:
    """How clips are made of media."""

    resolution: int = 256
    """Side of a clip in pixels: the short side is resized to it, then the centre is cut out."""
    sizes: str = ""
    """Sizes in place of the square, such as 256x256,192x320 (height x width): a media takes that of nearest shape."""
    bucket_tokens: int = 0
    """Sizes in place of the square: all shapes from 1:2 to 2:1 whose frames have at most this many tokens."""
    num_frames: int = 16
    """Frames of a video's clip: 1, or a multiple of the tubelet's frames and more than one tubelet."""
    fps: str = "8"
    """Frames a second of a video's clip, such as 8, 7.5 or 30000/1001."""
    kernel: Kernel = "bilinear"
    """Filter of the resize; the paper's is bilinear."""
    inputs: InputFlags = field(default_factory=InputFlags)
    spans: SpanFlags = field(default_factory=SpanFlags)
    filters: Filters = field(default_factory=Filters)
    limits: MediaLimits = field(default_factory=MediaLimits)
    reads: ReadFlags = field(default_factory=ReadFlags)

    def __post_init__(self) -> None:
        if self.sizes and self.bucket_tokens:
            raise ValueError("--sizes and --bucket-tokens: got both, expected one: a list, or a budget it is made from")
        if not 0 <= self.spans.scene_threshold < 1:
            raise ValueError(f"--scene-threshold: got {self.spans.scene_threshold}, expected 0 (off) to less than 1")
        if (self.spans.clips == "around") != (self.spans.timestamp_column is not None):
            raise ValueError("--clips around and --timestamp-column: expected both or neither")
        self.reads.policy()

    def clip_protocol(self, tubelet: Tubelet, codec: PixelCodec | None) -> ClipProtocol:
        """What the flags make of media.

        Args:
            tubelet: That the clips are to be cut into.
            codec: Of clips that are stored.

        Raises:
            ValueError: A flag is out of its range, or does not go with the tubelet.
        """
        if self.resolution < 1 or self.resolution % tubelet.patch:
            raise ValueError(
                f"--resolution: got {self.resolution}, expected a multiple of the tubelet's patch {tubelet.patch}"
            )
        if self.num_frames != 1 and (self.num_frames % tubelet.frames or self.num_frames == tubelet.frames):
            # At exactly one tubelet a clip would share its grid with images, and a bucket holds one shape.
            raise ValueError(
                f"--num-frames: got {self.num_frames}, expected 1 or a multiple of the tubelet's {tubelet.frames} "
                f"frames of at least {2 * tubelet.frames}"
            )
        if self.sizes:
            sizes = parse_sizes(self.sizes, tubelet)
        elif self.bucket_tokens:
            sizes = aspect_sizes(tokens=self.bucket_tokens, tubelet=tubelet)
        else:
            sizes = ((self.resolution, self.resolution),)
        return ClipProtocol(
            resize=ResizeProtocol(sizes=sizes, kernel=self.kernel),
            tubelet=tubelet,
            num_frames=self.num_frames,
            fps=parse_fps(self.fps),
            spans=SpanPolicy(kind=self.spans.clips, count=self.spans.clips_per_media, seed=self.spans.seed),
            timestamps=self.spans.timestamp_column,
            scene_threshold=self.spans.scene_threshold,
            decoder=self.spans.decoder,
            codec=codec,
            filters=self.filters,
            limits=self.limits,
        )

    def changed(self) -> list[str]:
        """The flags that do not stand at their defaults, as they are written on the command line."""
        defaults, own = _leaves(asdict(ClipFlags())), _leaves(asdict(self))
        return [f"--{name.replace('_', '-')}" for name, value in defaults.items() if own[name] != value]


def _leaves(flags: Mapping[str, object]) -> dict[str, object]:
    """The flags of groups beside those outside, as the command line has them."""
    leaves: dict[str, object] = {}
    for name, value in flags.items():
        leaves |= _leaves(value) if isinstance(value, Mapping) else {name: value}
    return leaves
