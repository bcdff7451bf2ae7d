"""Tars whose bytes are a function of their members alone: USTAR, mtime 0, no user or group, mode 0444."""

import tarfile
from collections.abc import Mapping
from typing import BinaryIO


class TarWriter:
    """Appends WebDataset samples to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        # Not webdataset's writer: it imports torch, a second and 300 MB for every worker.
        self._stream = stream
        self._size = 0

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample: the files KEY.EXTENSION, in the mapping's order."""
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            info.mode = 0o444
            self._put(info.tobuf(tarfile.USTAR_FORMAT, "utf-8"), data, bytes(-len(data) % tarfile.BLOCKSIZE))

    def close(self) -> None:
        """Write the end of the tar; the stream stays open."""
        end = 2 * tarfile.BLOCKSIZE
        self._put(bytes(end + -(self._size + end) % tarfile.RECORDSIZE))

    def _put(self, *parts: bytes) -> None:
        for part in parts:
            self._stream.write(part)
            self._size += len(part)
