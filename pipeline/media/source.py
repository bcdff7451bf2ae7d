"""Media: what a row of the plan says of one, and how its bytes are opened, wherever they lie."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self, cast

from pipeline.media.cells import CellReader
from pipeline.media.httpfile import fetch_http, is_http
from pipeline.media.reject import RejectClip
from pipeline.media.retry import MAX_SPOOL_BYTES, RetryPolicy, attempt, open_retrying
from schemas.outcome import Reason


class MediaKind(StrEnum):
    """What a media is to the decoders."""

    IMAGE = "image"
    VIDEO = "video"


_IMAGES = "avif bmp gif jfif jpe jpeg jpg png tif tiff webp"
_VIDEOS = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
KINDS: Mapping[str, MediaKind] = {
    **dict.fromkeys(_IMAGES.split(), MediaKind.IMAGE),
    **dict.fromkeys(_VIDEOS.split(), MediaKind.VIDEO),
}
"""Kind by extension, lower case without the dot."""

_ROW = "row="
_COLUMN = ",column="
_PARQUET = "parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """One image or video, in a file of its own or inside a container (`schemas.manifest.MEDIA_SCHEMA`)."""

    uri: str
    """Absolute plain path of a local file, else a URL that fsspec opens; inside a container, CONTAINER#PLACE."""
    kind: MediaKind
    size_bytes: int | None
    """None where the input does not say: what a list names is not asked for its size."""
    version: str
    """Changes when the content does: the store's etag, else the time of change; "" where the input does not say."""
    container: str | None = None
    """Tar or Parquet file that holds the bytes."""
    offset: int | None = None
    """In a tar, the first byte; in a Parquet file, the row, counted over all row groups."""
    label: str | None = None
    caption: str | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    """Pass-through columns: JSON values by name."""

    def to_row(self) -> dict[str, object]:
        """The media as a row; columns are one JSON text, the same for equal values.

        Raises:
            ValueError: A column holds NaN or Inf.
        """
        columns = None
        if self.columns:
            columns = json.dumps(
                self.columns, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
            )
        return {
            "uri": self.uri,
            "kind": str(self.kind),
            "size_bytes": self.size_bytes,
            "version": self.version,
            "container": self.container,
            "offset": self.offset,
            "label": self.label,
            "caption": self.caption,
            "columns": columns,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Self:
        """Undo `to_row`; other columns of the row are left aside."""
        columns = cast(str | None, row["columns"])
        return cls(
            uri=cast(str, row["uri"]),
            kind=MediaKind(cast(str, row["kind"])),
            size_bytes=cast(int | None, row["size_bytes"]),
            version=cast(str, row["version"]),
            container=cast(str | None, row["container"]),
            offset=cast(int | None, row["offset"]),
            label=cast(str | None, row["label"]),
            caption=cast(str | None, row["caption"]),
            columns={} if columns is None else cast(dict[str, object], json.loads(columns)),
        )


def extension_of(name: str) -> str:
    """Extension of a path or URL, lower case without the dot; a URL's query is left aside."""
    if "://" in name:
        name = name.partition("::")[0].partition("?")[0]
    return PurePosixPath(name).suffix.lower().removeprefix(".")


def cell_uri(container: str, row: int, column: str | None) -> str:
    """Uri of a Parquet cell; the column is named where it is not the one that is taken by itself."""
    return f"{container}#{_ROW}{row}" + ("" if column is None else f"{_COLUMN}{column}")


class MediaOpener:
    """Opens media one after the other; keeps the last container open, for the next is often in the same."""

    def __init__(self, *, policy: RetryPolicy | None = None) -> None:
        self._policy = policy or RetryPolicy()
        self._tar: tuple[str, io.BufferedReader] | None = None
        self._cells: tuple[str, str | None, CellReader] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the container that was kept; the opener may be used on."""
        tar, self._tar = self._tar, None
        cells, self._cells = self._cells, None
        if tar is not None:
            tar[1].close()
        if cells is not None:
            cells[2].close()

    @contextmanager
    def open(self, media: Media, *, max_bytes: int = MAX_SPOOL_BYTES) -> Iterator[BinaryIO]:
        """Open a media for reading, seekable.

        Failures of the file system, at the opening or at any later read, are tried again as the policy says and then
        become RejectClip; other exceptions of the body pass as they are.

        Args:
            media: Of the plan.
            max_bytes: Where an HTTP server gives no ranges, at most one byte more than this is fetched.

        Raises:
            RejectClip: `missing`; `unreadable`; `corrupt` where a Parquet file is damaged.
        """
        file: BinaryIO
        if media.container is None:
            if media.kind is MediaKind.IMAGE and is_http(media.uri):
                # Images are read whole: one request, where a file with ranges takes two.
                seconds = self._policy.timeout_seconds
                file = attempt(
                    lambda: fetch_http(media.uri, timeout_seconds=seconds, max_bytes=max_bytes),
                    url=media.uri,
                    policy=self._policy,
                )
            else:
                file = open_retrying(media.uri, policy=self._policy, max_bytes=max_bytes)
        elif extension_of(media.container) == _PARQUET:
            file = io.BytesIO(self._cell(media, media.container))
        else:
            file = self._member(media, media.container)
        with file:
            yield file

    def read(self, media: Media, max_bytes: int) -> bytes:
        """Read a media whole.

        Raises:
            RejectClip: As `open`; `empty_file`; `too_large` beyond `max_bytes`.
        """
        with self.open(media, max_bytes=max_bytes) as file:
            size_bytes = file.seek(0, io.SEEK_END)
            if size_bytes > max_bytes:
                raise RejectClip(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
            file.seek(0)
            data = file.read(size_bytes)  # not `max_bytes`: so much would be allocated first
        if not data:
            raise RejectClip(Reason.EMPTY_FILE, "0 bytes")
        return data

    def _member(self, media: Media, container: str) -> BinaryIO:
        assert media.offset is not None
        assert media.size_bytes is not None
        if self._tar is None or self._tar[0] != container:
            self.close()
            self._tar = (container, open_retrying(container, policy=self._policy))
        window = _Window(self._tar[1], offset=media.offset, size_bytes=media.size_bytes, name=media.uri)
        return io.BufferedReader(window)

    def _cell(self, media: Media, container: str) -> bytes:
        assert media.offset is not None
        column = media.uri.removeprefix(container).partition(_COLUMN)[2] or None
        try:
            if self._cells is None or self._cells[:2] != (container, column):
                self.close()
                stream = open_retrying(container, policy=self._policy)
                try:
                    self._cells = (container, column, CellReader(stream, column))
                except BaseException:
                    stream.close()
                    raise
            return self._cells[2].read(media.offset)
        except (ValueError, OSError) as error:
            # Faults of the file system are RejectClip by now: what is left is Parquet's.
            self.close()
            raise RejectClip(Reason.CORRUPT, f"{type(error).__name__}: {media.uri}: {error}") from error
        except BaseException:
            self.close()
            raise


@contextmanager
def open_media(media: Media, *, policy: RetryPolicy | None = None) -> Iterator[BinaryIO]:
    """Open one media for reading; see `MediaOpener.open`."""
    with MediaOpener(policy=policy) as opener, opener.open(media) as file:
        yield file


def read_media(media: Media, max_bytes: int, *, policy: RetryPolicy | None = None) -> bytes:
    """Read one media whole; see `MediaOpener.read`."""
    with MediaOpener(policy=policy) as opener:
        return opener.read(media, max_bytes)


def sha256_of(file: BinaryIO) -> str:
    """Hex sha256 of a file from its beginning; leaves the file at its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


class _Window(io.RawIOBase):
    """A part of a file as a file; closing it leaves the other open."""

    def __init__(self, file: BinaryIO, *, offset: int, size_bytes: int, name: str) -> None:
        self._file = file
        self._offset = offset
        self._size_bytes = size_bytes
        self._name = name
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer has no len
        size = min(len(buffer), self._size_bytes - self._position)
        if size <= 0:
            return 0
        self._file.seek(self._offset + self._position)
        data = self._file.read(size)
        if not data:
            raise RejectClip(Reason.CORRUPT, f"{self._name}: its tar ends after byte {self._offset + self._position}")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"seek: got byte {start + offset}, expected at least 0")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position
