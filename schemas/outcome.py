"""Outcomes: what became of a planned clip, why, and the rows on disk that say so."""

from enum import StrEnum

import pyarrow as pa


class Outcome(StrEnum):
    """The three ends of a planned clip; planned = stored + filtered + rejected, always."""

    STORED = "stored"
    FILTERED = "filtered"
    REJECTED = "rejected"


class Stage(StrEnum):
    """Where in the chain a clip ended."""

    PLAN = "plan"
    DECODE = "decode"
    ENCODE = "encode"
    RECONSTRUCT = "reconstruct"


class Reason(StrEnum):
    """Why a clip was filtered or rejected; the value is what stands in the `reason` column."""

    EMPTY_FILE = "empty_file"
    """The media holds no bytes."""
    UNKNOWN_FORMAT = "unknown_format"
    """No decoder recognises the bytes."""
    CORRUPT = "corrupt"
    """A decoder recognised the media and failed while reading it (truncation, bad data)."""
    NO_VIDEO_STREAM = "no_video_stream"
    """The container opens and holds no picture."""
    SHORT_STREAM = "short_stream"
    """The stream ends before the last frame of the planned clip."""
    TOO_SHORT = "too_short"
    """Filtered: the media lasts less than one clip, or than asked."""
    TOO_LARGE = "too_large"
    """The media exceeds a limit on bytes, pixels or frames."""
    MISSING = "missing"
    """There is no such file, or it may not be read."""
    UNREADABLE = "unreadable"
    """The file system or server failed to give the bytes, at each of several attempts (transient)."""
    DECODER_CRASHED = "decoder_crashed"
    """The process that decoded the media died of it."""
    DECODER_TIMEOUT = "decoder_timeout"
    """The media took longer than its limit of wall time (transient: the machine may have been busy)."""
    TOO_SMALL = "too_small"
    """Filtered: the short side is under the asked minimum."""
    ASPECT = "aspect"
    """Filtered: longer and thinner than asked."""
    TOO_LONG = "too_long"
    """Filtered: the media lasts longer than asked."""
    NEAR_BLACK = "near_black"
    """Filtered: the clip is almost black throughout."""
    FROZEN = "frozen"
    """Filtered: nothing moves in the clip."""
    DUPLICATE = "duplicate"
    """Filtered: the bytes of an earlier media of the run."""
    NEAR_DUPLICATE = "near_duplicate"
    """Filtered: looks like an earlier media of the run, by perceptual hash."""
    NONFINITE_LATENT = "nonfinite_latent"
    """The tokenizer made NaN or Inf of the clip, or of its latent in the stored dtype."""
    MISSING_LATENT = "missing_latent"
    """The latent store that is audited has no latent of the clip."""
    NONFINITE_RECONSTRUCTION = "nonfinite_reconstruction"
    """The tokenizer decoded the clip's latent to NaN or Inf."""


TRANSIENT_REASONS = frozenset({Reason.UNREADABLE, Reason.DECODER_TIMEOUT})
"""Reasons that another attempt may cure."""

FILTER_REASONS = frozenset(
    {
        Reason.TOO_SHORT,
        Reason.TOO_SMALL,
        Reason.ASPECT,
        Reason.TOO_LONG,
        Reason.NEAR_BLACK,
        Reason.FROZEN,
        Reason.DUPLICATE,
        Reason.NEAR_DUPLICATE,
    }
)
"""Reasons of sound media that were not wanted: `filtered`, where every other reason is `rejected`."""


def outcome_of(reason: Reason) -> Outcome:
    """What a clip that was not stored is counted as."""
    return Outcome.FILTERED if reason in FILTER_REASONS else Outcome.REJECTED


OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # the clip's key, or the media's stem where no clip was planned
        pa.field("media_uri", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64()),  # null for an image
        pa.field("end_seconds", pa.float64()),  # exclusive
        pa.field("outcome", pa.string(), nullable=False),  # "filtered" or "rejected"
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("transient", pa.bool_(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""Columns of `outcomes/*.parquet`: one row for each planned clip that was not stored."""
