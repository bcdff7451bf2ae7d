"""Keys of the clips that stores hold, and the refusal of a clip that would stand twice in one."""

from collections.abc import Iterator, Sequence
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.media.repeats import Repeats
from pipeline.store.clipshard import read_keys
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow, Store
from pipeline.store.plan import Plan, RunRefusedError
from pipeline.store.planned_clips import read_planned_keys
from pipeline.store.tables import read_table

_NAMED = 3
"""Keys that a refusal names."""


def read_stored_keys(folder: Folder, path: str) -> Iterator[str]:
    """Keys of one shard of clips or latents, in order: of a Parquet file one column is read, of a tar all of it.

    Raises:
        ValueError: It is damaged; names it.
    """
    with folder.open(path) as stream:
        if path.endswith(".tar"):
            yield from read_keys(stream, where=folder.path(path))
            return
        try:
            for batch in pq.ParquetFile(stream).iter_batches(columns=["key"], use_threads=False):
                yield from batch["key"].to_pylist()
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(f"{folder.path(path)}: its keys cannot be read: {error}") from error


def store_keys(store: Store, rows: Sequence[IndexRow]) -> Iterator[str]:
    """Keys of the clips that some shards of a store hold, in order; of planned clips without reading the shards."""
    plan = Plan.load(store.folder)
    assert plan is not None, "a finished store has a plan"
    for row in rows:
        if row.path is None:
            continue
        planned = read_planned_keys(store.folder, plan.shards[row.shard])
        if planned is None:
            yield from read_stored_keys(store.folder, row.path)
            continue
        ended: set[str] = set()
        if row.outcomes_path is not None:
            ended.update(read_table(store.folder.read_bytes(row.outcomes_path), columns=["key"])["key"].to_pylist())
        yield from (key for key in planned if key not in ended)


def refuse_repeats(parts: Sequence[tuple[Store, Sequence[IndexRow]]], *, output: Folder) -> None:
    """Refuse to put clips into one store that have the same key: they are of one place of one media.

    Reads every key; 24 bytes for each on disk, a bounded number in memory (`Repeats`).

    Args:
        parts: Shards by store.
        output: The store that would hold them.

    Raises:
        RunRefusedError: Says how many clips stand twice, and names some.
    """
    with Repeats() as repeats:
        for key in _keys(parts):
            repeats.add(key.encode())
        positions = repeats.repeated()
    if not len(positions):
        return
    first = set(positions[:_NAMED].tolist())
    named = [key for position, key in enumerate(_keys(parts)) if position in first]
    raise RunRefusedError(
        f"{output.url}: {len(positions)} clips would stand in it twice, such as {', '.join(named)}: they are of the "
        "same media. Nothing was written. Leave out what has them, of "
        f"{', '.join(store.folder.url for store, _ in parts)}, or prepare it again without those media"
    )


def _keys(parts: Sequence[tuple[Store, Sequence[IndexRow]]]) -> Iterator[str]:
    return chain.from_iterable(store_keys(store, rows) for store, rows in parts)
