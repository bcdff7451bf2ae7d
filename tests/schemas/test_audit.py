"""Columns of an audit's shards."""

import json

import pyarrow as pa

from schemas.audit import audit_schema
from schemas.latent import CLIP_COLUMNS


def test_a_float_column_a_metric_and_a_binary_one_a_set_of_features():
    schema = audit_schema(passed={"score": "float64"}, metrics=("psnr", "ssim"), features={"i3d": (1, 400)})
    assert schema.names[len(CLIP_COLUMNS) :] == ["score", "size_bytes", "psnr", "ssim", "i3d"]
    assert schema.field("ssim").type == pa.float64()
    assert schema.field("i3d").type == pa.binary(1600)
    assert json.loads(schema.field("i3d").metadata[b"shape"]) == [1, 400]
