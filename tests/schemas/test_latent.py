"""A latent cell holds its array and no more; the clip's columns are the clip's metadata."""

import json
from dataclasses import fields

import pyarrow as pa
import pytest

from schemas.clip import ClipMetadata
from schemas.latent import CLIP_COLUMNS, LATENT_DTYPES, TAKEN_COLUMNS, latent_columns, latent_schema


def test_clip_columns_are_the_metadata_in_its_order():
    assert [column.name for column in CLIP_COLUMNS] + ["columns"] == [field.name for field in fields(ClipMetadata)]


def test_a_column_is_nullable_exactly_where_the_metadata_may_be_none():
    optional = [field.name for field in fields(ClipMetadata) if "None" in str(field.type)]
    assert [column.name for column in CLIP_COLUMNS if column.nullable] == optional


@pytest.mark.parametrize(("dtype", "item_bytes"), LATENT_DTYPES.items())
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 16, 16, 16), (1, 3, 5, 7)])
def test_a_cell_has_the_bytes_of_its_array_and_says_its_shape(dtype, item_bytes, shape):
    schema = latent_schema(passed={}, shape=shape, dtype=dtype, columns=("mean", "logvar"))
    for name in ("mean", "logvar"):
        field = schema.field(name)
        assert field.type == pa.binary(item_bytes * shape[0] * shape[1] * shape[2] * shape[3])
        assert field.metadata[b"dtype"].decode() == dtype
        assert tuple(json.loads(field.metadata[b"shape"])) == shape
        assert field.metadata[b"layout"] == b"T H W K"


@pytest.mark.parametrize("logvar", [False, True])
def test_the_mirrored_view_doubles_the_columns_and_follows_them(logvar):
    plain = latent_columns(logvar=logvar, flip=False)
    assert plain == (("mean", "logvar") if logvar else ("mean",))
    both = latent_columns(logvar=logvar, flip=True)
    assert both[: len(plain)] == plain
    assert both[len(plain) :] == tuple(f"{name}_flip" for name in plain)


def test_no_pass_through_column_may_take_the_name_of_another():
    assert set(latent_columns(logvar=True, flip=True)) < TAKEN_COLUMNS
    assert {column.name for column in CLIP_COLUMNS} < TAKEN_COLUMNS


def test_the_schema_survives_a_file_footer():
    schema = latent_schema(passed={}, shape=(1, 2, 2, 4), dtype="bfloat16", columns=("mean",))
    assert pa.ipc.read_schema(schema.serialize()).equals(schema, check_metadata=True)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(KeyError, match="float8"):
        latent_schema(passed={}, shape=(1, 1, 1, 1), dtype="float8", columns=("mean",))
