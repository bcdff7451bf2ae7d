"""The index knows where each clip lies, and opens only a finished store of a known version that is whole."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import metadata
from vitok.latents import index
from vitok.latents.index import LatentIndex, LatentShard, read_index


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
    assert [(shard.grid, shard.num_clips) for shard in found.shards] == [
        ((1, 2, 2), 5),
        ((2, 2, 3), 3),
        ((1, 2, 2), 7),
        ((2, 2, 3), 4),
    ]
    assert found.offsets == (0, 5, 8, 15, 19)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_positions_and_places_are_one_to_one(counts):
    shards = tuple(LatentShard(path="", grid=(1, 1, 1), num_clips=count) for count in counts)
    offsets = tuple(sum(counts[:place]) for place in range(len(counts) + 1))
    found = LatentIndex(document={}, shards=shards, offsets=offsets)
    places = [found.locate(position) for position in range(sum(counts))]
    assert places == [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    for outside in (-1, sum(counts)):
        with pytest.raises(IndexError, match=f"position {outside} is outside a store of {sum(counts)} clips"):
            found.locate(outside)


def test_a_store_without_clips_is_a_store(tmp_path, write_latent_store):
    found = read_index(write_latent_store(tmp_path / "empty", shards=[]).url)
    assert (found.shards, found.offsets) == ((), (0,))
    with pytest.raises(IndexError):
        found.locate(0)


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
