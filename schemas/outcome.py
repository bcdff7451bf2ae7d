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
    """The media lasts less than one clip (filtered, not rejected)."""
    TOO_LARGE = "too_large"
    """The media exceeds a limit on bytes, pixels or frames."""
    UNREADABLE = "unreadable"
    """The file system failed to give the bytes (the only transient reason so far)."""
    NONFINITE_LATENT = "nonfinite_latent"
    """The tokenizer made NaN or Inf of the clip, or of its latent in the stored dtype."""
    NONFINITE_RECONSTRUCTION = "nonfinite_reconstruction"
    """The tokenizer decoded the clip's latent to NaN or Inf."""


TRANSIENT_REASONS = frozenset({Reason.UNREADABLE})
"""Reasons that another attempt may cure."""

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
