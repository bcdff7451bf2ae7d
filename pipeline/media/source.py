"""Media: what the inputs name, in a fixed order, and how their bytes are opened on any file system."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.media.reject import RejectClip
from schemas.outcome import Reason


class MediaKind(StrEnum):
    """What a media is to the decoders."""

    IMAGE = "image"
    VIDEO = "video"


KINDS: Mapping[str, MediaKind] = {
    **dict.fromkeys(
        ("avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"), MediaKind.IMAGE
    ),
    **dict.fromkeys(
        (
            "3g2",
            "3gp",
            "avi",
            "flv",
            "m2ts",
            "m4v",
            "mkv",
            "mov",
            "mp4",
            "mpeg",
            "mpg",
            "mts",
            "ogv",
            "ts",
            "webm",
            "wmv",
        ),
        MediaKind.VIDEO,
    ),
}
"""Kind by extension, lower case without the dot."""

HIDDEN = "hidden"
"""Key of `Listing.ignored` for files in or under a name that starts with a dot."""
NO_EXTENSION = "no extension"
"""Key of `Listing.ignored` for files without an extension."""
NOT_A_FILE = "not a file"
"""Key of `Listing.ignored` for sockets, pipes, links that lead nowhere, and links to folders: none is followed."""
NOT_UTF8 = "name is not UTF-8"
"""Key of `Listing.ignored` for files whose names no table on disk can hold."""

# In order of trust: a content hash, then a time of change.
_VERSION_KEYS = ("ETag", "etag", "CRC", "mtime", "LastModified", "last_modified", "updated", "created")
_GLOB = frozenset("*?[")
_BUFFER_BYTES = 64 * 2**10


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """One source file; an image is a media of one frame."""

    uri: str
    """Absolute plain path of a local file, else a URL that fsspec opens."""
    kind: MediaKind
    size_bytes: int
    version: str
    """Changes when the content does: the store's etag, else the time of change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What the inputs hold."""

    media: tuple[Media, ...]
    """Each media once, sorted by uri: the order depends on neither the inputs' order nor the file system's."""
    duplicates: int
    """How often a media was named again."""
    ignored: Mapping[str, int]
    """Files that are not media: how many by extension, or by `HIDDEN`, `NO_EXTENSION`, `NOT_A_FILE`, `NOT_UTF8`."""


def list_media(inputs: Sequence[str]) -> Listing:
    """List the media that the inputs name.

    Args:
        inputs: Files, folders (taken with all below them) or glob patterns; local paths or URLs of any file system
            that fsspec knows. A name that exists is taken literally, even with `*` or `[` in it.

    Raises:
        ValueError: An input holds no media, or is a file of unknown extension.
    """
    found: dict[str, Media] = {}
    duplicates = 0
    ignored: Counter[str] = Counter()
    for source in inputs:
        for entry in _media_of(source, ignored):
            duplicates += entry.uri in found
            found[entry.uri] = entry
    media = tuple(found[uri] for uri in sorted(found))
    return Listing(media=media, duplicates=duplicates, ignored=dict(sorted(ignored.items())))


@contextmanager
def open_media(uri: str) -> Iterator[BinaryIO]:
    """Open a media for reading, seekable.

    Failures of the file system, at the opening or at any later read, become RejectClip; other exceptions of the body
    pass as they are.

    Raises:
        RejectClip: `unreadable`.
    """
    with ExitStack() as stack:
        with _unreadable(uri):
            # A plain path goes round fsspec, to which "::", "*" and "#" in a name mean something.
            opener = fsspec.open(uri, "rb") if "://" in uri else Path(uri).open("rb")  # noqa: SIM115 - the stack closes it
            # The opener must outlive the file: with it goes the file system, and so the archive around a member.
            file = stack.enter_context(opener)
        reader = stack.enter_context(io.BufferedReader(_SourceFile(uri, file), _BUFFER_BYTES))
        yield reader


