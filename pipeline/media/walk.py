"""Folders of any file system, walked file by file in the order of their names, one folder in memory at a time."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy, attempt
from schemas.outcome import Reason

GLOB = frozenset("*?[")
"""Characters that make a name a pattern."""

# In order of trust: a content hash, then a time of change.
_VERSION_KEYS = ("ETag", "etag", "CRC", "mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A name on a file system."""

    path: str
    """As the file system has it."""
    kind: Literal["file", "folder", "other"]
    """What a local link leads to counts, where that is a file; a link to a folder is "other"."""
    size_bytes: int | None = None
    version: str = ""


class Walker:
    """One file system, asked again where it fails for the moment."""

    def __init__(self, file_system: AbstractFileSystem, policy: RetryPolicy) -> None:
        self._file_system = file_system
        self._is_local = isinstance(file_system, LocalFileSystem)
        self._policy = policy

    def find(self, path: str) -> Found | None:
        """What is at a path; a local link to a folder is that folder. None where there is nothing.

        Raises:
            RejectClip: `unreadable`, or `missing` where it may not be read.
        """
        if self._is_local:
            if Path(path).is_dir():
                return Found(path=path, kind="folder")
            return _local(path) if os.path.lexists(path) else None
        self._file_system.invalidate_cache()
        try:
            info = attempt(lambda: self._file_system.info(path), url=path, policy=self._policy)
        except RejectClip as error:
            if error.reason is Reason.MISSING and isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        return _remote(path, info)

    def below(self, folder: str) -> Iterator[Found]:
        """All below a folder but folders, sorted by path; nothing where there is no such folder."""
        for found in self._children(folder):
            if found.kind == "folder":
                yield from self.below(found.path)
            else:
                yield found

    def matching(self, pattern: str) -> Iterator[Found]:
        """All that match a pattern, and all below the folders that do, but folders; sorted by path."""
        parts = pattern.split("/")
        fixed = next(index for index, part in enumerate(parts) if GLOB & set(part))
        depth = None if "**" in parts else len(parts)
        yield from self._matching("/".join(parts[:fixed]), re.compile(glob_translate(pattern)), depth)

    def _matching(self, folder: str, pattern: re.Pattern[str], depth: int | None) -> Iterator[Found]:
        for found in self._children(folder):
            if pattern.match(found.path):
                yield from self.below(found.path) if found.kind == "folder" else (found,)
            elif found.kind == "folder" and (depth is None or found.path.count("/") < depth):
                yield from self._matching(found.path, pattern, depth)

    def _children(self, folder: str) -> Sequence[Found] | Iterator[Found]:
        return self._local_children(folder) if self._is_local else self._remote_children(folder)

    def _local_children(self, folder: str) -> Iterator[Found]:
        try:
            with os.scandir(folder or "/") as entries:
                # Only names are held: a folder may have millions. A folder sorts as its children's paths do.
                names = sorted(
                    f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries
                )
        except FileNotFoundError:
            return
        except PermissionError:
            yield Found(path=folder, kind="other")
            return
        for name in names:
            path = f"{folder.rstrip('/')}/{name.rstrip('/')}"
            yield Found(path=path, kind="folder") if name.endswith("/") else _local(path)

    def _remote_children(self, folder: str) -> Sequence[Found]:
        try:
            infos = attempt(lambda: self._file_system.ls(folder, detail=True), url=folder, policy=self._policy)
        except RejectClip as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return ()
            raise
        finally:
            self._file_system.invalidate_cache()
        found = [_remote(str(info["name"]).rstrip("/"), info) for info in infos]
        # A listing may name the folder itself.
        children = [entry for entry in found if entry.path.strip("/") != folder.strip("/")]
        return sorted(children, key=lambda entry: f"{entry.path}/" if entry.kind == "folder" else entry.path)


def _local(path: str) -> Found:
    # Links to files are followed: whole data sets are made of them (git-annex, model hubs' caches).
    if not Path(path).is_file():
        return Found(path=path, kind="other")
    status = Path(path).stat()
    return Found(path=path, kind="file", size_bytes=status.st_size, version=str(status.st_mtime_ns))


def _remote(path: str, info: Mapping[str, object]) -> Found:
    if info["type"] != "file":
        return Found(path=path, kind="folder" if info["type"] == "directory" else "other")
    size_bytes = info.get("size")
    return Found(
        path=path, kind="file", size_bytes=size_bytes if isinstance(size_bytes, int) else None, version=_version(info)
    )


def _version(info: Mapping[str, object]) -> str:
    value = next((info[key] for key in _VERSION_KEYS if info.get(key) is not None), "")
    return str(value.isoformat() if hasattr(value, "isoformat") else value).strip('"')
