"""WebDataset tars, read forward once: samples by key, nothing lost in silence, no name that could leave its folder."""

import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

_KEY = re.compile(r"[A-Za-z0-9_-]{1,96}")


def read_samples(stream: BinaryIO, *, where: str) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Key and members by extension of each sample of a tar shard, in order.

    Raises:
        ValueError: The tar is damaged or cut off, or a member is not KEY.EXTENSION with a safe key.
    """
    current: str | None = None
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                key, dot, extension = entry.name.partition(".")
                if not entry.isfile() or not dot or _KEY.fullmatch(key) is None:
                    raise ValueError(f"{where}: member {entry.name!r} is not KEY.EXTENSION with a safe key")
                if current is not None and key != current:
                    yield current, members
                    members = {}
                current = key
                content = tar.extractfile(entry)
                assert content is not None
                members[extension] = content.read()
            # tarfile takes a damaged or missing header for the end; the true end is two blocks of zeros.
            assert tar.fileobj is not None
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"{where}: not a whole tar: it ends in the midst of its members")
    except tarfile.TarError as error:
        raise ValueError(f"{where}: not a whole tar: {error}") from error
    if current is not None:
        yield current, members
