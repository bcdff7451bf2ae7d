"""A store from its first clip to its last: whole row groups, each read once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitok.latents.files import ShardFiles
from vitok.latents.index import LatentIndex, LatentShard
from vitok.latents.shards import LatentRows, read_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentBatch:
    """Latents of one grid."""

    latents: dict[str, Tensor]
    """By latent column of the store: [B, T', H', W', K] of the stored dtype."""
    columns: dict[str, list[object]]
    """The other columns by name, "key" among them where all were asked for, each of length B."""


def read_batches(index: LatentIndex, files: ShardFiles, batch_size: int) -> Iterator[LatentBatch]:
    """Every clip once, in the store's order, bucket by bucket; see `LatentStore.batches`.

    Raises:
        ValueError: A shard is damaged; it is named.
    """
    for bucket in range(len(index.grids)):
        held: list[LatentRows] = []
        for number in np.flatnonzero(index.bucket == bucket):
            for rows in _read(index, files, index.shard(int(number))):
                held.append(rows)
                batches, rest = _cut(held, batch_size)
                yield from batches
                held = [rest] if rest is not None else []
        for rows in held:
            yield LatentBatch(latents=rows.latents, columns=rows.columns)


def _read(index: LatentIndex, files: ShardFiles, shard: LatentShard) -> Iterator[LatentRows]:
    latent = index.latent
    with files.open(shard).stream() as stream:
        count = 0
        for rows in read_rows(
            stream,
            path=shard.path,
            shape=(*shard.grid, latent.channels),
            dtype=latent.dtype,
            latent_columns=latent.columns,
        ):
            count += len(rows.columns["key"])
            yield rows
    if count != shard.num_clips:
        raise ValueError(f"{shard.path}: holds {count} clips, the index says {shard.num_clips}: damaged")


def _cut(held: list[LatentRows], batch_size: int) -> tuple[list[LatentBatch], LatentRows | None]:
    """Whole batches out of the rows held, and what is left."""
    names = list(held[0].latents)
    latents = {
        name: held[0].latents[name] if len(held) == 1 else torch.cat([rows.latents[name] for rows in held])
        for name in names
    }
    columns = {name: [value for rows in held for value in rows.columns[name]] for name in held[0].columns}
    count = len(columns["key"])
    whole = count - count % batch_size
    batches = [
        LatentBatch(
            latents={name: values[start : start + batch_size] for name, values in latents.items()},
            columns={name: values[start : start + batch_size] for name, values in columns.items()},
        )
        for start in range(0, whole, batch_size)
    ]
    if whole == count:
        return batches, None
    rest = LatentRows(
        latents={name: values[whole:] for name, values in latents.items()},
        columns={name: values[whole:] for name, values in columns.items()},
    )
    return batches, rest
