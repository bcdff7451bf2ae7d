"""What one rank reads in one step: samples by stream, block and row."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitok.latents.draws import coins, sample_keys
from vitok.latents.files import ShardFiles
from vitok.latents.form import BatchForm
from vitok.latents.index import LatentIndex
from vitok.latents.order import BLOCK_ROWS, Blocks, Places, StreamOrder, joined, lay_blocks
from vitok.latents.steps import Grid, epoch_span, share, split


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSource:
    """A store, or a part of one, that samples come from."""

    url: str
    index: LatentIndex
    files: ShardFiles
    positions: NDArray[np.int64] | None
    """Ascending, each once; None: all."""
    weight: Fraction = Fraction(1)
    """Passes over it that make an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What one source holds of one bucket."""

    source: int
    """Number of the source."""
    grid: Grid
    index: LatentIndex
    blocks: Blocks
    order: StreamOrder
    weight: Fraction

    def span(self, epoch: int) -> tuple[int, int]:
        """Half-open span of the stream's order that is an epoch."""
        return epoch_span(self.order.num_samples, self.weight, epoch)


class Run(NamedTuple):
    """Samples [start, stop) of a plan, which lie in one block and are read in one view."""

    start: int
    stop: int
    stream: int
    window: int
    block: int
    flip: bool
    """Whether it is the mirrored view."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Samples of a rank in a step; all arrays [n]."""

    grid: Grid
    runs: list[Run]
    row: NDArray[np.int64]
    """Within the run's block."""
    position: NDArray[np.int64]
    """Global, within its store."""
    source: NDArray[np.int64]
    keys: NDArray[np.uint64] | None
    """Of `vitok.latents.draws.sample_keys`, where something is drawn."""
    windows: dict[int, int]
    """The oldest window that the whole step touches, by stream: older ones are of no use any more."""


def lay_streams(sources: Sequence[DatasetSource], *, seed: int, window: int, shuffle: bool) -> list[Stream]:
    """All streams that hold samples."""
    streams = []
    for number, source in enumerate(sources):
        block_rows = BLOCK_ROWS if source.index.latent.form == "parquet" else None
        for bucket, grid in enumerate(source.index.grids):
            blocks = lay_blocks(source.index, bucket, block_rows=block_rows, positions=source.positions)
            order = StreamOrder(blocks.counts, entropy=(seed, number, *grid), window=window, shuffle=shuffle)
            if order.num_samples:
                streams.append(
                    Stream(
                        source=number,
                        grid=grid,
                        index=source.index,
                        blocks=blocks,
                        order=order,
                        weight=source.weight,
                    )
                )
    return streams


class Planner:
    """Says where the samples of each step lie that are one rank's."""

    def __init__(self, streams: Sequence[Stream], *, rank: int, world_size: int, seed: int, form: BatchForm) -> None:
        """Plan for one rank of so many; what the form draws is drawn from the seed."""
        self._streams = streams
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._form = form

    def plan(self, grid: Grid, *, epoch: int, start: int, stop: int) -> Plan:
        """Where a rank's samples of a step lie.

        A step's samples are dealt out sorted by their blocks: a rank reads neighbours in few blocks.

        Args:
            grid: The step's bucket.
            epoch: From 0.
            start: First sample of the step, counted within the bucket's epoch.
            stop: The sample after the last.
        """
        numbers = [number for number, stream in enumerate(self._streams) if stream.grid == grid]
        spans = [self._streams[number].span(epoch) for number in numbers]
        lengths = [end - begin for begin, end in spans]
        firsts, stops = split(start, lengths), split(stop, lengths)
        mine = share(stop - start, rank=self._rank, world_size=self._world_size)
        windows: dict[int, int] = {}
        parts = []
        before = 0
        for number, (begin, _), first, last in zip(numbers, spans, firsts, stops, strict=True):
            if first < last:
                places = self._streams[number].order.places(begin + first, begin + last)
                windows[number] = int(places.window[0])
                of_mine = slice(max(mine[0] - before, 0), max(mine[1] - before, 0))
                before += last - first
                parts.append(self._part(number, places, of_mine))
        return Plan(
            grid=grid,
            runs=_shifted([part.runs for part in parts], [len(part.row) for part in parts]),
            row=joined([part.row for part in parts]),
            position=joined([part.position for part in parts]),
            source=joined([part.source for part in parts]),
            keys=np.concatenate([part.keys for part in parts if part.keys is not None]) if self._form.draws else None,
            windows=windows,
        )

    def _part(self, number: int, places: Places, mine: slice) -> Plan:
        """What lies in one stream, of its samples in a step sorted by window and block."""
        stream = self._streams[number]
        blocks = stream.blocks
        unit = places.window * len(blocks.shard) + places.block
        chosen = np.argsort(unit, kind="stable")[mine]
        unit, block = unit[chosen], places.block[chosen]
        inside = blocks.rows(block, places.number[chosen])
        position = inside + stream.index.offsets[blocks.shard[block]]
        source = np.full(len(chosen), stream.source)
        keys, flips = None, np.zeros(len(chosen), dtype=np.bool_)
        if self._form.draws:
            keys = sample_keys(seed=self._seed, parts=(source, places.round[chosen], position))
        if self._form.view == "random_flip" and keys is not None:
            flips = coins(keys)
            order = np.argsort(2 * unit + flips, kind="stable")
            unit, block, inside = unit[order], block[order], inside[order]
            position, keys, flips = position[order], keys[order], flips[order]
        starts = np.flatnonzero(np.diff(2 * unit + flips, prepend=-1))
        runs = map(
            Run,
            starts.tolist(),
            [*starts[1:].tolist(), len(unit)],
            repeat(number),
            (unit[starts] // len(blocks.shard)).tolist(),
            block[starts].tolist(),
            flips[starts].tolist(),
        )
        return Plan(
            grid=stream.grid,
            runs=list(runs),
            row=inside - blocks.first[block],
            position=position,
            source=source,
            keys=keys,
            windows={},
        )


def _shifted(runs: Sequence[list[Run]], lengths: Sequence[int]) -> list[Run]:
    """Runs of parts that are put one behind the other."""
    starts = accumulate(lengths, initial=0)
    return [
        run._replace(start=run.start + start, stop=run.stop + start) if start else run
        for part, start in zip(runs, starts, strict=False)
        for run in part
    ]
