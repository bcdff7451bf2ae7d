"""Files behind HTTP: read by ranges where the server gives them, else fetched whole into a temporary file."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, cast

import fsspec
from fsspec.asyn import sync
from fsspec.config import conf

if TYPE_CHECKING:
    from fsspec.implementations.http import HTTPFileSystem

_MEMORY_BYTES = 8 * 2**20
"""Beyond this a fetched file lies on disk."""
_CHUNK_BYTES = 2**20
_PARTIAL = 206
_BEYOND_THE_END = 416


def is_http(url: str) -> bool:
    """Whether a URL is one file behind HTTP, and no member of an archive there."""
    return url.startswith(("http://", "https://")) and "::" not in url


def open_http(url: str, *, timeout_seconds: float, max_bytes: int) -> BinaryIO:
    """Open a file for reading, seekable; one attempt.

    One byte is asked for to learn the size and whether ranges are given; a server that gives none answers with the
    whole. Not HEAD: signed URLs refuse it, and servers that promise ranges in it do not always give them.

    Args:
        url: Of the file.
        timeout_seconds: Longest wait for a connection or for the next byte.
        max_bytes: Where there are no ranges, at most one byte more than this is fetched.

    Raises:
        OSError, ValueError, or the client's own errors.
    """
    file_system = _file_system(timeout_seconds)
    with ExitStack() as undo:
        target = undo.enter_context(_temporary_file())
        size_bytes = sync(file_system.loop, _fetch, file_system, url, target, max_bytes, {"Range": "bytes=0-0"})
        if size_bytes is not None:
            return cast(BinaryIO, file_system.open(url, "rb", size=size_bytes))
        undo.pop_all()
    target.seek(0)
    return target


def fetch_http(url: str, *, timeout_seconds: float, max_bytes: int) -> BinaryIO:
    """Fetch a file with one request, whole or its first `max_bytes + 1` bytes; standing at its beginning.

    Raises:
        OSError, ValueError, or the client's own errors: also where fewer bytes came than were announced.
    """
    file_system = _file_system(timeout_seconds)
    with ExitStack() as undo:
        target = undo.enter_context(_temporary_file())
        sync(file_system.loop, _fetch, file_system, url, target, max_bytes, {})
        undo.pop_all()
    target.seek(0)
    return target


def _temporary_file() -> BinaryIO:
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES))


def _file_system(timeout_seconds: float) -> "HTTPFileSystem":
    # Here, and not above: a run without HTTP need not wait for it.
    from aiohttp import ClientTimeout

    # By default the client gives a whole answer five minutes: too long for a stalled one, too short for a film.
    timeout = ClientTimeout(total=None, sock_connect=timeout_seconds, sock_read=timeout_seconds)
    # Compressed on the way, a range would be one of other bytes.
    headers = {"Accept-Encoding": "identity"}
    # fsspec's configuration may hold a user's credentials.
    own = conf.get("https", {}).get("client_kwargs", {}) | conf.get("http", {}).get("client_kwargs", {})
    client = {"timeout": timeout, **own, "headers": headers | own.get("headers", {})}
    return fsspec.filesystem("http", client_kwargs=client)


async def _fetch(
    file_system: "HTTPFileSystem", url: str, target: BinaryIO, max_bytes: int, headers: Mapping[str, str]
) -> int | None:
    """Write the whole file into the target; or, where a range was asked for and given, only tell the file's size."""
    session = await file_system.set_session()
    left = max_bytes + 1
    async with session.get(file_system.encode_url(url), headers=headers, **file_system.kwargs) as answer:
        if headers and answer.status in (_PARTIAL, _BEYOND_THE_END):
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if total.isdecimal() and int(total):
                return int(total)
        else:
            answer.raise_for_status()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                target.write(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    break
            return None
    # A file of no bytes has no range, and a server need not know the size of what it gives ranges of.
    return await _fetch(file_system, url, target, max_bytes, {})
