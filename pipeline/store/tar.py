"""Tars whose bytes are a function of their members alone: USTAR, mtime 0, no user or group, mode 0444."""

import io
import tarfile
from collections.abc import Mapping
from typing import BinaryIO


class TarWriter:
    """Appends WebDataset samples to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        # Not webdataset's writer: it imports torch, a second and 300 MB for every worker.
        self._tar = tarfile.TarFile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample: the files KEY.EXTENSION, in the mapping's order."""
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            info.mode = 0o444
            self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        """Write the end of the tar; the stream stays open."""
        self._tar.close()
