"""Containers: media inside WebDataset tars and Parquet files, listed without their bytes."""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.media.cells import (
    BYTES_COLUMNS,
    CellReader,
    MediaColumn,
    is_binary,
    media_column,
    null_cells,
    open_parquet,
)
from pipeline.media.columns import (
    HIDDEN,
    NO_EXTENSION,
    NOT_A_FILE,
    NOT_UTF8,
    ColumnReader,
    folder_label,
    named_media,
    why_hidden,
)
from pipeline.media.lists import resolve, why_no_name
from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy, open_retrying
from pipeline.media.source import KINDS, Media, cell_uri, extension_of
from schemas.outcome import Reason

TAR = "tar"
"""Extension of WebDataset shards."""
PARQUET = "parquet"
"""Extension of Parquet files."""
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Endings of tars whose members no offset finds."""

_GZIP_MAGIC = b"\x1f\x8b"
_CAPTION, _LABEL, _COLUMNS = "txt", "cls", "json"
_MAX_SIDECAR_BYTES = 16 * 2**20
_BATCH_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A tar or Parquet file, and how it is read."""

    uri: str
    version: str
    reader: ColumnReader
    labels_from_folders: bool
    policy: RetryPolicy


@dataclass(kw_only=True, slots=True)
class _Sample:
    """Neighbouring members of one WebDataset key."""

    key: str
    media: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)
    sidecars: dict[str, bytes] = field(default_factory=dict)


def tar_members(container: Container) -> Iterator[Media]:
    """Media of a WebDataset tar, in its order, with the caption (txt), label (cls) and columns (json) of their key.

    Headers and those three are read, one sample at a time.

    Raises:
        RejectClip: The tar cannot be read, or is damaged or cut off (`corrupt`) after what was given.
        ValueError: The tar is compressed.
    """
    sample = _Sample(key="")
    with open_retrying(container.uri, policy=container.policy) as stream:
        if stream.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC:
            raise compressed_tar(container.uri)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (entry := tar.next()) is not None:
                    # tarfile keeps what it has read.
                    tar.members.clear()  # type: ignore[attr-defined]
                    name = entry.name.removeprefix("./")
                    why_not = _why_not(entry, name)
                    if entry.isdir() or why_not in (NOT_A_FILE, HIDDEN, NOT_UTF8):
                        # Such a member belongs to no sample, and parts none.
                        if not entry.isdir():
                            container.reader.ignored[str(why_not)] += 1
                        continue
                    folder, slash, base = name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    if f"{folder}{slash}{stem}" != sample.key:
                        yield from _media_of(sample, container)
                        sample = _Sample(key=f"{folder}{slash}{stem}")
                    if why_not is None:
                        sample.media.append((name, entry))
                    elif why_not == ending.lower() and ending.lower() in (_CAPTION, _LABEL, _COLUMNS):
                        if entry.size > _MAX_SIDECAR_BYTES:
                            raise ValueError(
                                f"{container.uri}: {name} has {entry.size} bytes, at most {_MAX_SIDECAR_BYTES} are read"
                            )
                        content = tar.extractfile(entry)
                        assert content is not None
                        sample.sidecars[ending.lower()] = content.read()
                    else:
                        container.reader.ignored[why_not] += 1
                # tarfile takes a damaged or missing header for the end; the true end is a block of zeros.
                stream.seek(tar.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise RejectClip(
                        Reason.CORRUPT, f"not a whole tar: it ends in the midst of its members, at byte {tar.offset}"
                    )
        except tarfile.TarError as error:
            raise RejectClip(Reason.CORRUPT, f"not a whole tar: {error}") from error
    yield from _media_of(sample, container)


def compressed_tar(url: str) -> ValueError:
    """The refusal of a compressed tar."""
    return ValueError(f"{url}: a compressed tar gives no random access. Unpack it to a plain .tar")


def parquet_rows(container: Container, *, is_named: bool) -> Iterator[Media]:
    """Media of a Parquet file, in its order: cells with bytes, else what a column names; streamed.

    Args:
        container: The file.
        is_named: The file itself is an input: it must have a column of media. Others, found in a folder, need not.

    Raises:
        RejectClip: The file cannot be read, or is damaged (`corrupt`) after what was given.
        ValueError: There is no column of media; a row names media of no known kind.
    """
    reader = container.reader
    with open_retrying(container.uri, policy=container.policy) as stream:
        try:
            with open_parquet(stream) as file:
                schema = file.schema_arrow
                column = media_column(schema, reader.names.media)
                if column is None and not is_named:
                    reader.ignored[f"{PARQUET} without a column of media"] += 1
                elif column is None:
                    wanted = reader.names.media or f"of a name such as {', '.join(BYTES_COLUMNS)}, url or path"
                    raise ValueError(
                        f"{container.uri}: no column {wanted} with bytes, URLs or paths; there are {schema.names}"
                    )
                else:
                    reader.saw(column.name)
                    yield from _rows(file, column, container)
        except (pa.ArrowException, OSError) as error:
            raise RejectClip(Reason.CORRUPT, f"{type(error).__name__}: {error}") from error


def _why_not(entry: tarfile.TarInfo, name: str) -> str | None:
    """Key under which a member is ignored, its extension included; None for a media."""
    if not entry.isfile() or entry.issparse():
        return NOT_A_FILE
    hidden = why_hidden(name)
    extension = extension_of(name)
    return hidden or (None if extension in KINDS else extension or NO_EXTENSION)


def _media_of(sample: _Sample, container: Container) -> Iterator[Media]:
    reader = container.reader
    if not sample.media:
        reader.ignored.update(list(sample.sidecars))
        return
    texts = {name: content.decode(errors="replace").strip() for name, content in sample.sidecars.items()}
    row = _json_object(texts.get(_COLUMNS))
    if row is None:
        reader.ignored[f"{_COLUMNS} that is no object"] += 1
    described = reader.describe(
        row or {},
        media=None,
        where=f"{container.uri}, sample {sample.key}",
        caption=texts.get(_CAPTION) or None,
        label=texts.get(_LABEL) or None,
    )
    for name, entry in sample.media:
        label = described.label
        yield Media(
            uri=f"{container.uri}#{name}",
            kind=KINDS[extension_of(name)],
            size_bytes=entry.size,
            version=container.version,
            container=container.uri,
            offset=entry.offset_data,
            label=folder_label(name) if label is None and container.labels_from_folders else label,
            caption=described.caption,
            columns=described.columns,
        )


def _json_object(text: str | None) -> Mapping[str, object] | None:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _rows(file: pq.ParquetFile, column: MediaColumn, container: Container) -> Iterator[Media]:
    reader = container.reader
    others = []
    for entry in file.schema_arrow:
        if entry.name == column.name:
            continue
        if _holds_bytes(entry.type):
            reader.ignored[f"column {entry.name}: bytes"] += file.metadata.num_rows
        else:
            others.append(entry.name)
    leaves = [*others, *([column.name_path] if column.name_path else [])]
    automatic = media_column(file.schema_arrow, None) == column
    number = 0
    head: bytes | None = None
    for group in range(file.metadata.num_row_groups):
        group_rows = file.metadata.row_group(group).num_rows
        empty = [True] * group_rows if column.bytes_path is None else null_cells(file, column.bytes_path, group)
        in_group = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=leaves, use_threads=False):
            names = _names(batch, column)
            for row, name in zip(_plain_rows(batch, others), names, strict=True):
                where = f"{container.uri}, row {number}"
                place, cell_is_empty = (name or "").strip(), empty[in_group]
                in_group, number = in_group + 1, number + 1
                why_not = why_no_name(place) if cell_is_empty else None
                if why_not is not None:
                    reader.ignored[why_not] += 1
                    continue
                if not cell_is_empty and extension_of(place) not in KINDS and head is None:
                    # The bytes are not read while listing, but for the first cell without a telling name.
                    head = _cell(container, column.name, number - 1)
                kind = reader.kind_of(
                    place, column=column.name, where=where, head=b"" if cell_is_empty else head or b""
                )
                described = reader.describe(row, media=column.name, where=where, caption=None, label=None)
                if cell_is_empty:
                    yield named_media(
                        resolve(place, base=container.uri, where=where),
                        described=described,
                        kind=kind,
                        labels_from_folders=container.labels_from_folders,
                    )
                    continue
                label = described.label
                yield Media(
                    uri=cell_uri(container.uri, number - 1, None if automatic else column.name),
                    kind=kind,
                    size_bytes=None,
                    version=container.version,
                    container=container.uri,
                    offset=number - 1,
                    label=folder_label(place) if label is None and container.labels_from_folders else label,
                    caption=described.caption,
                    columns=described.columns,
                )


