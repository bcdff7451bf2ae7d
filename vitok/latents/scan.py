"""Clips by key or by a condition on their columns: reads those columns, shard by shard, and no latents."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vitok.latents.blocks import BlockReader
from vitok.latents.index import LatentIndex


def find_rows(
    index: LatentIndex, reader: BlockReader, condition: pc.Expression, *, schema: pa.Schema
) -> NDArray[np.int64]:
    """Global positions of the clips that meet a condition, ascending.

    Raises:
        ValueError: The condition names no column, or one that is not in the schema.
    """
    names = named_columns(condition, schema)
    row = "row of " + max(names, key=len)  # longer than any of them, so none of them
    found = [np.zeros(0, dtype=np.int64)]
    for number, start in enumerate(index.offsets[:-1]):
        clips = int(index.offsets[number + 1] - start)
        table = reader.shard(number).table(names, 0, clips)
        table = table.append_column(row, pa.array(np.arange(start, start + clips)))
        found.append(table.filter(condition).column(row).to_numpy())
    return np.concatenate(found)


def find_keys(index: LatentIndex, reader: BlockReader, keys: Sequence[str]) -> NDArray[np.int64]:
    """Global positions of clips by key, in the order of the keys.

    Raises:
        KeyError: There is no clip of such a key.
    """
    unique = pa.array(dict.fromkeys(keys), pa.string())
    found = np.full(len(unique), -1, dtype=np.int64)
    for number, start in enumerate(index.offsets[:-1]):
        if (found >= 0).all():
            break
        clips = int(index.offsets[number + 1] - start)
        table = reader.shard(number).table(["key"], 0, clips)
        places = pc.fill_null(pc.index_in(table.column("key"), value_set=unique), -1).to_numpy()
        rows = np.flatnonzero(places >= 0)
        found[places[rows]] = start + rows
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise KeyError(f"the store has no clip of key {unique[missing[0]].as_py()!r} ({len(missing)} such keys)")
    asked: NDArray[np.int64] = pc.index_in(pa.array(keys, pa.string()), value_set=unique).to_numpy()
    return found[asked]


def named_columns(condition: pc.Expression, schema: pa.Schema) -> list[str]:
    """Columns that a condition names: those without which it means nothing.

    Raises:
        ValueError: There are none, or the condition does not fit the schema.
    """
    empty = schema.empty_table()
    try:
        empty.filter(condition)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"where: {condition} does not fit the columns {schema.names}: {error}") from error
    names = []
    for name in schema.names:
        try:
            empty.drop_columns([name]).filter(condition)
        except pa.ArrowException:
            names.append(name)
    if not names:
        raise ValueError(f"where: {condition} names none of the columns {schema.names}")
    return names
