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


def read_table(source: BinaryIO | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or the bytes of one, in this thread.

    Not `pq.read_table` of a Python file (pyarrow 26): its threads may outlive the call and abort the interpreter as it
    ends (32 of 60 runs of a script that did no more).
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)
