"""Shard files of a remote store on this node's disk: bounded, shared by its processes, safe to be killed in.

A file is named by the sha256 that the store's index gives it, so one folder serves any number of stores. It is written
under another name, checked, and renamed; who wants the same one waits at a lock that the kernel drops when its holder
dies. What was not used for longest goes first, and goes by name only: who has it mapped reads on, and its room on the
disk is free once the last one is done.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from vitok.latents.index import LatentShard

_PIECE_BYTES = 2**22
_WAIT_SECONDS = 0.02
_PART = ".part"
_NAME = re.compile(r"[0-9a-f]{64}\.(?:parquet|tar)(?:\.part)?")
"""What is ours in the folder; nothing else is ever removed."""


class Source(Protocol):
    """Where the shards of a store are."""

    def open_stream(self, path: str) -> BinaryIO:
        """A file of the store, to be read from the first byte to the last."""


class ShardCache:
    """A folder of shard files, of at most so many bytes."""

    def __init__(self, folder: str, *, limit_bytes: int) -> None:
        """Use a folder, made where it is absent.

        Raises:
            ValueError: The limit is not above 0.
        """
        if limit_bytes < 1:
            raise ValueError(f"cache_bytes: got {limit_bytes}, expected at least 1")
        self._folder = Path(folder)
        self._limit_bytes = limit_bytes
        self._locks = self._folder / "locks"
        self._locks.mkdir(parents=True, exist_ok=True)

    def open(self, shard: LatentShard, source: Source) -> BinaryIO:
        """The shard's file; fetched first where it is not there.

        Args:
            shard: Which.
            source: Where it comes from.

        Raises:
            ValueError: What came is not what the index says, or it is larger than the whole cache may be.
        """
        path = self._folder / (shard.sha256 + Path(shard.path).suffix)
        stream = self._held(path, shard)
        if stream is not None:
            return stream
        if shard.size_bytes > self._limit_bytes:
            raise ValueError(
                f"{shard.path}: has {shard.size_bytes} bytes, and the cache may hold {self._limit_bytes}: "
                "raise cache_bytes"
            )
        # A lock file for every two hex digits: their number stays bounded, and few shards wait for another's.
        with self._locked(shard.sha256[:2]):
            stream = self._held(path, shard)
            if stream is not None:
                return stream
            part = path.with_suffix(path.suffix + _PART)
            while not self._take_room(part, shard.size_bytes):
                time.sleep(_WAIT_SECONDS)  # others are fetching all that there is room for
            self._fetch(shard, source, part)
            stream = part.open("rb")  # before others see its name, and may remove it
            with self._locked("room"):  # who counts the folder while a name changes may see neither
                part.rename(path)
            return stream

    def _held(self, path: Path, shard: LatentShard) -> BinaryIO | None:
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(stream.fileno()).st_size != shard.size_bytes:
            stream.close()
            return None  # somebody cut it off: it comes again
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return stream

    def _fetch(self, shard: LatentShard, source: Source, part: Path) -> None:
        digest = hashlib.sha256()
        with source.open_stream(shard.path) as remote, part.open("r+b") as local:
            while piece := remote.read(_PIECE_BYTES):
                digest.update(piece)
                local.write(piece)
            local.flush()
            os.fsync(local.fileno())
        if digest.hexdigest() != shard.sha256:
            part.unlink()
            raise ValueError(f"{shard.path}: sha256 is {digest.hexdigest()}, the index says {shard.sha256}: damaged")

    def _take_room(self, part: Path, size_bytes: int) -> bool:
        """Make a file of so many bytes, which count from now on; False: there is no room for it yet."""
        with self._locked("room"):
            part.unlink(missing_ok=True)
            if not self._make_room(size_bytes, mine=part.name[:2]):
                return False
            part.touch()
            os.truncate(part, size_bytes)
        return True

    def _make_room(self, size_bytes: int, *, mine: str) -> bool:
        """Remove files until so many bytes more are within the limit; those that a killed process left too.

        Args:
            size_bytes: That are to come.
            mine: The lock that is held for them.

        Returns:
            Whether they are. What is being fetched cannot be removed.
        """
        found = []
        for entry in os.scandir(self._folder):
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        excess = sum(size for _, size, _ in found) + size_bytes - self._limit_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            if path.suffix == _PART and path.name[:2] != mine:
                # Its writer holds the lock: if nobody does, nobody will go on with it.
                with contextlib.suppress(BlockingIOError), self._locked(path.name[:2], wait=False):
                    path.unlink(missing_ok=True)
                    excess -= size
            else:
                path.unlink(missing_ok=True)
                excess -= size
        return excess <= 0

    @contextlib.contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[None]:
        with (self._locks / name).open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
