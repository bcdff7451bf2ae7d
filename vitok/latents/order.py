"""The order in which a dataset reads: a function of (seed, pass) alone, computed piece by piece wherever it is needed.

A stream is what one store holds of one bucket, in blocks of neighbouring rows. In each pass over it the blocks are
shuffled, and the rows of every `window` blocks that follow each other are shuffled among themselves. What a number of
the order is costs the permutation of the blocks, once a pass, and of one window's rows: to begin anywhere is as cheap
as to begin at the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitok.latents.index import LatentIndex

BLOCK_ROWS = 512
"""Rows of a block of a Parquet shard: a row group, as the format writes it. A tar is one block, however long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """The blocks of a stream, in the store's order."""

    shard: NDArray[np.int64]
    """[blocks], number of the shard."""
    first: NDArray[np.int64]
    """[blocks], first row within the shard."""
    stop: NDArray[np.int64]
    """[blocks], the row after the last."""
    ends: NDArray[np.int64]
    """[blocks], samples of the stream up to each block's end: all rows, or those that were chosen."""
    chosen: NDArray[np.int64] | None
    """[samples], rows within their shards block by block; None: all."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """[blocks], samples of each."""
        return np.diff(self.ends, prepend=0)

    def rows(self, block: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows within their shards: of samples by their blocks and their numbers among the samples of those, [n]."""
        if self.chosen is None:
            return self.first[block] + number
        starts = np.where(block > 0, self.ends[block - 1], 0)
        return self.chosen[starts + number]


def lay_blocks(
    index: LatentIndex, bucket: int, *, block_rows: int | None, positions: NDArray[np.int64] | None
) -> Blocks:
    """Blocks of a bucket.

    Args:
        index: Of the store.
        bucket: Place in `index.grids`.
        block_rows: Rows of a block; None: a shard is one.
        positions: Global positions, ascending and each once, of the samples that are chosen; None: all. Those of other
            buckets are passed over.
    """
    shards = np.flatnonzero(index.bucket == bucket)
    clips = np.diff(index.offsets)[shards]
    rows = block_rows or max(clips.max(initial=1), 1)
    parts = -(-clips // rows)
    shard = np.repeat(shards, parts)
    first = (np.arange(len(shard)) - np.repeat(np.cumsum(parts) - parts, parts)) * rows
    stop = np.minimum(first + rows, np.repeat(clips, parts))
    if positions is None:
        return Blocks(shard=shard, first=first, stop=stop, ends=np.cumsum(stop - first), chosen=None)
    places, chosen = index.locate(positions)
    inside = index.bucket[places] == bucket
    positions, chosen = positions[inside], chosen[inside]
    owner = np.searchsorted(index.offsets[shard] + first, positions, side="right") - 1
    counts = np.bincount(owner, minlength=len(shard))
    held = counts > 0
    return Blocks(shard=shard[held], first=first[held], stop=stop[held], ends=np.cumsum(counts[held]), chosen=chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Samples of a stream, in their order; all arrays [n]."""

    block: NDArray[np.int64]
    number: NDArray[np.int64]
    """Among the samples of the block."""
    round: NDArray[np.int64]
    """The pass over the stream in which the sample is read."""
    window: NDArray[np.int64]
    """Grows along the order; blocks of a window are of no use after it."""


class StreamOrder:
    """The endless order of one stream: pass after pass, each sample once in each."""

    def __init__(self, counts: NDArray[np.int64], *, entropy: tuple[int, ...], window: int, shuffle: bool) -> None:
        """Begin an order.

        Args:
            counts: [blocks], samples of each.
            entropy: What the order is drawn from: the seed, and what tells the stream from others; not negative.
            window: Blocks whose rows are mixed.
            shuffle: False: the store's order in every pass.
        """
        self.num_samples = int(counts.sum())
        self._counts = counts
        self._entropy = entropy
        self._window = window if shuffle else 1
        self._shuffle = shuffle
        self._pass: tuple[int, NDArray[np.int64], NDArray[np.int64]] = (-1, counts, counts)
        self._mixed: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def places(self, start: int, stop: int) -> Places:
        """Samples [start, stop) of the endless order; the stream must not be empty."""
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64], int, int]] = []
        while start < stop:
            number, offset = divmod(start, self.num_samples)
            _, _, ends = self._blocks(number)
            window = int(np.searchsorted(ends, offset, side="right"))
            begin = int(ends[window - 1]) if window else 0
            count = min(stop - start, int(ends[window]) - offset)
            block, row = self._rows(number, window)
            parts.append((block[offset - begin :][:count], row[offset - begin :][:count], number, window))
            start += count
        lengths = [len(block) for block, _, _, _ in parts]
        passes = [number for _, _, number, _ in parts]
        windows = [number * len(self._counts) + window for _, _, number, window in parts]
        return Places(
            block=joined([part[0] for part in parts]),
            number=joined([part[1] for part in parts]),
            round=np.repeat(np.array(passes, dtype=np.int64), lengths),
            window=np.repeat(np.array(windows, dtype=np.int64), lengths),
        )

    def _blocks(self, number: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """The pass, its blocks in their order, and the number of samples up to the end of each window."""
        found = self._pass
        if found[0] != number:
            order = np.arange(len(self._counts))
            if self._shuffle:
                order = shuffled(len(order), (*self._entropy, number))
            ends = np.cumsum(self._counts[order])
            last = np.minimum(np.arange(self._window, len(order) + self._window, self._window), len(order)) - 1
            self._pass = found = (number, order, ends[last])
        return found

    def _rows(self, number: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Blocks and numbers of the samples of a window."""
        found = self._mixed.get((number, window))
        if found is None:
            blocks = self._blocks(number)[1][window * self._window :][: self._window]
            counts = self._counts[blocks]
            block = np.repeat(blocks, counts)
            row = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
            if self._shuffle:
                mixed = shuffled(len(block), (*self._entropy, number, window))
                block, row = block[mixed], row[mixed]
            found = (block, row)
            # A step may stand with one foot in the window before.
            self._mixed = dict([*[*self._mixed.items()][-1:], ((number, window), found)])
        return found


def joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One behind the other; one alone is not copied, which most steps have."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def shuffled(count: int, entropy: tuple[int, ...]) -> NDArray[np.int64]:
    """A permutation of [0, count).

    It sorts the raw numbers of a bit generator, which NumPy promises never to change; its own permutations may change
    with a version, and a run would go on in another order.
    """
    raw = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)
    return np.argsort(raw, kind="stable")