def read_media(uri: str, max_bytes: int) -> bytes:
    """Read a media whole.

    Raises:
        RejectClip: `unreadable`, `empty_file`, or `too_large` beyond `max_bytes`.
    """
    with open_media(uri) as file:
        data = file.read(max_bytes + 1)
    if not data:
        raise RejectClip(Reason.EMPTY_FILE, "0 bytes")
    if len(data) > max_bytes:
        raise RejectClip(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
    return data


def sha256_of(file: BinaryIO) -> str:
    """Hex sha256 of a file from its beginning; leaves the file at its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


class _SourceFile(io.RawIOBase):
    """A file whose failures are RejectClip."""

    def __init__(self, uri: str, file: BinaryIO) -> None:
        self._uri = uri
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer has no len
        with _unreadable(self._uri):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _unreadable(self._uri):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _unreadable(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RejectClip(Reason.UNREADABLE, f"{uri}: {type(error).__name__}: {error}") from error


def _media_of(source: str, ignored: Counter[str]) -> list[Media]:
    """Media of one input; counts into `ignored` what is not."""
    # Of a chain such as zip://*.jpg::s3://bucket/photos.zip the first link is listed and the rest carries it.
    head, separator, rest = source.partition("::")
    # A local name may hold "::" and "#" too.
    file_system, path = (LocalFileSystem(), os.path.abspath(source)) if os.path.lexists(source) else url_to_fs(source)  # noqa: PTH100
    local = isinstance(file_system, LocalFileSystem)

    def uri_of(name: str) -> str:
        return os.path.abspath(name) if local else f"{file_system.unstrip_protocol(name)}{separator}{rest}"  # noqa: PTH100 - Path.absolute keeps ".."

    def is_file(name: str, info: Mapping[str, object]) -> bool:
        # fsspec calls a link to a file a link; whole data sets are made of them (git-annex, model hubs' caches).
        return info["type"] == "file" or (local and Path(name).is_file())

    try:
        top = file_system.info(path)
    except FileNotFoundError:
        top = None
    if top is not None and is_file(path, top):
        kind = KINDS.get(_extension(path))
        if kind is None:
            raise ValueError(
                f"{source}: extension {_extension(path)!r} is no media; known are {', '.join(sorted(KINDS))}. "
                "Rename the file or name another"
            )
        return [_media(uri_of(path), kind, top, local=local)]
    if top is None and not _GLOB & set(head):
        raise ValueError(
            f"{source}: no such file or folder. Correct the path, or quote a pattern such as 'photos/*.jpg'"
        )

    if top is not None:
        root, entries = path, file_system.find(path, detail=True)
    else:
        root = _fixed_folder(path)
        entries = {}
        for name, info in file_system.glob(path, detail=True).items():
            entries |= {name: info} if is_file(name, info) else file_system.find(name, detail=True)

    here: Counter[str] = Counter()
    media = []
    for name, info in entries.items():
        why_not = _why_ignored(name, root) if is_file(name, info) else NOT_A_FILE
        if why_not is not None:
            here[why_not] += 1
            continue
        media.append(_media(uri_of(name), KINDS[_extension(name)], info, local=local))
    ignored += here
    if not media:
        other = ", ".join(f"{count} of {name}" for name, count in sorted(here.items())) or "nothing at all"
        raise ValueError(f"{source}: holds no media (found {other}). Known extensions: {', '.join(sorted(KINDS))}")
    return media


def _fixed_folder(pattern: str) -> str:
    """The part of a glob pattern before its first wildcard component."""
    parts = pattern.split("/")
    fixed = next((index for index, part in enumerate(parts) if _GLOB & set(part)), len(parts))
    return "/".join(parts[:fixed])


def _why_ignored(name: str, root: str) -> str | None:
    """Key under which a file below `root` is ignored; None for a media."""
    below = name.removeprefix(root).strip("/")
    if any(part.startswith(".") for part in below.split("/")):
        return HIDDEN
    try:
        name.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    extension = _extension(name)
    return None if extension in KINDS else extension or NO_EXTENSION


def _extension(name: str) -> str:
    if "://" in name:
        name = name.partition("?")[0]
    return PurePosixPath(name).suffix.lower().removeprefix(".")


def _media(uri: str, kind: MediaKind, info: Mapping[str, object], *, local: bool) -> Media:
    if local:
        # fsspec gives the time as a float, which holds no nanoseconds.
        status = Path(uri).stat()
        return Media(uri=uri, kind=kind, size_bytes=status.st_size, version=str(status.st_mtime_ns))
    size_bytes = info.get("size")
    if not isinstance(size_bytes, int):
        raise ValueError(f"{uri}: the server does not tell its size. Copy it to a file system that does")
    return Media(uri=uri, kind=kind, size_bytes=size_bytes, version=_version(info))


def _version(info: Mapping[str, object]) -> str:
    value = next((info[key] for key in _VERSION_KEYS if info.get(key) is not None), "")
    isoformat: Callable[[], str] | None = getattr(value, "isoformat", None)
    return isoformat() if isoformat is not None else str(value).strip('"')
