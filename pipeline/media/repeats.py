"""Repeats: which items of a long sequence stood in it before, found on disk."""

import hashlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

_PARTITIONS = 256
_DIGEST_BYTES = 16
_FLUSH_BYTES = 64 * 2**10
_RECORD = np.dtype([("high", ">u8"), ("low", ">u8"), ("position", ">i8")])


class Repeats:
    """Keys in a temporary folder, by the first byte of their hash; one of 256 parts is in memory at a time.

    24 bytes a key on disk, 16 MiB in memory while keys are added. Two keys of one hash of 128 bits would count as the
    same: with 10^9 keys, a chance of 10^-21.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vitok-repeats-")
        self._buffers = [bytearray() for _ in range(_PARTITIONS)]
        self._added = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the folder."""
        self._folder.cleanup()

    def add(self, key: bytes) -> None:
        """Append an item; its position is the number of items added before."""
        digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()
        buffer = self._buffers[digest[0]]
        buffer += digest + self._added.to_bytes(_RECORD.itemsize - _DIGEST_BYTES, "big")
        self._added += 1
        if len(buffer) >= _FLUSH_BYTES:
            self._flush(digest[0])

    def repeated(self) -> NDArray[np.int64]:
        """Positions, int64 ascending, of items whose key was added before them."""
        found = [np.zeros(0, np.int64)]
        for index in range(_PARTITIONS):
            self._flush(index)
            if not self._path(index).exists():
                continue
            records = np.fromfile(self._path(index), _RECORD)
            # Sorting is stable, and records stand in the order of their positions.
            order = np.lexsort((records["low"], records["high"]))
            records = records[order]
            same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            found.append(records["position"][1:][same].astype(np.int64))
        return np.sort(np.concatenate(found))

    def _flush(self, index: int) -> None:
        if self._buffers[index]:
            with self._path(index).open("ab") as file:
                file.write(self._buffers[index])
            self._buffers[index].clear()

    def _path(self, index: int) -> Path:
        return Path(self._folder.name) / f"{index:02x}"
