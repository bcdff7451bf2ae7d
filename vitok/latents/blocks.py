"""Blocks of shards, anywhere in them: the cells of latents as they lie, other columns as Python objects."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vitok.latents.files import ShardFile, ShardFiles
from vitok.latents.index import LatentIndex, LatentShard
from vitok.latents.parquet import ParquetShard
from vitok.latents.shards import as_bytes, read_rows

_OPEN_SHARDS = {"parquet": 256, "webdataset": 2}
"""Shards that a reader keeps open: of Parquet a mapping and a footer each, of tars all that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Neighbouring rows of one shard."""

    latents: Mapping[str, NDArray[np.uint8]]
    """By latent column: [rows, bytes of a cell], not to be written to."""
    columns: Mapping[str, NDArray[np.object_]]
    """By other column: [rows]."""


class OpenShard(Protocol):
    """A shard that is read in any order; safe to use from several threads."""

    @property
    def schema(self) -> pa.Schema:
        """All its columns; of a tar, those that were asked for."""

    def cells(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows [start, stop) of a latent column: [rows, bytes of a cell], not to be written to."""

    def table(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Rows [start, stop) of other columns."""

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Have cells on their way, if that is possible without waiting."""


class TarShard:
    """A tar shard: read whole as it is opened."""

    def __init__(
        self, file: ShardFile, shard: LatentShard, *, shape: tuple[int, ...], dtype: str, latent_columns: Sequence[str]
    ) -> None:
        """Read the tar.

        Raises:
            ValueError: It is damaged, or does not hold as many clips as the index says.
        """
        with file.stream() as stream:
            (rows,) = read_rows(stream, path=shard.path, shape=shape, dtype=dtype, latent_columns=latent_columns)
        if len(rows.columns["key"]) != shard.num_clips:
            raise ValueError(
                f"{shard.path}: holds {len(rows.columns['key'])} clips, the index says {shard.num_clips}: damaged"
            )
        self._path = shard.path
        self._cells = {name: as_bytes(values) for name, values in rows.latents.items()}
        self._table = pa.table(rows.columns)
        self.schema: pa.Schema = self._table.schema

    def cells(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """See `OpenShard`."""
        return self._cells[name][start:stop]

    def table(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """See `OpenShard`.

        Raises:
            ValueError: The shard lacks a column.
        """
        for name in names:
            if name not in self.schema.names:
                raise ValueError(f"{self._path}: has no column {name!r}, expected one of {self.schema.names}")
        return self._table.select(list(names))[start:stop]

    def will_need(self, name: str, start: int, stop: int) -> None:
        """See `OpenShard`; they are there."""


class BlockReader:
    """Reads blocks of one store; safe to use from several threads."""

    def __init__(
        self, index: LatentIndex, files: ShardFiles, *, latents: Sequence[str], columns: Sequence[str]
    ) -> None:
        """Read these latent columns and these others, and nothing else of a shard."""
        self._index = index
        self._files = files
        self._dtype = index.latent.dtype
        self._channels = index.latent.channels
        self._latents = tuple(latents)
        self._columns = tuple(columns)
        self._limit = _OPEN_SHARDS[index.latent.form]
        self._open: OrderedDict[int, Future[OpenShard]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[partial["BlockReader"], tuple[()]]:
        # What is open stays in its process.
        names = {"latents": self._latents, "columns": self._columns}
        return partial(BlockReader, self._index, self._files, **names), ()

    def block(self, number: int, start: int, stop: int, *, whole: bool) -> Block:
        """Rows [start, stop) of a shard.

        Args:
            number: Of the shard.
            start: First row.
            stop: The row after the last.
            whole: All of them will be used: have them read ahead.

        Raises:
            ValueError: The shard is damaged, or lacks a column; it is named.
        """
        shard = self.shard(number)
        if whole:
            for name in self._latents:
                shard.will_need(name, start, stop)
        columns: Mapping[str, NDArray[np.object_]] = {}
        if self._columns:
            table = shard.table(self._columns, start, stop)
            columns = {name: objects(table.column(name)) for name in self._columns}
        return Block(latents={name: shard.cells(name, start, stop) for name in self._latents}, columns=columns)

    def shard(self, number: int) -> OpenShard:
        """A shard, opened where it is not open yet."""
        with self._lock:
            opened = self._open.get(number)
            first = opened is None
            if opened is None:
                opened = self._open[number] = Future()
                while len(self._open) > self._limit:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
        if first:  # whoever else wants it waits, and asks a remote store nothing
            try:
                opened.set_result(self._opened(number))
            except BaseException as error:
                with self._lock:
                    self._open.pop(number, None)
                opened.set_exception(error)
        return opened.result()

    def _opened(self, number: int) -> OpenShard:
        entry = self._index.shard(number)
        file, shape = self._files.open(entry), (*entry.grid, self._channels)
        if entry.path.endswith(".tar"):
            return TarShard(file, entry, shape=shape, dtype=self._dtype, latent_columns=self._latents)
        return ParquetShard(file, entry, shape=shape, dtype=self._dtype)


def objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """A column's values as Python has them, null as None: [rows]."""
    if pa.types.is_string(column.type) or not (column.null_count or pa.types.is_null(column.type)):
        return np.asarray(column.to_numpy(), dtype=np.object_)
    values = np.empty(len(column), dtype=np.object_)
    values[:] = column.to_pylist()
    return values
