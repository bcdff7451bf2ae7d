"""Listing: all media that the inputs name, one after the other, in an order that only the inputs decide."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.media.archives import COMPRESSED_TARS, PARQUET, TAR, Container, compressed_tar, parquet_rows, tar_members
from pipeline.media.columns import (
    NO_EXTENSION,
    NOT_A_FILE,
    ColumnNames,
    ColumnReader,
    ColumnType,
    folder_label,
    why_hidden,
)
from pipeline.media.lists import LISTS, list_entries
from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.media.source import KINDS, Media, extension_of
from pipeline.media.walk import GLOB, Found, Walker
from schemas.outcome import Reason

_CHAIN = "::"


class MediaListing:
    """The media of the inputs, iterated once and never held: each input in turn, sorted by name.

    An input is a media; a folder, with all below it; a pattern; a WebDataset tar or a Parquet file, which also count
    where a folder or pattern has them; or a list (txt, csv, tsv, jsonl), which counts only where it is named, or a
    pattern ends in its extension. Local paths, or URLs of any file system that fsspec knows. A name that exists is
    taken literally, even with "*" or "[" in it. A media named twice comes twice.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        names: ColumnNames | None = None,
        labels_from_folders: bool = False,
        taken: frozenset[str] = frozenset(),
        policy: RetryPolicy | None = None,
    ) -> None:
        """Take the inputs; nothing is read yet.

        Args:
            inputs: What to list; their order means nothing.
            names: Which columns mean what.
            labels_from_folders: A media without a label has the name of its folder.
            taken: Names of the store's own columns; a pass-through column of such a name gets "media_" before it.
            policy: How faults of file systems are tried again.
        """
        # By what they are, not by how they are written here.
        self._inputs = {_place_of(source): source for source in inputs}
        self._reader = ColumnReader(names or ColumnNames(), taken=taken)
        self._labels_from_folders = labels_from_folders
        self._policy = policy or RetryPolicy()
        self._has_begun = False
        self.damaged: dict[str, RejectClip] = {}
        """Tars and Parquet files, so far, that end before their time, and why; media before the damage are listed."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """What is no media, so far: how many by extension, or by what `pipeline.media.columns` calls it."""
        return dict(sorted(self._reader.ignored.items()))

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """Type that holds all values so far, of each pass-through column by name."""
        return self._reader.types

    def __iter__(self) -> Iterator[Media]:
        """Media by media.

        Raises:
            ValueError: An input holds no media, cannot be read, or is of unknown extension; a column that was asked
                for stands nowhere. Inputs and rows are named.
        """
        if self._has_begun:
            raise RuntimeError("a MediaListing is iterated once: its counts would double. Make another")
        self._has_begun = True
        for _, source in sorted(self._inputs.items()):
            before = Counter(self._reader.ignored)
            is_empty = True
            try:
                for media in self._media_of(source):
                    is_empty = False
                    yield media
            except RejectClip as error:
                raise ValueError(f"{source}: cannot be read: {error.message}") from error
            if is_empty and not self.damaged:
                here = self._reader.ignored - before
                other = ", ".join(f"{count} of {name}" for name, count in sorted(here.items())) or "nothing at all"
                raise ValueError(f"{source}: holds no media (found {other}). {_known()}")
        unseen = self._reader.unseen()
        if unseen:
            raise ValueError(f"no input has a column {', '.join(map(repr, unseen))}. Correct the name, or leave it out")

    def _media_of(self, source: str) -> Iterator[Media]:
        # Of a chain such as zip://*.jpg::s3://bucket/photos.zip the first link is listed and the rest carries it.
        head, separator, rest = source.partition(_CHAIN)
        # A local name may hold "::" and "#" too.
        literal = os.path.lexists(source)
        file_system, path = (LocalFileSystem(), _absolute(source)) if literal else url_to_fs(source)
        is_local = isinstance(file_system, LocalFileSystem)
        walker = Walker(file_system, self._policy)

        def uri_of(found: Found) -> str:
            return found.path if is_local else f"{file_system.unstrip_protocol(found.path)}{separator}{rest}"

        top = walker.find(path)
        if top is not None and top.kind != "folder":
            yield from self._named(source, top, uri_of(top))
            return
        if top is None and not GLOB & set(head):
            raise ValueError(
                f"{source}: no such file or folder. Correct the path, or quote a pattern such as 'photos/*.jpg'"
            )
        pattern = path if top is None else None
        root = path if pattern is None else _fixed_folder(pattern)
        lists = LISTS & {extension_of(path)} if pattern is not None else frozenset()
        for found in walker.below(path) if pattern is None else walker.matching(pattern):
            why_not = NOT_A_FILE if found.kind == "other" else why_hidden(found.path.removeprefix(root).strip("/"))
            if why_not is not None:
                self._reader.ignored[why_not] += 1
            elif extension_of(found.path) in lists:
                yield from self._listed(uri_of(found))
            else:
                yield from self._found(found, uri_of(found), is_named=False)

    def _named(self, source: str, found: Found, uri: str) -> Iterator[Media]:
        """Media of an input that is one file."""
        extension = extension_of(uri)
        if source.lower().partition(_CHAIN)[0].endswith(COMPRESSED_TARS):
            raise compressed_tar(source)
        if extension in LISTS:
            yield from self._listed(uri)
        elif extension in KINDS or extension in (TAR, PARQUET):
            yield from self._found(found, uri, is_named=True)
        else:
            raise ValueError(f"{source}: extension {extension!r} is no media. {_known()}. Rename it or name another")

    def _found(self, found: Found, uri: str, *, is_named: bool) -> Iterator[Media]:
        extension = extension_of(uri)
        container = Container(
            uri=uri,
            version=found.version,
            reader=self._reader,
            labels_from_folders=self._labels_from_folders,
            policy=self._policy,
        )
        if extension in KINDS:
            label = folder_label(uri) if self._labels_from_folders else None
            yield Media(uri=uri, kind=KINDS[extension], size_bytes=found.size_bytes, version=found.version, label=label)
        elif extension in (TAR, PARQUET):
            held = tar_members(container) if extension == TAR else parquet_rows(container, is_named=is_named)
            try:
                yield from held
            except RejectClip as error:
                if error.reason != Reason.CORRUPT:
                    raise
                self.damaged[uri] = error
        else:
            self._reader.ignored[extension or NO_EXTENSION] += 1

    def _listed(self, uri: str) -> Iterator[Media]:
        return list_entries(
            uri, reader=self._reader, labels_from_folders=self._labels_from_folders, policy=self._policy
        )


def _known() -> str:
    media, lists = ", ".join(sorted(KINDS)), ", ".join(sorted(LISTS))
    return f"Known extensions: {media}; of containers: {TAR}, {PARQUET}; of lists: {lists}"


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps ".."


def _place_of(source: str) -> str:
    """An input by its absolute name, so that one file is one input however it is written."""
    if os.path.lexists(source) or "://" not in source:
        return _absolute(source)
    return source


def _fixed_folder(pattern: str) -> str:
    """The part of a glob pattern before its first wildcard component."""
    parts = pattern.split("/")
    fixed = next((index for index, part in enumerate(parts) if GLOB & set(part)), len(parts))
    return "/".join(parts[:fixed])
