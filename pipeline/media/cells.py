"""Cells of Parquet files that hold media, or name them: which column it is, and its bytes read forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

BYTES_COLUMNS = ("image", "video", "jpg", "jpeg", "png", "webp", "mp4", "bytes")
"""Names of columns that hold media, in order of preference, in any case."""
NAME_COLUMNS = (
    "url",
    "uri",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "video_path",
    "image_url",
    "video_url",
)
"""Names of columns that name media, after those that hold them."""

_BUFFER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaColumn:
    """The column of a Parquet file that gives its media."""

    name: str
    bytes_path: str | None
    """Leaf with the bytes: the column itself, or its field "bytes"."""
    name_path: str | None
    """Leaf with a URL or a path: the column itself, or its field "path"."""


def pick_column(candidates: Sequence[str], available: Sequence[str]) -> str | None:
    """The first candidate that is among the available names, in any case; spelt as it is there."""
    spelt = {name.lower(): name for name in reversed(available)}
    return next((spelt[name] for name in candidates if name in spelt), None)


def media_column(schema: pa.Schema, wanted: str | None) -> MediaColumn | None:
    """Column of the media: the wanted one, else the first by name whose type fits; None where there is none."""
    fitting = {field.name: found for field in schema if (found := _as_media(field)) is not None}
    if wanted is not None:
        return fitting.get(wanted)
    name = pick_column((*BYTES_COLUMNS, *NAME_COLUMNS), list(fitting))
    return None if name is None else fitting[name]


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type is one of bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def open_parquet(stream: BinaryIO) -> pq.ParquetFile:
    """Open a Parquet file so that no column chunk is ever held whole."""
    return pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)


class CellReader:
    """Bytes of a column's cells by row; rows asked for in order are read once, one at a time."""

    def __init__(self, stream: BinaryIO, column: str | None) -> None:
        """Take over an open Parquet file.

        Args:
            stream: Of the file; closed with the reader.
            column: Name of the column; None takes the one that `media_column` takes.

        Raises:
            ValueError: There is no such column with bytes, or the file is no Parquet.
        """
        self._stream = stream
        self._file = open_parquet(stream)
        found = media_column(self._file.schema_arrow, column)
        if found is None or found.bytes_path is None:
            raise ValueError(
                f"column {column or 'of media'}: expected one of bytes, among {self._file.schema_arrow.names}"
            )
        self._leaf = found.bytes_path
        metadata = self._file.metadata
        self._group_rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._cells: Iterator[bytes | None] = iter(())
        self._next_row = 0
        self._end_row = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._stream.close()

    def read(self, row: int) -> bytes:
        """Bytes of one cell; none where it is null.

        Raises:
            ValueError: There is no such row, or the file is damaged.
            OSError: The file is damaged.
        """
        if not self._next_row <= row < self._end_row:
            self._start_group_of(row)
        # The rows between, which another shard takes, are decoded on the way: Parquet has no way round them.
        while self._next_row < row:
            next(self._cells)
            self._next_row += 1
        self._next_row += 1
        return next(self._cells) or b""

    def _start_group_of(self, row: int) -> None:
        first_row = 0
        for index, rows in enumerate(self._group_rows):
            if row < first_row + rows:
                self._cells = self._cells_of(index)
                self._next_row, self._end_row = first_row, first_row + rows
                return
            first_row += rows
        raise ValueError(f"row {row}: there are {first_row}")

    def _cells_of(self, group: int) -> Iterator[bytes | None]:
        # One row a batch: a batch is held whole, and a row may be a film.
        for batch in self._file.iter_batches(batch_size=1, row_groups=[group], columns=[self._leaf], use_threads=False):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = column.field("bytes") if column.is_valid()[0].as_py() else pa.nulls(1)
            yield cast(bytes | None, column[0].as_py())


def null_cells(file: pq.ParquetFile, leaf: str, group: int) -> Sequence[bool]:
    """Whether each row of a row group has nothing in a leaf; by the file's statistics where they tell."""
    rows = file.metadata.row_group(group)
    for index in range(rows.num_columns):
        chunk = rows.column(index)
        statistics = chunk.statistics if chunk.path_in_schema == leaf else None
        if statistics is not None and statistics.has_null_count and statistics.null_count in (0, rows.num_rows):
            return [statistics.null_count > 0] * rows.num_rows
    found: list[bool] = []
    for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=[leaf], use_threads=False):
        column = batch.column(0)
        value = column[0].as_py()
        found.append((value["bytes"] if isinstance(value, dict) else value) is None)
    return found


def _as_media(field: pa.Field) -> MediaColumn | None:
    if is_binary(field.type):
        return MediaColumn(name=field.name, bytes_path=field.name, name_path=None)
    if is_text(field.type):
        return MediaColumn(name=field.name, bytes_path=None, name_path=field.name)
    if not pa.types.is_struct(field.type):
        return None
    inside = {child.name: child.type for child in field.type}
    has_bytes = "bytes" in inside and is_binary(inside["bytes"])
    has_path = "path" in inside and is_text(inside["path"])
    if not has_bytes and not has_path:
        return None
    return MediaColumn(
        name=field.name,
        bytes_path=f"{field.name}.bytes" if has_bytes else None,
        name_path=f"{field.name}.path" if has_path else None,
    )
