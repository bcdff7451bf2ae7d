"""Latent shards hold every bit, and the same clips are the same bytes."""

import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.store.latentshard import ParquetLatentWriter, TarLatentWriter
from schemas.latent import CLIP_COLUMNS, ROW_GROUP_ROWS, latent_columns, latent_schema
from vitok.latents.shards import read_rows

SHAPE = (2, 3, 4, 5)
COLUMNS = latent_columns(logvar=True, flip=True)
DTYPES = ("float16", "bfloat16", "float32")
FORMATS = ("parquet", "tar")
# Arrays as the writers take them: numpy has no bfloat16, so its bits travel as uint16.
NUMPY_DTYPES = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32}


def latents(dtype, count):
    """Arrays of random bits, subnormals and NaN among them: nothing may be normalised away."""
    generator = np.random.default_rng(7)
    item_bytes = 4 if dtype == "float32" else 2
    size = int(np.prod(SHAPE)) * item_bytes
    return [
        {name: np.frombuffer(generator.bytes(size), NUMPY_DTYPES[dtype]).reshape(SHAPE) for name in COLUMNS}
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def write(clip_metadata):
    """Writes clips "clip-0", "clip-1", ... to bytes."""

    def write(form, dtype, values):
        stream = io.BytesIO()
        if form == "tar":
            writer = TarLatentWriter(stream, passed=PASSED, columns=COLUMNS, dtype=dtype)
        else:
            writer = ParquetLatentWriter(
                stream, latent_schema(passed=PASSED, shape=SHAPE, dtype=dtype, columns=COLUMNS), passed=PASSED
            )
        for number, arrays in enumerate(values):
            writer.write(
                clip_metadata(f"clip-{number}", (4, 8, 8, 3), columns={"score": number, "tags": ["ü", None]}), arrays
            )
        writer.close()
        assert writer.num_clips == len(values)
        return stream.getvalue()

    return write


def read(form, dtype, data):
    rows = read_rows(io.BytesIO(data), path=f"x.{form}", shape=SHAPE, dtype=dtype, latent_columns=COLUMNS)
    return list(rows)


PASSED = {"score": "float64", "tags": "json", "absent": "bool"}
CASES = list(itertools.product(FORMATS, DTYPES))


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_latents_come_back_to_the_bit(write, form, dtype):
    values = latents(dtype, 7)
    (rows,) = read(form, dtype, write(form, dtype, values))
    for name in COLUMNS:
        assert rows.latents[name].dtype == getattr(torch, dtype)
        assert rows.latents[name].shape == (7, *SHAPE)
        found = rows.latents[name].contiguous().view(torch.uint8).numpy().tobytes()
        assert found == b"".join(arrays[name].tobytes() for arrays in values)


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_the_same_clips_are_the_same_bytes(write, form, dtype):
    assert write(form, dtype, latents(dtype, 5)) == write(form, dtype, latents(dtype, 5))


@pytest.mark.parametrize("form", FORMATS)
def test_the_metadata_comes_back(write, clip_metadata, form):
    (rows,) = read(form, "float16", write(form, "float16", latents("float16", 3)))
    assert list(rows.columns) == [*(column.name for column in CLIP_COLUMNS), *PASSED]
    for number in range(3):
        expected = clip_metadata(f"clip-{number}", (4, 8, 8, 3)).to_json()
        del expected["columns"]
        expected |= {"score": float(number), "tags": '["ü", null]', "absent": None}
        assert {name: values[number] for name, values in rows.columns.items()} == expected


@pytest.mark.parametrize("count", [1, ROW_GROUP_ROWS - 1, ROW_GROUP_ROWS, ROW_GROUP_ROWS + 1, 2 * ROW_GROUP_ROWS])
def test_row_groups_are_full_but_for_the_last(write, count):
    file = pq.ParquetFile(io.BytesIO(write("parquet", "float16", latents("float16", 1) * count)))
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert sum(sizes) == count
    assert all(size == ROW_GROUP_ROWS for size in sizes[:-1])
    assert 1 <= sizes[-1] <= ROW_GROUP_ROWS


def test_cells_stand_in_the_file_as_they_are(write):
    values = latents("bfloat16", 3)
    data = write("parquet", "bfloat16", values)
    assert b"".join(arrays["mean"].tobytes() for arrays in values) in data
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(len(CLIP_COLUMNS) + len(PASSED))
    assert (column.path_in_schema, column.compression) == ("mean", "UNCOMPRESSED")
    assert "RLE_DICTIONARY" not in column.encodings


def test_a_file_says_itself_how_to_read_a_cell(write):
    values = latents("float32", 1)
    table = pq.read_table(io.BytesIO(write("parquet", "float32", values)))
    field = table.schema.field("logvar")
    shape = json.loads(field.metadata[b"shape"])
    found = np.frombuffer(table["logvar"][0].as_py(), field.metadata[b"dtype"].decode()).reshape(shape)
    assert found.tobytes() == values[0]["logvar"].tobytes()


def test_a_tar_is_plain_npy_and_json(write):
    values = latents("bfloat16", 2)
    with tarfile.open(fileobj=io.BytesIO(write("tar", "bfloat16", values))) as tar:
        entries = tar.getmembers()
        extensions = ["mean.npy", "logvar.npy", "mean_flip.npy", "logvar_flip.npy", "json"]
        assert [e.name for e in entries[:5]] == [f"clip-0.{extension}" for extension in extensions]
        assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o444)}
        array = np.load(io.BytesIO(tar.extractfile("clip-1.mean.npy").read()), allow_pickle=False)
        assert array.dtype == np.uint16
        assert np.array_equal(array, values[1]["mean"])
        assert json.load(tar.extractfile("clip-1.json"))["latent_dtype"] == "bfloat16"


def test_a_latent_of_another_shape_is_not_written(write):
    wrong = [{name: np.zeros((1, 1, 1, 5), np.float16) for name in COLUMNS}]
    with pytest.raises((ValueError, TypeError), match=r"20|240|40"):
        write("parquet", "float16", wrong)


def test_arrays_that_do_not_lie_in_one_block_are_written_as_they_look(write):
    values = latents("float16", 1)
    strided = [{name: array[::-1, :, ::-1] for name, array in values[0].items()}]
    packed = [{name: np.ascontiguousarray(array) for name, array in strided[0].items()}]
    for form in FORMATS:
        assert write(form, "float16", strided) == write(form, "float16", packed)
    columns_first = [{name: np.asfortranarray(array) for name, array in packed[0].items()}]
    for form in FORMATS:
        assert write(form, "float16", columns_first) == write(form, "float16", packed)
