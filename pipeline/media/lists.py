"""Lists that name media: one a line, or rows of CSV, TSV and JSON lines with captions and further columns."""

import csv
import functools
import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

import fsspec

from pipeline.media.columns import NO_MEDIA, NOT_UTF8, ColumnReader, named_media
from pipeline.media.retry import RetryPolicy, open_retrying
from pipeline.media.source import Media, extension_of

LISTS = frozenset({"txt", "csv", "tsv", "jsonl"})
"""Extensions of lists."""

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_SCHEME = "://"


def list_entries(url: str, *, reader: ColumnReader, labels_from_folders: bool, policy: RetryPolicy) -> Iterator[Media]:
    """Media that a list names, in its order; streamed.

    Args:
        url: Of the list; its extension is one of `LISTS`. A txt holds one URL or path a line; the others, a column of
            them. A relative path starts at the list's folder.
        reader: Which column means what.
        labels_from_folders: The label is the folder's name, where the row has none.
        policy: How faults are tried again.

    Raises:
        RejectClip: The list cannot be read.
        ValueError: A row is no row, or names no media in a way that can be told. The row is named.
    """
    extension = extension_of(url)
    with open_retrying(url, policy=policy) as stream:
        # Bad bytes cost their row, not the list.
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        rows = _csv_rows(text, url, _DELIMITERS[extension]) if extension in _DELIMITERS else _line_rows(text, url)
        for number, row in rows:
            where = f"{url}, row {number}"
            column = None if extension == "txt" else reader.media_of(row)
            name = row.get("" if column is None else column)
            if extension != "txt" and column is None:
                wanted = reader.names.media or "of a name such as url, path, image or video"
                raise ValueError(f"{where}: has no column {wanted}, only {sorted(row)[:20]}. Name the media's column")
            if name is not None and not isinstance(name, str):
                raise ValueError(f"{where}: column {column!r} holds {name!r:.100}, expected a URL or a path")
            place = (name or "").strip()
            why_not = why_no_name(place)
            if why_not is not None:
                reader.ignored[why_not] += 1
                continue
            kind = reader.kind_of(place, column=column, where=where)
            described = reader.describe(row, media=column or "", where=where, caption=None, label=None)
            yield named_media(
                resolve(place, base=url, where=where),
                described=described,
                kind=kind,
                labels_from_folders=labels_from_folders,
            )


def why_no_name(name: str) -> str | None:
    """Key under which a row is ignored for what it names."""
    if not name or "\0" in name:
        return NO_MEDIA
    try:
        name.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    return None


def resolve(name: str, *, base: str, where: str) -> str:
    """Uri of what a list names: a URL as it is, a local path made absolute.

    Args:
        name: URL or path.
        base: Uri of the list; a relative path starts at its folder.
        where: Of the row, for errors.

    Raises:
        ValueError: No file system is known for the URL's scheme.
    """
    scheme, separator, rest = name.partition(_SCHEME)
    if separator:
        if scheme in ("file", "local"):
            return os.path.abspath(unquote(rest) if scheme == "file" else rest)  # noqa: PTH100 - Path.absolute keeps ".."
        fault = _scheme_fault(scheme)
        if fault is not None:
            raise ValueError(f"{where}: {name[:200]!r}: {fault}")
        return name
    if name.startswith("/"):
        return os.path.abspath(name)  # noqa: PTH100
    folder = posixpath.dirname(base.partition("?")[0] if _SCHEME in base else base)
    return f"{folder}/{name}" if _SCHEME in folder else os.path.abspath(f"{folder}/{name}")  # noqa: PTH100


@functools.cache
def _scheme_fault(scheme: str) -> str | None:
    """Why no file system opens the scheme: better said while planning than by every worker."""
    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        return str(error)
    return None


def _line_rows(text: io.TextIOWrapper, url: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Number, from 1, and content of each line that is not blank: a JSON object, or under "" the line itself."""
    is_json = extension_of(url) == "jsonl"
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        if not is_json:
            yield number, {"": line}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{url}, row {number}: is no JSON: {error}. Correct the row or leave it out") from error
        if not isinstance(row, dict):
            raise ValueError(f"{url}, row {number}: holds {type(row).__name__}, expected a JSON object")
        yield number, row


def _csv_rows(text: io.TextIOWrapper, url: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Line number and row, by the names of the first line."""
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for values in lines:
            if header is None:
                header = values
                if len(set(header)) < len(header):
                    raise ValueError(f"{url}: two columns have one name in {header}. Rename one")
            elif values:
                if len(values) != len(header):
                    raise ValueError(
                        f"{url}, row {lines.line_num}: has {len(values)} values, expected {len(header)} as in the "
                        "first. Correct the row or leave it out"
                    )
                yield lines.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"{url}, row {lines.line_num}: is no CSV: {error}") from error
