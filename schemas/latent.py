"""Latent shards: the columns, and how a cell becomes an array.

Latent columns, in the order of `latent_columns`: `mean`, and where asked `logvar`; then, where asked, the same of the
clip mirrored left-right, `mean_flip` and `logvar_flip`: the posterior of pixels flipped along the width, which is not
the posterior flipped.

Parquet: one row a clip; latent columns are fixed_size_binary cells, PLAIN and uncompressed, because that reads ten
times faster than lists and holds bfloat16 exactly. A cell is the C-ordered array [T', H', W', K] of the bucket; shape
and dtype stand in the field's metadata::

    torch.frombuffer(cell, dtype=torch.float16).reshape(shape)

WebDataset: KEY.COLUMN.npy for each latent column, arrays of the same shape, and KEY.json with the other columns. numpy
has no bfloat16: there the array is uint16, the same 16 bits, and the JSON's `latent_dtype` says "bfloat16".
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from schemas.clip import ClipMetadata

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
    pa.field("pixel_aspect", pa.float64(), nullable=False),
    pa.field("color", pa.string(), nullable=False),
    pa.field("interlaced", pa.bool_(), nullable=False),
    pa.field("crop_left", pa.float64(), nullable=False),
    pa.field("crop_top", pa.float64(), nullable=False),
    pa.field("crop_right", pa.float64(), nullable=False),
    pa.field("crop_bottom", pa.float64(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("caption", pa.string()),
)
"""The columns of `schemas.clip.ClipMetadata`, in its order; its pass-through `columns` follow, each a column."""

COLUMN_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "json": pa.string(),  # canonical JSON text: lists, objects, and columns of several types
}
"""Arrow types of pass-through columns by the name that stands in `store.json`; all are nullable."""

FLIP_SUFFIX = "_flip"
"""Ends the name of a latent column of the mirrored clip."""


def latent_columns(*, logvar: bool, flip: bool) -> tuple[str, ...]:
    """Names of a store's latent columns, in their order.

    Args:
        logvar: With the log variance beside the mean.
        flip: With the same of the mirrored clip.

    >>> latent_columns(logvar=True, flip=True)
    ('mean', 'logvar', 'mean_flip', 'logvar_flip')
    """
    names = ("mean", "logvar") if logvar else ("mean",)
    return (*names, *(name + FLIP_SUFFIX for name in names)) if flip else names


TAKEN_COLUMNS = frozenset(
    [
        *(field.name for field in CLIP_COLUMNS),
        *latent_columns(logvar=True, flip=True),
        "columns",
        "latent_dtype",
    ]
)
"""Names that no pass-through column may have."""


def clip_schema(passed: Mapping[str, str]) -> pa.Schema:
    """Columns of a clip: `CLIP_COLUMNS`, then the pass-through columns.

    Args:
        passed: Name to type, one of `COLUMN_TYPES`, as the clip store's `store.json` has it under "columns".
    """
    return pa.schema([*CLIP_COLUMNS, *(pa.field(name, COLUMN_TYPES[kind]) for name, kind in passed.items())])


def clip_row(metadata: ClipMetadata, passed: Mapping[str, str]) -> dict[str, object]:
    """A row of `clip_schema`."""
    row = metadata.to_json()
    del row["columns"]
    return row | {name: _cell(metadata.columns.get(name), kind) for name, kind in passed.items()}


def latent_schema(*, passed: Mapping[str, str], shape: Sequence[int], dtype: str, columns: Sequence[str]) -> pa.Schema:
    """Schema of a Parquet latent shard.

    Args:
        passed: See `clip_schema`.
        shape: [T', H', W', K] of the bucket.
        dtype: One of `LATENT_DTYPES`.
        columns: See `latent_columns`.
    """
    size = LATENT_DTYPES[dtype]
    for length in shape:
        size *= length
    metadata = {"dtype": dtype, "shape": json.dumps(list(shape)), "layout": LATENT_LAYOUT}
    return pa.schema([*clip_schema(passed), *(pa.field(name, pa.binary(size), False, metadata) for name in columns)])


def _cell(value: object, kind: str) -> object:
    """A pass-through value as its column's type holds it."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return float(value) if kind == "float64" and isinstance(value, int) else value
