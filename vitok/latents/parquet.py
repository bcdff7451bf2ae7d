"""Parquet shards, anywhere in them: latent cells without a copy where they stand in the file one after the other."""

import math
import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitok.latents.files import ShardFile
from vitok.latents.index import LatentShard
from vitok.latents.shards import DTYPES, as_bytes, column_tensor

_LONGEST_HEADER = 64
"""Bytes; those of Arrow's data pages have 22 to 30."""


class ParquetShard:
    """A Parquet shard: row groups are read by themselves."""

    def __init__(self, file: ShardFile, shard: LatentShard, *, shape: tuple[int, ...], dtype: str) -> None:
        """Read the footer.

        Raises:
            ValueError: It is damaged, or does not hold as many clips as the index says.
        """
        self._file = file
        self._path = shard.path
        self._shape = shape
        self._dtype = dtype
        self._cell_bytes = DTYPES[dtype].itemsize * math.prod(shape)
        self._lock = threading.Lock()
        self._plain: dict[tuple[str, int], tuple[int, int]] = {}
        try:
            self._parquet = pq.ParquetFile(file.stream())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{shard.path}: not a whole Parquet file: {error}") from error
        self._metadata = self._parquet.metadata
        if self._metadata.num_rows != shard.num_clips:
            raise ValueError(
                f"{shard.path}: holds {self._metadata.num_rows} clips, the index says {shard.num_clips}: damaged"
            )
        self.schema: pa.Schema = self._parquet.schema_arrow
        counts = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *counts]).tolist()

    def cells(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """See `vitok.latents.blocks.OpenShard`.

        Raises:
            ValueError: The shard is damaged, or its cells are not of the store's shape and dtype.
        """
        parts = [self._group_cells(name, group)[first:end] for group, first, end in self._groups(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def table(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """See `vitok.latents.blocks.OpenShard`.

        Raises:
            ValueError: The shard is damaged, or lacks a column.
        """
        for name in names:
            self._column(name)
        parts = [self._read(group, names)[first:end] for group, first, end in self._groups(start, stop)]
        return pa.concat_tables(parts)

    def will_need(self, name: str, start: int, stop: int) -> None:
        """See `vitok.latents.blocks.OpenShard`."""
        for group, _, _ in self._groups(start, stop):
            self._file.will_need(*self._span(name, group))

    def _groups(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Row groups that hold rows of a span, and which of their rows."""
        return [
            (group, max(start - first, 0), min(stop, end) - first)
            for group, (first, end) in enumerate(pairwise(self._starts))
            if first < stop and start < end
        ]

    def _column(self, name: str) -> int:
        if name not in self.schema.names:
            raise ValueError(f"{self._path}: has no column {name!r}, expected one of {self.schema.names}")
        return int(self.schema.get_field_index(name))

    def _span(self, name: str, group: int) -> tuple[int, int]:
        """First byte of a column in a row group, and the one after the last."""
        chunk = self._metadata.row_group(group).column(self._column(name))
        return chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size

    def _group_cells(self, name: str, group: int) -> NDArray[np.uint8]:
        """A row group's cells, without a copy where they stand in the file one after the other."""
        if (name, group) in self._plain:
            return self._file.read(*self._plain[name, group]).reshape(-1, self._cell_bytes)
        column = self._column(name)
        found = self.schema.field(column)
        rows = self._metadata.row_group(group).num_rows
        size_bytes = rows * self._cell_bytes
        chunk = self._metadata.row_group(group).column(column)
        header_bytes = chunk.total_compressed_size - size_bytes
        if found.type == pa.binary(self._cell_bytes) and not found.nullable and 0 < header_bytes <= _LONGEST_HEADER:
            start, stop = self._span(name, group)
            data = self._file.read(start, stop)
            if data[:header_bytes].tobytes() in _plain_headers(rows, size_bytes):
                self._plain[name, group] = start + header_bytes, stop
                return data[header_bytes:].reshape(rows, self._cell_bytes)
        values = self._read(group, [name]).column(name)
        tensor = column_tensor(values, path=self._path, shape=self._shape, dtype=self._dtype)
        return as_bytes(tensor)

    def _read(self, group: int, names: Sequence[str]) -> pa.Table:
        try:
            with self._lock:
                return self._parquet.read_row_group(group, columns=list(names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self._path}: row group {group} cannot be read: {error}") from error


def _plain_headers(rows: int, size_bytes: int) -> tuple[bytes, bytes]:
    """The header of the one data page that holds all of a column of a row group, PLAIN, uncompressed, without nulls.

    Thrift's compact protocol (parquet.thrift, PageHeader): type DATA_PAGE, both sizes, then num_values, PLAIN, and RLE
    for the levels, which a column without nulls has none of; with empty statistics as Arrow writes them, or without.
    """
    size, count = _varint(2 * size_bytes), _varint(2 * rows)
    start = b"\x15\x00\x15" + size + b"\x15" + size + b"\x2c\x15" + count + b"\x15\x00\x15\x06\x15\x06"
    return start + b"\x1c\x00\x00\x00", start + b"\x00\x00"


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the eighth set on all but the last."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
