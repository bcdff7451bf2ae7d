"""LatentStore: a latent store in a plain PyTorch program, without Ray."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitok.config import AutoEncoderConfig
from vitok.latents.batch import Reading
from vitok.latents.blocks import BlockReader
from vitok.latents.cache import ShardCache
from vitok.latents.dataset import LatentDataset, process_group
from vitok.latents.files import ShardFiles
from vitok.latents.form import BatchForm, Layout, Sample, View
from vitok.latents.index import read_index
from vitok.latents.moments import LatentStatistics, Rule, measured, normalised, ruled
from vitok.latents.order import BLOCK_ROWS
from vitok.latents.plan import DatasetSource
from vitok.latents.scan import find_keys, find_rows
from vitok.latents.sequential import LatentBatch, read_batches
from vitok.latents.shards import DTYPES


class LatentStore:
    """A finished latent store, Parquet or WebDataset, on any file system.

    >>> store = LatentStore("runs/latents")  # doctest: +SKIP
    >>> for batch in store.dataset(batch_size=256, columns=("label",)):  # doctest: +SKIP
    ...     loss = step(batch.latent, batch.columns["label"])
    """

    def __init__(self, url: str, *, cache_dir: str | None = None, cache_bytes: int = 2**36) -> None:
        """Open a store: two small files are read, whatever it holds.

        Args:
            url: Where it is.
            cache_dir: Folder on this machine's disk that shards are brought to before they are read; any number of
                stores and processes may share it. None: files of this machine are read where they lie, and of others
                only the row groups that are needed, each time.
            cache_bytes: What the folder may hold.

        Raises:
            ValueError: No finished latent store of a known version is there.
        """
        self.url = url.rstrip("/")
        self.index = read_index(self.url)
        cache = ShardCache(cache_dir, limit_bytes=cache_bytes) if cache_dir is not None else None
        self._files = ShardFiles(self.url, cache=cache)
        latent = self.index.latent
        self.dtype = DTYPES[latent.dtype]
        """Of the stored latents."""
        self.channels = latent.channels
        """K."""
        self.latent_columns = latent.columns
        """"mean", "logvar" where it was stored, then "mean_flip" and "logvar_flip" where the mirrored view was."""
        self._readers: dict[tuple[str, ...], BlockReader] = {}

    def __len__(self) -> int:
        return int(self.index.offsets[-1])

    @property
    def document(self) -> Mapping[str, object]:
        """`store.json` as it stands on disk."""
        return self.index.document

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hash of the config and weights that made the latents."""
        return str(cast(Mapping[str, object], self.document["tokenizer"])["fingerprint"])

    @property
    def tokenizer_config(self) -> AutoEncoderConfig:
        """Config of the auto-encoder that made the latents.

        Raises:
            ValueError: Another project's auto-encoder made them.
        """
        tokenizer = cast(Mapping[str, object], self.document["tokenizer"])
        config = cast(Mapping[str, object], tokenizer["config"])
        if "adapter" in config:
            raise ValueError(
                f"{self.url}: its latents were made through the adapter {config['adapter']!r}, by no ViTok: it has no "
                "AutoEncoderConfig; what made them is in document['tokenizer']['config']"
            )
        return AutoEncoderConfig.from_json(config)

    @property
    def buckets(self) -> dict[tuple[int, int, int], int]:
        """Number of clips by grid (tubelets along time, height, width)."""
        clips = np.bincount(self.index.bucket, weights=np.diff(self.index.offsets), minlength=len(self.index.grids))
        return dict(zip(self.index.grids, clips.astype(np.int64).tolist(), strict=True))

    @property
    def schema(self) -> pa.Schema:
        """The columns beside the latents, with their types, as the first shard has them."""
        if not len(self):
            return pa.schema([])
        found = self._reader(()).shard(0).schema
        return pa.schema([field for field in found if field.name not in self.latent_columns])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns beside the latents."""
        return tuple(self.schema.names)

    def statistics(self, grid: tuple[int, int, int] | None = None) -> LatentStatistics:
        """Moments over the whole store, or over one bucket.

        Raises:
            KeyError: The store has no such bucket.
        """
        return measured(self.document, grid)

    def normalise(self, latents: Tensor, *, by: Rule = "corpus") -> Tensor:
        """(z - mean) / std per channel, float32.

        Args:
            latents: [..., K].
            by: "corpus": zero mean and unit variance over the store; a channel that never varies comes out as 0.
                "tokenizer": with the constants that the tokenizer's authors give.

        Raises:
            ValueError: The tokenizer has no such constants.
        """
        if by == "tokenizer":
            return normalised(latents, *ruled(self.document, url=self.url))
        statistics = self.statistics()
        return normalised(latents, statistics.mean, statistics.std)

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Global positions of clips by key, in the order of the keys: reads the key column of the store.

        Raises:
            KeyError: The store has no clip of such a key.
        """
        return find_keys(self.index, self._reader(()), keys)

    def where(self, condition: pc.Expression) -> NDArray[np.int64]:
        """Global positions of the clips that meet a condition, ascending: reads only the columns that it names.

        >>> store.where(pc.field("label") == "n00000002")  # doctest: +SKIP

        Raises:
            ValueError: The condition names no column, or one that the store has not.
        """
        return find_rows(self.index, self._reader(()), condition, schema=self.schema)

    def take(
        self, positions: Sequence[int] | NDArray[np.int64], *, columns: Sequence[str] | None = None
    ) -> LatentBatch:
        """Clips at global positions, in that order, any of them more than once; all must lie in one bucket.

        Args:
            positions: [B].
            columns: Of those beside the latents; None: all.

        Raises:
            IndexError: A position is outside the store.
            ValueError: The positions lie in several buckets, so that no batch holds them, or there are none.
        """
        wanted = np.asarray(positions, dtype=np.int64)
        shards, rows = self.index.locate(wanted)
        buckets = np.unique(self.index.bucket[shards])
        if len(buckets) != 1:
            grids = sorted(self.index.grids[bucket] for bucket in buckets)
            raise ValueError(f"take: positions lie in {len(grids)} buckets {grids}, expected one")
        names = tuple(self.columns if columns is None else columns)
        reader = self._reader(names, latents=True)
        shape = (len(wanted), *self.index.grids[buckets[0]], self.channels)
        latents = {name: torch.empty(shape, dtype=self.dtype) for name in self.latent_columns}
        cells = {name: values.view(torch.uint8).reshape(len(wanted), -1).numpy() for name, values in latents.items()}
        others = {name: np.empty(len(wanted), dtype=np.object_) for name in names}
        # Rows of a block one after the other, ascending: each block is asked for once.
        order = np.lexsort((rows, shards))
        shards, rows = shards[order], rows[order]
        starts = np.flatnonzero(np.diff(shards, prepend=-1) | np.diff(rows // BLOCK_ROWS, prepend=-1))
        stops = np.append(starts[1:], len(rows))
        inside = rows - np.repeat(rows[starts], stops - starts)
        spans = (starts, stops, shards[starts], rows[starts], rows[stops - 1] + 1)
        for start, stop, shard, first, end in zip(*(values.tolist() for values in spans), strict=True):
            block = reader.block(shard, first, end, whole=False)
            places, chosen = order[start:stop], inside[start:stop]
            for name, out in cells.items():
                out[places] = block.latents[name][chosen]
            for name, values in others.items():
                values[places] = block.columns[name][chosen]
        return LatentBatch(latents=latents, columns={name: values.tolist() for name, values in others.items()})

    def batches(self, batch_size: int) -> Iterator[LatentBatch]:
        """Every clip once, in the store's order; a batch never mixes buckets, so the last of a bucket may be short.

        Raises:
            ValueError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
        return read_batches(self.index, self._files, batch_size)

    def dataset(
        self,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        columns: Sequence[str] = (),
        sample: Sample = "mean",
        normalize: Rule | bool = True,
        view: View = "plain",
        layout: Layout = "channels_last",
        positions: NDArray[np.int64] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        window: int = 16,
        endless: bool = False,
    ) -> LatentDataset:
        """Ready batches for training: see `vitok.latents.dataset`.

        Args:
            batch_size: Samples of a rank's batch.
            seed: What order, posterior samples and mirror images are drawn from.
            shuffle: False: the store's order, bucket beside bucket.
            columns: To come with the latents, such as "label", "caption", "key".
            sample: "mean", or "posterior": a draw from it for every sample and epoch.
            normalize: True or "corpus": zero mean and unit variance per channel over the store; "tokenizer": by the
                tokenizer's own constants; False: as stored, in the stored dtype, and the fastest.
            view: "plain", or "random_flip": the mirrored view for half of the samples, drawn anew every epoch.
            layout: "channels_last" [B, T', H', W', K], "channels_first" [B, K, T', H', W'], "tokens" [B, N, K].
            positions: Only the clips at these global positions, such as `where` finds them.
            rank: Of this process among those that share the samples; None: torch.distributed's, 0 without it.
            world_size: How many they are; None: torch.distributed's, 1 without it.
            window: Blocks of 512 rows (tars: shards) of a bucket that are mixed at a time.
            endless: Go on with the next epoch instead of ending.

        Raises:
            ValueError: An argument is out of its range, the store lacks a column that is needed, or no clip is left.
            IndexError: A position is outside the store.
        """
        rule: Rule | None = ("corpus" if normalize else None) if isinstance(normalize, bool) else normalize
        rank, world_size = process_group(rank, world_size)
        reading = Reading(
            form=BatchForm(columns=tuple(columns), sample=sample, normalize=rule, view=view, layout=layout),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            window=window,
            endless=endless,
        )
        chosen = None if positions is None else np.unique(np.asarray(positions, dtype=np.int64))
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise ValueError(f"{self.url}: has no column {missing[0]!r}, only {self.columns}")
        source = DatasetSource(url=self.url, index=self.index, files=self._files, positions=chosen)
        return LatentDataset([source], reading)

    def _reader(self, columns: tuple[str, ...], *, latents: bool = False) -> BlockReader:
        """The one that reads these columns; without latents, tars are read for their other columns alone."""
        names = self.latent_columns if latents else ()
        if (*names, *columns) not in self._readers:
            self._readers[*names, *columns] = BlockReader(self.index, self._files, latents=names, columns=columns)
        return self._readers[*names, *columns]
