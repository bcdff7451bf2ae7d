"""Threads that read one store open each shard once between them, and none that nobody reads."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from vitok.latents.blocks import BlockReader
from vitok.latents.dataset import LatentDataset
from vitok.latents.files import ShardFiles
from vitok.latents.index import read_index
from vitok.latents.store import LatentStore


class CountedFiles(ShardFiles):
    """Remembers what it opened, slowly, as a remote store is."""

    def __init__(self, url, seconds=0.05):
        super().__init__(url, cache=None)
        self.opened = []
        self._seconds = seconds

    def open(self, shard):
        self.opened.append(shard.path)
        time.sleep(self._seconds)
        return super().open(shard)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_threads_open_a_shard_once(tmp_path, write_latent_store, form):
    written = write_latent_store(tmp_path / "latents", form=form, shards=[((1, 1, 1), 20)] * 2)
    files = CountedFiles(written.url)
    reader = BlockReader(read_index(written.url), files, latents=("mean",), columns=("key",))
    with ThreadPoolExecutor(8) as threads:
        blocks = list(threads.map(lambda turn: reader.block(turn % 2, 0, 20, whole=True), range(16)))
    assert len(files.opened) == len(set(files.opened)) == 2
    for turn, block in enumerate(blocks):
        assert np.array_equal(block.latents["mean"], blocks[turn % 2].latents["mean"])


def test_an_epoch_that_is_left_opens_no_more_shards(tmp_path, write_latent_store):
    written = write_latent_store(tmp_path / "latents", form="parquet", shards=[((1, 1, 1), 1)] * 360)
    dataset = LatentStore(written.url).dataset(batch_size=20)
    files = CountedFiles(written.url, seconds=0.2)
    dataset = LatentDataset([replace(source, files=files) for source in dataset.sources], dataset.reading)
    for _ in dataset:
        break
    assert 20 <= len(files.opened) < 200  # those of a few batches, not of all that were planned ahead


def test_a_shard_that_could_not_be_opened_is_tried_again(tmp_path, write_latent_store):
    written = write_latent_store(tmp_path / "latents", form="parquet", shards=[((1, 1, 1), 20)])
    index = read_index(written.url)
    path = tmp_path / "latents" / index.shard(0).path
    path.rename(path.with_suffix(".away"))
    reader = BlockReader(index, ShardFiles(written.url, cache=None), latents=("mean",), columns=())
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            reader.block(0, 0, 20, whole=True)
    path.with_suffix(".away").rename(path)
    assert len(reader.block(0, 0, 20, whole=True).latents["mean"]) == 20
