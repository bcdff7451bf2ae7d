"""Cells are the same however a Parquet file holds them; without a copy where they stand one after the other."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from vitok.latents.files import MappedFile, RemoteFile
from vitok.latents.index import LatentShard
from vitok.latents.parquet import ParquetShard

SHAPE = (1, 2, 2, 4)
ROWS = 70
PLAIN = {"compression": "none", "use_dictionary": ["key"], "write_statistics": ["key"]}
FORMS = {
    "plain": PLAIN,
    "with statistics": PLAIN | {"write_statistics": True},
    "pages of a few rows": PLAIN | {"data_page_size": 100, "write_batch_size": 3},
    "second version of pages": PLAIN | {"data_page_version": "2.0"},
    "compressed": PLAIN | {"compression": "zstd"},
    "dictionary": PLAIN | {"use_dictionary": True},
}


@pytest.fixture(scope="module")
def cells():
    return np.random.default_rng(0).integers(0, 256, size=(ROWS, 32), dtype=np.uint8)


def write(cells, path, *, nullable=False, row_group_size=30, **form):
    table = pa.table(
        [
            pa.array([f"k{row}" for row in range(len(cells))]),
            pa.array([cell.tobytes() for cell in cells], pa.binary(32)),
        ],
        schema=pa.schema([pa.field("key", pa.string()), pa.field("mean", pa.binary(32), nullable)]),
    )
    pq.write_table(table, path, row_group_size=row_group_size, **form)


def entry_of(data, num_clips=ROWS):
    return LatentShard(
        path="x.parquet",
        grid=SHAPE[:3],
        num_clips=num_clips,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


@pytest.fixture
def opened(tmp_path):
    def opened(data, **how):
        (tmp_path / "x.parquet").write_bytes(data)
        with (tmp_path / "x.parquet").open("rb") as stream:
            file = MappedFile(stream)
        return ParquetShard(file, entry_of(data, **how), shape=SHAPE, dtype="float16")

    return opened


def written(cells, **how):
    stream = io.BytesIO()
    write(cells, stream, **how)
    return stream.getvalue()


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_cells_are_the_same_however_they_are_held(opened, cells, form, nullable):
    shard = opened(written(cells, nullable=nullable, **FORMS[form]))
    for start, stop in ((0, ROWS), (0, 30), (30, 60), (29, 31), (65, 70), (7, 8)):
        assert np.array_equal(shard.cells("mean", start, stop), cells[start:stop])
        assert shard.table(["key"], start, stop)["key"].to_pylist() == [f"k{row}" for row in range(start, stop)]


def test_plain_cells_are_not_copied(opened, cells):
    shard = opened(written(cells, **PLAIN))
    assert all(not shard.cells("mean", start, start + 10).flags.owndata for start in (0, 30, 60))
    assert not shard.cells("mean", 0, 30).flags.writeable
    first, again = shard.cells("mean", 0, 30), shard.cells("mean", 0, 30)
    assert np.shares_memory(first, again)
    copied = opened(written(cells, **FORMS["compressed"]))
    assert not np.shares_memory(copied.cells("mean", 0, 30), copied.cells("mean", 0, 30))


def test_a_remote_file_is_asked_for_the_row_groups_that_are_needed_alone(cells):
    data = written(cells, **PLAIN)

    class Counting(MemoryFileSystem):
        cachable = False
        asked = 0

        def cat_file(self, path, start=None, end=None, **more):
            Counting.asked += end - start
            return super().cat_file(path, start=start, end=end, **more)

    files = Counting()
    files.pipe_file("/x.parquet", data)
    shard = ParquetShard(RemoteFile(files, "/x.parquet"), entry_of(data), shape=SHAPE, dtype="float16")
    assert np.array_equal(shard.cells("mean", 31, 40), cells[31:40])
    assert 30 * 32 < Counting.asked < 30 * 32 + 64
    files.rm("/x.parquet")


@pytest.mark.parametrize(("shape", "dtype"), [((1, 2, 2, 5), "float16"), (SHAPE, "float32")])
def test_cells_of_another_size_are_refused(tmp_path, cells, shape, dtype):
    data = written(cells, **PLAIN)
    (tmp_path / "x.parquet").write_bytes(data)
    with (tmp_path / "x.parquet").open("rb") as stream:
        shard = ParquetShard(MappedFile(stream), entry_of(data), shape=shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"x\.parquet: latent cells are fixed_size_binary\[32\]"):
        shard.cells("mean", 0, 5)


def test_what_is_not_there_is_named(opened, cells):
    shard = opened(written(cells, **PLAIN))
    for ask in (lambda: shard.cells("logvar", 0, 5), lambda: shard.table(["colour"], 0, 5)):
        with pytest.raises(ValueError, match=r"x\.parquet: has no column '(logvar|colour)'"):
            ask()


def test_another_number_of_clips_is_refused(opened, cells):
    with pytest.raises(ValueError, match=r"x\.parquet: holds 70 clips, the index says 71"):
        opened(written(cells, **PLAIN), num_clips=71)
