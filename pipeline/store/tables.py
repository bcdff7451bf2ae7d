"""Arrow tables as Parquet files in a folder: written whole or not at all, read in the caller's thread."""

from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.files import FileRecord, Folder


def write_table(folder: Folder, path: str, table: pa.Table) -> FileRecord:
    """Write an Arrow table as one Parquet file, whole or not at all."""
    with folder.stage(path) as staged:
        pq.write_table(table, staged.stream)
        return staged.commit()


class RowGroupWriter:
    """Rows into a Parquet file, `group_rows` to a row group: no more of them are in memory."""

    def __init__(self, writer: pq.ParquetWriter, *, group_rows: int) -> None:
        self.num_rows = 0
        self._writer = writer
        self._group_rows = group_rows
        self._rows: list[dict[str, object]] = []

    def write(self, row: dict[str, object]) -> None:
        """Append a row of the writer's schema."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == self._group_rows:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer; the stream stays open."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
            self._rows = []


def read_table(source: BinaryIO | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or the bytes of one, in this thread.

    Not `pq.read_table` of a Python file (pyarrow 26): its threads may outlive the call and abort the interpreter as it
    ends (32 of 60 runs of a script that did no more).
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)
