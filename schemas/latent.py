"""Latent shards: the columns, and how a cell becomes an array.

Parquet: one row a clip; `mean` (and `logvar` where asked) are fixed_size_binary cells, PLAIN and uncompressed, because
that reads ten times faster than lists and holds bfloat16 exactly. A cell is the C-ordered array [T', H', W', K] of the
bucket; shape and dtype stand in the field's metadata::

    torch.frombuffer(cell, dtype=torch.float16).reshape(shape)

WebDataset: KEY.mean.npy (KEY.logvar.npy), arrays of the same shape, and KEY.json with the other columns. numpy has no
bfloat16: there the array is uint16, the same 16 bits, and the JSON's `latent_dtype` says "bfloat16".
"""

import json
from collections.abc import Sequence

import pyarrow as pa

LATENT_DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Bytes of one number by dtype."""

LATENT_LAYOUT = "T H W K"
"""Axes of one latent: time, height, width, channels; channels vary fastest."""

ROW_GROUP_ROWS = 512
"""Rows of a row group: the unit of random access."""

CLIP_COLUMNS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("media_uri", pa.string(), nullable=False),
    pa.field("media_sha256", pa.string(), nullable=False),
    pa.field("clip_index", pa.int64(), nullable=False),
    pa.field("start_seconds", pa.float64()),
    pa.field("end_seconds", pa.float64()),
    pa.field("fps", pa.float64()),
    pa.field("num_frames", pa.int64(), nullable=False),
    pa.field("height", pa.int64(), nullable=False),
    pa.field("width", pa.int64(), nullable=False),
    pa.field("source_height", pa.int64(), nullable=False),
    pa.field("source_width", pa.int64(), nullable=False),
    pa.field("orientation", pa.int64(), nullable=False),
    pa.field("crop_left", pa.float64(), nullable=False),
    pa.field("crop_top", pa.float64(), nullable=False),
    pa.field("crop_right", pa.float64(), nullable=False),
    pa.field("crop_bottom", pa.float64(), nullable=False),
)
"""The columns of `schemas.clip.ClipMetadata`, in its order."""


def latent_schema(*, shape: Sequence[int], dtype: str, columns: Sequence[str]) -> pa.Schema:
    """Schema of a Parquet latent shard.

    Args:
        shape: [T', H', W', K] of the bucket.
        dtype: One of `LATENT_DTYPES`.
        columns: Latent columns: "mean", or "mean" and "logvar".
    """
    size = LATENT_DTYPES[dtype]
    for length in shape:
        size *= length
    metadata = {"dtype": dtype, "shape": json.dumps(list(shape)), "layout": LATENT_LAYOUT}
    latents = [pa.field(name, pa.binary(size), nullable=False, metadata=metadata) for name in columns]
    return pa.schema([*CLIP_COLUMNS, *latents])


def audit_schema(metrics: Sequence[str]) -> pa.Schema:
    """Schema of an audit's Parquet shard: the clip's columns and one float64 column a metric."""
    return pa.schema([*CLIP_COLUMNS, *(pa.field(name, pa.float64(), nullable=False) for name in metrics)])
