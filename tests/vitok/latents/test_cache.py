"""The cache holds whole shards or nothing, keeps its bounds, and takes nothing from who reads it."""

import fcntl
import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitok.latents.cache import ShardCache
from vitok.latents.files import MappedFile
from vitok.latents.index import LatentShard
from vitok.latents.store import LatentStore

SIZE = 1000


class Folder:
    """Shards by path; counts how often each was asked for."""

    def __init__(self, shards):
        self.shards = shards
        self.asked = []

    def open_stream(self, path):
        self.asked.append(path)
        return io.BytesIO(self.shards[path])


def shard_of(number, size=SIZE):
    data = bytes([number]) * size
    entry = LatentShard(
        path=f"grid=1x1x1/shard-{number:08d}.parquet",
        grid=(1, 1, 1),
        num_clips=1,
        size_bytes=size,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return entry, data


@pytest.fixture
def shards():
    return [shard_of(number) for number in range(6)]


@pytest.fixture
def source(shards):
    return Folder({entry.path: data for entry, data in shards})


def held(folder):
    """Bytes of the files in a cache."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def read(cache, entry, source):
    with cache.open(entry, source) as stream:
        return stream.read()


def test_a_shard_is_fetched_once(tmp_path, shards, source):
    cache = ShardCache(str(tmp_path / "cache"), limit_bytes=10 * SIZE)
    for _ in range(3):
        for entry, data in shards:
            assert read(cache, entry, source) == data
    assert source.asked == [entry.path for entry, _ in shards]


def test_what_was_not_used_for_longest_goes_first_and_the_bound_is_kept(tmp_path, shards, source):
    cache = ShardCache(str(tmp_path), limit_bytes=3 * SIZE)
    for number in (0, 1, 2, 0, 3, 0):
        read(cache, shards[number][0], source)
        assert held(tmp_path) <= 3 * SIZE
    assert len(source.asked) == 4
    read(cache, shards[2][0], source)
    assert len(source.asked) == 4
    read(cache, shards[1][0], source)
    assert len(source.asked) == 5


def test_a_shard_that_is_removed_stays_with_who_reads_it(tmp_path, shards, source):
    cache = ShardCache(str(tmp_path), limit_bytes=SIZE)
    with cache.open(shards[0][0], source) as stream:
        mapped = MappedFile(stream)
    for entry, _ in shards[1:]:
        read(cache, entry, source)
    assert not (tmp_path / f"{shards[0][0].sha256}.parquet").exists()
    assert mapped.read(0, SIZE).tobytes() == shards[0][1]


def test_a_shard_larger_than_the_cache_is_refused(tmp_path, shards, source):
    with pytest.raises(ValueError, match=r"has 1000 bytes, and the cache may hold 999: raise cache_bytes"):
        read(ShardCache(str(tmp_path), limit_bytes=SIZE - 1), shards[0][0], source)


def test_what_is_not_what_the_index_says_is_refused_and_not_kept(tmp_path, shards, source):
    cache = ShardCache(str(tmp_path), limit_bytes=10 * SIZE)
    entry, data = shards[0]
    for wrong in (data[:-1], data + b"x", b"x" + data[1:], b""):
        source.shards[entry.path] = wrong
        with pytest.raises(ValueError, match=rf"{entry.path}: sha256 is .* damaged"):
            read(cache, entry, source)
        assert held(tmp_path) == 0
    source.shards[entry.path] = data
    assert read(cache, entry, source) == data


def test_a_file_that_somebody_cut_off_comes_again(tmp_path, shards, source):
    cache = ShardCache(str(tmp_path), limit_bytes=10 * SIZE)
    entry, data = shards[0]
    read(cache, entry, source)
    os.truncate(tmp_path / f"{entry.sha256}.parquet", 10)
    assert read(cache, entry, source) == data


def test_files_of_others_are_left_alone(tmp_path, shards, source):
    (tmp_path / "thesis.parquet").write_bytes(bytes(5 * SIZE))
    cache = ShardCache(str(tmp_path), limit_bytes=SIZE)
    for entry, _ in shards:
        read(cache, entry, source)
    assert (tmp_path / "thesis.parquet").stat().st_size == 5 * SIZE


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_cache import Folder, ShardCache, shard_of

class Killer:
    def __init__(self, data):
        self.pieces = [data[:400]]
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
    def read(self, count):
        if self.pieces:
            return self.pieces.pop()
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly:
    def open_stream(self, path):
        return Killer(shard_of(0)[1])

ShardCache({folder!r}, limit_bytes=3000).open(shard_of(0)[0], Deadly())
"""


def test_a_writer_killed_in_the_midst_leaves_nothing_that_is_read(tmp_path, shards, source):
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    cache = ShardCache(str(tmp_path), limit_bytes=3 * SIZE)
    assert not (tmp_path / f"{shards[0][0].sha256}.parquet").exists()
    # What it left counts, and goes where room is needed.
    assert held(tmp_path) == SIZE
    for entry, data in shards[1:4]:
        assert read(cache, entry, source) == data
        assert held(tmp_path) <= 3 * SIZE
    assert read(cache, shards[0][0], source) == shards[0][1]


def test_what_a_killed_writer_left_under_the_same_lock_is_no_hindrance(tmp_path, shards, source):
    entry, data = shards[0]
    (tmp_path / f"{entry.sha256[:2]}{'0' * 62}.parquet.part").write_bytes(bytes(SIZE))
    assert read(ShardCache(str(tmp_path), limit_bytes=SIZE), entry, source) == data
    assert held(tmp_path) == SIZE


def fetch(folder, results):
    class Slow(Folder):
        def open_stream(self, path):
            time.sleep(0.1)
            return super().open_stream(path)

    entries = [shard_of(number) for number in range(6)]
    source = Slow({entry.path: data for entry, data in entries})
    cache = ShardCache(folder, limit_bytes=10 * SIZE)
    same = all(read(cache, entry, source) == data for entry, data in entries)
    results.put((same, len(source.asked)))


def test_two_processes_fetch_each_shard_once_between_them(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    readers = [context.Process(target=fetch, args=(str(tmp_path), results)) for _ in range(2)]
    for reader in readers:
        reader.start()
    found = [results.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    assert [same for same, _ in found] == [True, True]
    assert sum(asked for _, asked in found) == 6
    results.close()


def test_the_bound_holds_at_every_moment_whoever_fetches(tmp_path, shards, source):
    """A file that changes its name while another thread counts the folder must not escape the count."""
    cache = ShardCache(str(tmp_path / "cache"), limit_bytes=2 * SIZE)

    def fetch_all(first):
        for turn in range(150):
            entry, data = shards[(first + turn * 5) % 6]
            assert read(cache, entry, source) == data

    most = 0
    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(fetch_all, first) for first in (0, 3)]
        while not all(reader.done() for reader in readers):
            with (tmp_path / "cache" / "locks" / "room").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                most = max(most, held(tmp_path / "cache"))
        for reader in readers:
            reader.result()
    assert 0 < most <= 2 * SIZE


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_store_is_read_through_a_cache_smaller_than_itself(tmp_path, write_latent_store, form):
    shards = [((1, 1, 1), 40)] * 6
    written = write_latent_store(tmp_path / "latents", form=form, shards=shards)
    plain = LatentStore(written.url)
    largest = max(plain.index.files.column("size_bytes").to_pylist())
    cached = LatentStore(written.url, cache_dir=str(tmp_path / "cache"), cache_bytes=2 * largest)
    for store in (plain, cached):
        found = sorted(key for batch in store.dataset(batch_size=16, columns=("key",)) for key in batch.columns["key"])
        assert found == sorted(written.keys)
    assert 0 < held(tmp_path / "cache") <= 2 * largest
    assert cached.take([200, 3]).columns == plain.take([200, 3]).columns
    assert [batch.columns for batch in cached.batches(50)] == [batch.columns for batch in plain.batches(50)]