def _names(batch: pa.RecordBatch, column: MediaColumn) -> Sequence[str | None]:
    """What the column names in each row; nothing where it holds bytes alone."""
    if column.name_path is None:
        return [None] * batch.num_rows
    values = batch.column(column.name).to_pylist()
    return [value["path"] if isinstance(value, dict) else value for value in values]


def _plain_rows(batch: pa.RecordBatch, names: Sequence[str]) -> list[dict[str, object]]:
    """Rows of Python's own types; times, decimals and the like as text."""
    if not names:
        return [{} for _ in range(batch.num_rows)]
    arrays = []
    for name in names:
        values = batch.column(name)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        # Python's own times hold no nanoseconds.
        if pa.types.is_temporal(values.type) or pa.types.is_decimal(values.type):
            values = pc.cast(values, pa.string())
        arrays.append(values)
    return cast(list[dict[str, object]], pa.RecordBatch.from_arrays(arrays, names=list(names)).to_pylist())


def _cell(container: Container, column: str, row: int) -> bytes:
    with CellReader(open_retrying(container.uri, policy=container.policy), column) as cells:
        return cells.read(row)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if is_binary(kind):
        return True
    if pa.types.is_map(kind):
        return _holds_bytes(kind.key_type) or _holds_bytes(kind.item_type)
    if pa.types.is_struct(kind):
        return any(_holds_bytes(child.type) for child in kind)
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return nested and _holds_bytes(kind.value_type)
