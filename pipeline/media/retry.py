"""Files that outlive transient faults: each read is tried again behind the file's face, then rejected."""

import contextlib
import errno
import io
import itertools
import random
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, cast

from fsspec.core import url_to_fs

from pipeline.media.httpfile import is_http, open_http
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

_T = TypeVar("_T")

MAX_SPOOL_BYTES = 64 * 2**30
"""Most bytes fetched from a server that gives no ranges; more cut the file off there."""

_MAX_DOUBLINGS = 64
_BUFFER_BYTES = 64 * 2**10
_GONE_STATUS = frozenset({401, 403, 404, 410})
_GONE = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_GONE_ERRNO = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
# fsspec says ValueError of answers it does not understand and of names it cannot hold; the others are of archives.
_FAULTS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
# Their own classes are no OSError; by name, for importing the three costs a second.
_FAULT_PACKAGES = frozenset({"aiohttp", "botocore", "gcsfs"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often a fault is tried again, and after how long: doubling, with jitter."""

    attempts: int = 4
    """Of one read, the first counted."""
    base_seconds: float = 0.5
    """Longest wait before the second attempt."""
    max_seconds: float = 20.0
    """Longest wait before any."""
    timeout_seconds: float = 60.0
    """Without a byte from an HTTP server, after which it counts as a fault. Other clients have their own."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: got {self.attempts}, expected at least 1")
        if not 0 <= self.base_seconds <= self.max_seconds:
            raise ValueError(
                f"base_seconds: got {self.base_seconds}, expected 0 to max_seconds, which is {self.max_seconds}"
            )
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds: got {self.timeout_seconds}, expected more than 0")

    def delay_seconds(self, attempts: int) -> float:
        """Wait after so many failed attempts: half of it fixed, half drawn, so that workers do not return as one."""
        longest = min(self.max_seconds, self.base_seconds * 2.0 ** min(attempts - 1, _MAX_DOUBLINGS))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret, and no byte depends on it


def reason_of(error: BaseException) -> Reason | None:
    """Why a file could not be read: `missing`, `unreadable`; None where the error is no file system's."""
    if isinstance(error, RejectClip):
        return None
    status = _http_status(error)
    if status is not None:
        return Reason.MISSING if status in _GONE_STATUS else Reason.UNREADABLE
    if isinstance(error, _GONE) or (isinstance(error, OSError) and error.errno in _GONE_ERRNO):
        return Reason.MISSING
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return Reason.UNREADABLE if isinstance(error, _FAULTS) or packages & _FAULT_PACKAGES else None


Failure = Callable[[Reason, str, int], Exception]
"""What a file's last fault becomes: of the reason, a message and the attempts made."""


class _Again(Protocol):
    """`attempt` with its settings."""

    def __call__(self, operation: Callable[[], _T]) -> _T: ...


def attempt(operation: Callable[[], _T], *, url: str, policy: RetryPolicy, failure: Failure = RejectClip) -> _T:
    """Result of an operation on a file, tried again as the policy says.

    Raises:
        RejectClip: `missing` at once, `unreadable` after the last attempt; what `failure` makes of them, where it is
            given. Errors of no file system pass as they are.
    """
    for attempts in itertools.count(1):
        try:
            return operation()
        except Exception as error:  # what is no fault of a file is raised on
            reason = reason_of(error)
            if reason is None:
                raise
            if reason is Reason.MISSING or attempts >= policy.attempts:
                tried = f" ({attempts} attempts)" if attempts > 1 else ""
                # The facts come first: a message is cut at its end.
                raise failure(reason, f"{type(error).__name__}{tried}: {url}: {error}", attempts) from error
        time.sleep(policy.delay_seconds(attempts))
    raise AssertionError("itertools.count ends never")


def open_retrying(url: str, *, policy: RetryPolicy, max_bytes: int = MAX_SPOOL_BYTES) -> io.BufferedReader:
    """Open a file of any file system for reading, seekable; transient faults stay behind its face.

    Args:
        url: Plain path of a local file, else a URL that fsspec opens.
        policy: How faults are tried again.
        max_bytes: Most bytes fetched from an HTTP server without ranges, one more included to tell.

    Raises:
        RejectClip: `missing` or `unreadable`, here or at any later read.
    """

    def open_once() -> tuple[BinaryIO, object]:
        # A plain path goes round fsspec, to which "::", "*" and "#" in a name mean something.
        if "://" not in url:
            return Path(url).open("rb", buffering=0), None
        if is_http(url):
            return open_http(url, timeout_seconds=policy.timeout_seconds, max_bytes=max_bytes), None
        file_system, path = url_to_fs(url)
        return cast(BinaryIO, file_system.open(path, "rb")), file_system

    return read_retrying(open_once, url=url, policy=policy)


def read_retrying(
    open_once: Callable[[], tuple[BinaryIO, object]], *, url: str, policy: RetryPolicy, failure: Failure = RejectClip
) -> io.BufferedReader:
    """What `open_once` opens, opened again as often as the policy allows and read on from where it stood.

    Args:
        open_once: The file, and what must outlive it.
        url: For messages.
        policy: How faults are tried again.
        failure: See `attempt`.

    Raises:
        RejectClip: `missing` or `unreadable`, here or at any later read; or what `failure` makes of them.
    """
    return io.BufferedReader(
        _RetryingFile(open_once, partial(attempt, url=url, policy=policy, failure=failure)), _BUFFER_BYTES
    )


class _RetryingFile(io.RawIOBase):
    """A file opened again, and read on from where it stood, as often as `again` tries."""

    def __init__(self, open_once: Callable[[], tuple[BinaryIO, object]], again: _Again) -> None:
        self._open_once = open_once
        self._again = again
        self._position = 0
        self._size: int | None = None
        self._file: BinaryIO | None = None
        # With the file system goes the archive around a member: it must outlive the file.
        self._file_system: object = None
        again(self._opened)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer has no len
        data = self._again(lambda: self._read_once(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert self._size is not None
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"seek: got byte {start + offset}, expected at least 0")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._forget()
        super().close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            file, file_system = self._open_once()
            try:
                file.seek(0, io.SEEK_END)
                size = file.tell()
                if self._size not in (None, size):
                    raise OSError(f"has {size} bytes, had {self._size} when it was opened")
            except BaseException:
                file.close()
                raise
            self._file, self._file_system, self._size = file, file_system, size
        return self._file

    def _read_once(self, size: int) -> bytes:
        try:
            file = self._opened()
            if file.tell() != self._position:
                file.seek(self._position)
            data = file.read(size)
            assert self._size is not None
            if size and not data and self._position < self._size:
                raise OSError(f"ends after byte {self._position} of {self._size}")
        except BaseException:
            self._forget()
            raise
        return data

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            # It was only read: nothing is lost where a broken connection does not close well.
            with contextlib.suppress(OSError):
                file.close()


def _http_status(error: BaseException) -> int | None:
    """Status of the answer that is the error or its cause: fsspec calls a 503 a FileNotFoundError."""
    cause: BaseException | None = error
    while cause is not None:
        for name in ("status", "code"):
            status = getattr(cause, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
        cause = cause.__cause__
    return None
