"""LatentStore: a latent store in a plain PyTorch program, without Ray."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import fsspec
import torch
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.latents.index import LatentShard, read_index
from vitok.latents.shards import DTYPES, LatentRows, read_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentStatistics:
    """Moments of the stored means, per channel; the mirrored view's are not in them."""

    count: int
    """Values of one channel."""
    mean: Tensor
    """[K], float64."""
    std: Tensor
    """[K], float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentBatch:
    """Latents of one grid."""

    latents: dict[str, Tensor]
    """By latent column of the store: [B, T', H', W', K] of the stored dtype."""
    columns: dict[str, list[object]]
    """The other columns by name, "key" among them, each of length B."""


class LatentStore:
    """A finished latent store, Parquet or WebDataset, on any file system.

    >>> store = LatentStore("runs/latents")  # doctest: +SKIP
    >>> for batch in store.batches(256):  # doctest: +SKIP
    ...     z = store.normalise(batch.latents["mean"])
    """

    def __init__(self, url: str) -> None:
        """Open a store.

        Raises:
            ValueError: No finished latent store of a known version is there.
        """
        self.url = url.rstrip("/")
        self._index = read_index(self.url)
        self._file_system, self._root = fsspec.core.url_to_fs(self.url)
        latent = cast(Mapping[str, object], self._index.document["latent"])
        self.dtype = DTYPES[str(latent["dtype"])]
        """Of the stored latents."""
        self.channels = int(cast(int, latent["channels"]))
        """K."""
        self.latent_columns = tuple(cast(Sequence[str], latent["columns"]))
        """"mean", "logvar" where it was stored, then "mean_flip" and "logvar_flip" where the mirrored view was."""
        self._dtype_name = str(latent["dtype"])

    def __len__(self) -> int:
        return self._index.offsets[-1]

    @property
    def document(self) -> Mapping[str, object]:
        """`store.json` as it stands on disk."""
        return self._index.document

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hash of the config and weights that made the latents."""
        return str(cast(Mapping[str, object], self.document["tokenizer"])["fingerprint"])

    @property
    def tokenizer_config(self) -> AutoEncoderConfig:
        """Config of the auto-encoder that made the latents."""
        tokenizer = cast(Mapping[str, object], self.document["tokenizer"])
        return AutoEncoderConfig.from_json(cast(Mapping[str, object], tokenizer["config"]))

    @property
    def buckets(self) -> dict[tuple[int, int, int], int]:
        """Number of clips by grid (tubelets along time, height, width)."""
        counts: dict[tuple[int, int, int], int] = {}
        for shard in self._index.shards:
            counts[shard.grid] = counts.get(shard.grid, 0) + shard.num_clips
        return counts

    def statistics(self, grid: tuple[int, int, int] | None = None) -> LatentStatistics:
        """Moments over the whole store, or over one bucket.

        Raises:
            KeyError: The store has no such bucket.
        """
        normalisation = cast(Mapping[str, object], self.document["normalisation"])
        if grid is None:
            found = normalisation["all"]
        else:
            buckets = cast(Mapping[str, object], normalisation["buckets"])
            found = buckets["grid=" + "x".join(map(str, grid))]
        moments = cast(Mapping[str, object], found)
        return LatentStatistics(
            count=cast(int, moments["count"]),
            mean=torch.tensor(cast(Sequence[float], moments["mean"]), dtype=torch.float64),
            std=torch.tensor(cast(Sequence[float], moments["std"]), dtype=torch.float64),
        )

    def normalise(self, latents: Tensor) -> Tensor:
        """(z - mean) / std per channel, float32: [..., K] to zero mean and unit variance over the corpus.

        A channel that never varies has std 0 and comes out as 0.
        """
        statistics = self.statistics()
        std = torch.where(statistics.std > 0, statistics.std, torch.inf)
        centred = latents.to(torch.float32) - statistics.mean.to(torch.float32)
        return centred / std.to(torch.float32)

    def take(self, positions: Sequence[int]) -> LatentBatch:
        """Clips at global positions, in that order; all must lie in one bucket.

        Raises:
            IndexError: A position is outside the store.
            ValueError: The positions lie in several buckets, so that no batch holds them, or there are none.
        """
        places = [self._index.locate(position) for position in positions]
        grids = {self._index.shards[shard].grid for shard, _ in places}
        if len(grids) != 1:
            raise ValueError(f"take: positions lie in {len(grids)} buckets {sorted(grids)}, expected one")
        needed: dict[int, dict[int, tuple[dict[str, Tensor], dict[str, object]]]] = {}
        for shard in sorted({shard for shard, _ in places}):
            needed[shard] = self._rows_at(self._index.shards[shard], {row for index, row in places if index == shard})
        rows = [needed[shard][row] for shard, row in places]
        return LatentBatch(
            latents={name: torch.stack([latents[name] for latents, _ in rows]) for name in self.latent_columns},
            columns={name: [columns[name] for _, columns in rows] for name in rows[0][1]},
        )

    def batches(self, batch_size: int) -> Iterator[LatentBatch]:
        """Every clip once, in the store's order; a batch never mixes buckets, so the last of a bucket may be short.

        Raises:
            ValueError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
        for grid in self.buckets:
            held: list[LatentRows] = []
            for shard in self._index.shards:
                if shard.grid != grid:
                    continue
                for rows in self._read(shard):
                    held.append(rows)
                    batches, rest = _cut(held, batch_size)
                    yield from batches
                    held = [rest] if rest is not None else []
            for rows in held:
                yield LatentBatch(latents=rows.latents, columns=rows.columns)

    def _read(self, shard: LatentShard) -> Iterator[LatentRows]:
        with cast(BinaryIO, self._file_system.open(f"{self._root}/{shard.path}", "rb")) as stream:
            count = 0
            for rows in read_rows(
                stream,
                path=shard.path,
                shape=(*shard.grid, self.channels),
                dtype=self._dtype_name,
                latent_columns=self.latent_columns,
            ):
                count += len(rows.columns["key"])
                yield rows
        if count != shard.num_clips:
            raise ValueError(f"{shard.path}: holds {count} clips, the index says {shard.num_clips}")

    def _rows_at(self, shard: LatentShard, wanted: set[int]) -> dict[int, tuple[dict[str, Tensor], dict[str, object]]]:
        found = {}
        first = 0
        for rows in self._read(shard):
            count = len(rows.columns["key"])
            for row in sorted(wanted & set(range(first, first + count))):
                place = row - first
                found[row] = (
                    {name: values[place] for name, values in rows.latents.items()},
                    {name: values[place] for name, values in rows.columns.items()},
                )
            first += count
        return found


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
