"""Audit shards: one row a clip, with what was measured of its reconstruction.

Columns: those of the clip (`schemas.latent.clip_schema`), `size_bytes` of what stood for the clip in between, one
float64 column a metric that is a number of a clip, and one column a set of features: fixed_size_binary, the C-ordered
float32 array [vectors, width]; its field's metadata has dtype and shape, as that of a latent.

A shard holds clips of one shape, and has no column that clips of its shape have no value in.
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from schemas.latent import clip_schema

SIZE_COLUMN = "size_bytes"
_FLOAT32_BYTES = 4


def audit_schema(
    *, passed: Mapping[str, str], metrics: Sequence[str], features: Mapping[str, tuple[int, int]]
) -> pa.Schema:
    """Schema of an audit's Parquet shard.

    Args:
        passed: See `schemas.latent.clip_schema`.
        metrics: Names of float64 columns.
        features: Vectors of a clip and width of one, by name.
    """
    return pa.schema(
        [
            *clip_schema(passed),
            pa.field(SIZE_COLUMN, pa.int64(), nullable=False),
            *(pa.field(name, pa.float64(), nullable=False) for name in metrics),
            *(_feature_field(name, shape) for name, shape in features.items()),
        ]
    )


def _feature_field(name: str, shape: tuple[int, int]) -> pa.Field:
    vectors, width = shape
    metadata = {"dtype": "float32", "shape": json.dumps([vectors, width])}
    return pa.field(name, pa.binary(vectors * width * _FLOAT32_BYTES), False, metadata)
