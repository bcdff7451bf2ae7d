"""Folders on any file system: whole files or none, and paths that cannot leave their folder."""

import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.store.faults import StorageError, open_persisting, persist

_T = TypeVar("_T")

TEMPORARY_FOLDER = ".tmp"
_BLOCK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(StorageError):
    """A disk, or the quota on it, has no room for what is being written; the message names the folder."""


@contextmanager
def named_if_full(place: str, *, file: str) -> Iterator[None]:
    """Say of a write that finds no room where it was to go, and what to do.

    Args:
        place: Folder that the disk is asked for.
        file: What is being written there.

    Raises:
        FullDiskError: The disk has no room, or the quota on it is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise FullDiskError(
            f"{place}: the disk is full ({error.strerror}), {file} was not written. What is committed there is whole: "
            "make room and start the same command again, it goes on from there"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """A committed file: path relative to its folder, size and hash of its bytes."""

    path: str
    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, object]:
        """The record as JSON-ready values."""
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Self:
        """Read `to_json`'s value."""
        return cls(path=str(value["path"]), size_bytes=int(str(value["size_bytes"])), sha256=str(value["sha256"]))


class StagedFile:
    """A file being written under a temporary name; exists only after `commit`."""

    def __init__(self, folder: "Folder", path: str, stream: BinaryIO) -> None:
        self.stream = stream
        self.record: FileRecord | None = None
        self._folder = folder
        self._path = path

    def commit(self) -> FileRecord:
        """Publish the bytes written so far under the final name, at once and whole."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        size_bytes, sha256 = digest_file(Path(self.stream.name))
        self._folder._publish(Path(self.stream.name), self._path)
        self.record = FileRecord(path=self._path, size_bytes=size_bytes, sha256=sha256)
        return self.record


class Folder:
    """A folder named by a path or an fsspec URL; picklable, so it travels to workers.

    What a server fails is tried again, for every operation here is safe to repeat (`pipeline.store.faults`); any of
    them may end with a StorageError.
    """

    def __init__(self, url: str) -> None:
        self.file_system, root = fsspec.core.url_to_fs(url)
        self.root: str = root.rstrip("/")
        self.is_local = isinstance(self.file_system, LocalFileSystem)
        # Workers run in other directories: what travels must not depend on this one.
        self.url = self.root if self.is_local else url.rstrip("/")

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return (Folder, (self.url,))

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def path(self, relative: str) -> str:
        """Full path of a file in this folder, as its file system names it.

        Raises:
            ValueError: The relative path would leave the folder.
        """
        parts = PurePosixPath(relative).parts
        if not parts or relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative:
            raise ValueError(f"{relative!r} is not a path inside {self.url}")
        return f"{self.root}/{relative}"

    def subfolder(self, relative: str) -> "Folder":
        """A folder inside this one."""
        self.path(relative)
        return Folder(f"{self.url}/{relative}")

    def exists(self, relative: str) -> bool:
        """Whether a file or folder of that name is there now."""
        path = self.path(relative)

        def look() -> bool:
            self.file_system.invalidate_cache(path)
            return bool(self.file_system.exists(path))

        return self._persist(look, path)

    def read_bytes(self, relative: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path = self.path(relative)
        return self._persist(lambda: cast(bytes, self.file_system.cat_file(path)), path)

    def read_many(self, relatives: Sequence[str]) -> list[bytes]:
        """All bytes of each file, many at a time where the file system can.

        Raises:
            FileNotFoundError: There is no such file.
        """
        # Not `cat`: it takes a "[" in a folder's name for a pattern.
        contents = self.file_system.cat_ranges([self.path(relative) for relative in relatives], None, None)
        # One by one what failed among many: at once, of enough of them always one would.
        return [
            self.read_bytes(relative) if isinstance(content, Exception) else cast(bytes, content)
            for relative, content in zip(relatives, contents, strict=True)
        ]

    def open(self, relative: str) -> BinaryIO:
        """A file for reading."""
        path = self.path(relative)

        def open_once() -> BinaryIO:
            self.file_system.invalidate_cache(path)
            return cast(BinaryIO, self.file_system.open(path, "rb"))

        return open_once() if self.is_local else cast(BinaryIO, open_persisting(open_once, url=self._named(path)))

    def holds(self, record: FileRecord) -> bool:
        """Whether a committed file is there with the bytes it was committed with."""
        try:
            with self.open(record.path) as stream:
                return digest_stream(stream) == (record.size_bytes, record.sha256)
        except FileNotFoundError:
            return False

    def find(self, relative: str | None = None) -> list[str]:
        """Paths of all files below, relative to this folder, sorted; empty where there is no such folder."""
        start = self.root if relative is None else self.path(relative)
        prefix = f"{self.root}/"

        def find() -> list[str]:
            self.file_system.invalidate_cache(start)
            return list(self.file_system.find(start)) if self.file_system.exists(start) else []

        return sorted(name.removeprefix(prefix) for name in self._persist(find, start))

    def remove(self, relative: str) -> None:
        """Delete a file, or a folder and what it holds; nothing happens where it is absent.

        Local: also while others write and delete in the folder, as workers do that outlive their killed run for a
        moment.
        """
        path = self.path(relative)

        def remove() -> None:
            while self.exists(relative):
                try:
                    self.file_system.rm(path, recursive=True)
                    return
                except FileNotFoundError:
                    if not self.is_local:
                        return
                except OSError as error:
                    if not self.is_local or error.errno != errno.ENOTEMPTY:
                        raise

        self._persist(remove, path)

    @contextmanager
    def stage(self, relative: str) -> Iterator[StagedFile]:
        """Write a file that appears whole on `commit`, or not at all.

        Local: a temporary file beside, fsync, rename. Object stores: a local temporary file, then one upload.

        Raises:
            FullDiskError: The disk has no room for it.
        """
        final = self.path(relative)
        with named_if_full(self.url if self.is_local else tempfile.gettempdir(), file=relative):
            if self.is_local:
                temporary = Path(self.path(TEMPORARY_FOLDER)) / f"{uuid.uuid4().hex}-{PurePosixPath(final).name}"
                temporary.parent.mkdir(parents=True, exist_ok=True)
            else:
                descriptor, name = tempfile.mkstemp(prefix="vitok-")
                os.close(descriptor)
                temporary = Path(name)
            try:
                with temporary.open("wb") as stream:
                    yield StagedFile(self, relative, stream)
            finally:
                temporary.unlink(missing_ok=True)

    def write_bytes(self, relative: str, data: bytes) -> FileRecord:
        """Write a whole file at once, replacing what was there."""
        with self.stage(relative) as staged:
            staged.stream.write(data)
            return staged.commit()

    def create(self, relative: str, data: bytes) -> bytes:
        """Write a small file only where there is none; whole either way.

        Returns:
            What stands there then: these bytes, or those of whoever was first. Two writers of different bytes never
            both get their own, if the server's conditional puts are atomic (`If-None-Match: *`).
        """
        path = self.path(relative)

        def create() -> bytes:
            try:
                self.file_system.pipe_file(path, data, mode="create")
            except OSError as error:  # FileExistsError by the book; some say only that a condition was not met
                try:  # it may be there by an earlier attempt of ours, of which only the answer was lost
                    return cast(bytes, self.file_system.cat_file(path))
                except FileNotFoundError:
                    raise error from None
            return cast(bytes, self.file_system.cat_file(path))

        return self._persist(create, path)

    def _persist(self, operation: Callable[[], _T], path: str) -> _T:
        return operation() if self.is_local else persist(operation, url=self._named(path))

    def _named(self, path: str) -> str:
        return str(self.file_system.unstrip_protocol(path))

    def _publish(self, temporary: Path, relative: str) -> None:
        final = self.path(relative)
        if not self.is_local:
            self._persist(lambda: self._upload(temporary, final), final)
            return
        Path(final).parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(final)
        # Without this the name may be gone after a power cut although the bytes were synced.
        descriptor = os.open(Path(final).parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _upload(self, temporary: Path, final: str) -> None:
        try:
            self.file_system.put_file(str(temporary), final)
        except FileNotFoundError as error:
            # An upload in parts that was completed, with the answer lost, is unknown when it is completed again.
            raise OSError(f"the upload was lost: {error}") from error


def digest_file(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a local file."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def digest_stream(stream: BinaryIO) -> tuple[int, str]:
    """Size in bytes and sha256 of everything a stream gives."""
    digest = hashlib.sha256()
    size_bytes = 0
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        size_bytes += len(block)
    return size_bytes, digest.hexdigest()
