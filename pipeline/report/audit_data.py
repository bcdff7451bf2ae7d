"""What an audit's page shows, as the audit found it: candidates, distributions, slices, latents, examples, protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.report.pictures import Triptych


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, and the interval that it lies in."""

    value: float
    low: float | None = None
    """Ends of the interval (`AuditData.intervals` says which); None: it has none."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One line of the table: what gave the clips back, how well, and at what price."""

    name: str
    """Unique in the audit; what slices, latents and examples refer to."""
    kind: Literal["tokenizer", "codec"]
    line: str = ""
    """Of a codec: candidates of the same line ("jpeg") are one codec at several settings; "": it stands alone."""
    detail: str = ""
    """What it is in a few words: "S-B/4x8, 16 channels", "quality 75"."""
    planned: int
    """Clips, = stored + filtered + rejected; only stored ones were measured."""
    stored: int
    filtered: int
    rejected: int
    metrics: Mapping[str, Estimate]
    """By name; what is missing was skipped, and `AuditData.skipped` says why."""
    bytes_per_clip: float | None = None
    """Mean size of what the clip is reduced to: the file of a codec, the stored latent of a tokenizer."""
    floats_per_clip: float | None = None
    """Mean number of values of a latent; None: it has none."""
    gmac_per_clip: float | None = None
    """10⁹ multiply-accumulates of one clip through encoder and decoder; None: not known."""
    clips_per_second: float | None = None
    """Through encoder and decoder; None: not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """How a metric is spread over the clips: histograms of all candidates over the same bins."""

    metric: str
    edges: Sequence[float]
    """[bins + 1], ascending."""
    counts: Mapping[str, Sequence[int]]
    """By candidate, [bins] each: clips whose value lies in [edge, next edge), the last bin with its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRow:
    """The clips of one value of a column, as one candidate gave them back."""

    value: str
    candidate: str
    clips: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The clips divided by one column."""

    column: str
    """"label", "bucket", "source", or a pass-through column."""
    rows: Sequence[SliceRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentHealth:
    """The latents of one candidate, channel by channel, over all values of all clips."""

    candidate: str
    mean: Sequence[float]
    """[K]."""
    std: Sequence[float]
    """[K], of the posterior means."""
    kl: Sequence[float] | None = None
    """[K], nats a latent value, mean over values; None: the bottleneck has no variance."""
    dead: Sequence[int] = ()
    """Channels that say next to nothing, from 0."""
    correlation: Sequence[Sequence[float]] | None = None
    """[K][K], Pearson's; NaN where a channel never varies; None: not measured."""
    nan_count: int = 0
    inf_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditExample:
    """One clip as one candidate gave it back."""

    candidate: str
    key: str
    media_uri: str
    label: str | None = None
    metrics: Mapping[str, float]
    """Per clip, by name."""
    fps: float | None = None
    """Frames a second of a clip; None: an image."""
    pictures: Triptych
    """Of `pipeline.report.pictures.triptych`, which keeps encoded pictures and not the pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A metric that was asked for and not measured, or not of all clips."""

    metric: str
    candidate: str = ""
    """"": for all."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditData:
    """Everything on the page. `pipeline.report.audit.write_audit_page` writes it."""

    clips: str
    """Where the clips are: URL of the store."""
    metrics: Sequence[str]
    """Names, in the order of the columns; the first one says which clips are the worst."""
    candidates: Sequence[Candidate]
    intervals: str = ""
    """What the intervals are, as a sentence: "95 %, bootstrap over clips, 1,000 resamples"; "": there are none."""
    distributions: Sequence[Distribution] = ()
    slices: Sequence[Slice] = ()
    latents: Sequence[LatentHealth] = ()
    examples: Sequence[AuditExample] = ()
    """Any order: the page sorts them, worst first."""
    skipped: Sequence[Skipped] = ()
    protocol_id: str
    protocol: Mapping[str, object]
    """What two audits must agree in to be compared; JSON."""
    record: Mapping[str, object]
    """The audit's whole record as it stands on disk; JSON."""
