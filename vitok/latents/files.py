"""Shard files to bytes: mapped where they lie on this machine's disk, fetched in ranges where they do not."""

import mmap
import os
from collections.abc import Mapping
from typing import BinaryIO, Protocol, cast

import fsspec
import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from vitok.latents.cache import ShardCache
from vitok.latents.index import LatentShard


class ShardFile(Protocol):
    """The bytes of one shard."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes [start, stop), not to be written to."""

    def stream(self) -> BinaryIO:
        """All of them, from the first."""

    def will_need(self, start: int, stop: int) -> None:
        """Have bytes [start, stop) on their way, if that is possible without waiting."""


class MappedFile:
    """A file in this machine's page cache; it stays readable when its name is removed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._map = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `ShardFile`; copies nothing."""
        return np.frombuffer(self._map, dtype=np.uint8, count=stop - start, offset=start)

    def stream(self) -> BinaryIO:
        """See `ShardFile`."""
        return cast(BinaryIO, pa.BufferReader(pa.py_buffer(self._map)))

    def will_need(self, start: int, stop: int) -> None:
        """See `ShardFile`."""
        start -= start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, start, stop - start)


class RemoteFile:
    """A file on any file system."""

    def __init__(self, file_system: fsspec.AbstractFileSystem, path: str) -> None:
        self._file_system = file_system
        self._path = path

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `ShardFile`; one request."""
        return np.frombuffer(self._file_system.cat_file(self._path, start=start, end=stop), dtype=np.uint8)

    def stream(self) -> BinaryIO:
        """See `ShardFile`."""
        return cast(BinaryIO, self._file_system.open(self._path, "rb"))

    def will_need(self, start: int, stop: int) -> None:
        """See `ShardFile`: `read` fetches."""


class ShardFiles:
    """Opens the shards of one store."""

    def __init__(self, url: str, *, cache: ShardCache | None) -> None:
        """Shards under a URL; with a cache, each is brought there first, wherever the store is."""
        self._url = url
        self._cache = cache
        self._opened: Mapping[int, tuple[fsspec.AbstractFileSystem, str]] = {}

    def open(self, shard: LatentShard) -> ShardFile:
        """The shard's bytes.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is not as large as the index says.
        """
        file_system, root = self._file_system()
        if self._cache is not None:
            with self._cache.open(shard, self) as stream:
                return MappedFile(stream)
        path = f"{root}/{shard.path}"
        if isinstance(file_system, LocalFileSystem):
            with open(path, "rb") as stream:  # noqa: PTH123 - fsspec's paths are strings
                _check_size(shard, os.fstat(stream.fileno()).st_size)
                return MappedFile(stream)
        _check_size(shard, file_system.size(path))
        return RemoteFile(file_system, path)

    def open_stream(self, path: str) -> BinaryIO:
        """A file of the store, to be read from the first byte to the last."""
        file_system, root = self._file_system()
        return cast(BinaryIO, file_system.open(f"{root}/{path}", "rb"))

    def _file_system(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # A file system's threads do not outlive a fork: each process has its own.
        if os.getpid() not in self._opened:
            self._opened = {os.getpid(): fsspec.core.url_to_fs(self._url)}
        return self._opened[os.getpid()]


def _check_size(shard: LatentShard, size_bytes: int) -> None:
    if size_bytes != shard.size_bytes:
        raise ValueError(f"{shard.path}: has {size_bytes} bytes, the index says {shard.size_bytes}: damaged")
