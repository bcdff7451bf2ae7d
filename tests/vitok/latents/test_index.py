"""The index knows where each clip lies, and opens only a finished store of a known version that is whole."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import metadata
from vitok.latents import index
from vitok.latents.index import LatentIndex, read_index


@pytest.fixture
def url(tmp_path, write_latent_store):
    return write_latent_store(tmp_path / "latents").url


@pytest.fixture
def edit(tmp_path):
    """Changes keys of `store.json`."""

    def edit(**changes):
        path = tmp_path / "latents" / "store.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def test_the_reader_and_the_writer_agree_on_the_names():
    # The reader must not import the schemas: here is where they are held together.
    assert (index.FORMAT, index.FORMAT_VERSION) == (metadata.LATENT_STORE_FORMAT, metadata.FORMAT_VERSION)
    assert (index.STORE_FILE, index.INDEX_FILE) == (metadata.STORE_FILE, metadata.INDEX_FILE)


def test_shards_stand_in_plan_order_without_those_that_stored_nothing(url):
    found = read_index(url)
    shards = [found.shard(number) for number in range(4)]
    assert [(shard.grid, shard.num_clips) for shard in shards] == [
        ((1, 2, 2), 5),
        ((2, 2, 3), 3),
        ((1, 2, 2), 7),
        ((2, 2, 3), 4),
    ]
    assert found.offsets.tolist() == [0, 5, 8, 15, 19]


def test_a_shard_is_what_its_file_is(url):
    found = read_index(url)
    for shard in map(found.shard, range(4)):
        data = (Path(url) / shard.path).read_bytes()
        assert (shard.size_bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "path", ["../x.parquet", "/etc/x.parquet", "a/../../x.tar", "x", ".hidden.tar", "a//x.tar", ""]
)
def test_a_path_that_could_leave_the_store_is_refused(path):
    with pytest.raises(ValueError, match="no shard's names"):
        index_of([3], path=path).shard(0)


def index_of(counts, path="grid=1x1x1/shard-00000000.parquet"):
    files = {"path": [path], "size_bytes": [1], "sha256": ["0" * 64]}
    return LatentIndex(
        document={},
        grids=((1, 1, 1),),
        bucket=np.zeros(len(counts), dtype=np.int64),
        offsets=np.cumsum([0, *counts]),
        files=pa.table({name: values * len(counts) for name, values in files.items()}),
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_positions_and_places_are_one_to_one(counts):
    found = index_of(counts)
    shards, rows = found.locate(np.arange(sum(counts)))
    expected = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    assert list(zip(shards.tolist(), rows.tolist(), strict=True)) == expected
    for outside in (-1, sum(counts)):
        with pytest.raises(IndexError, match=f"position {outside} is outside a store of {sum(counts)} clips"):
            found.locate(np.array([0, outside]))


def test_a_store_without_clips_is_a_store(tmp_path, write_latent_store):
    found = read_index(write_latent_store(tmp_path / "empty", shards=[]).url)
    assert (found.grids, found.offsets.tolist()) == ((), [0])
    with pytest.raises(IndexError):
        found.locate(np.array([0]))


def test_a_folder_without_a_finished_store_is_refused(url, tmp_path):
    (tmp_path / "latents" / "store.json").unlink()
    for place in (url, str(tmp_path / "absent")):
        with pytest.raises(ValueError, match=r"holds no store\.json"):
            read_index(place)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused_and_both_are_named(url, edit, version):
    edit(format_version=version)
    with pytest.raises(ValueError, match=f"version {version!r}, expected 'vitok-latents' version 1"):
        read_index(url)


@pytest.mark.parametrize("name", ["vitok-clips", None])
def test_another_format_is_refused(url, edit, name):
    edit(format=name)
    with pytest.raises(ValueError, match=f"format {name!r}"):
        read_index(url)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_an_index_that_was_changed_is_refused(url, tmp_path, position):
    path = tmp_path / "latents" / "index.parquet"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"index\.parquet is not the index that store\.json was written with"):
        read_index(url)


def test_a_record_that_is_cut_off_is_refused(url, tmp_path):
    path = tmp_path / "latents" / "store.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="latents"):
        read_index(url)


def test_a_program_that_reads_an_index_ends_well(url):
    # pyarrow's table reader leaves threads behind that abort about every second such program at its end.
    code = f"from vitok.latents.index import read_index; read_index({url!r})"
    assert [subprocess.run([sys.executable, "-c", code]).returncode for _ in range(8)] == [0] * 8
