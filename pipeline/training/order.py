"""Which clips make which step: a function of (seed, step, worker), so that a killed run goes on with the same clips.

A stream is what one clip store holds of one bucket. Each epoch its shards are put into a new order and cut into
units; a unit is what one worker reads at once and shuffles. Worker r of W takes the units r, r + W, r + 2W, ... of the
endless sequence of epochs. Every step draws a bucket, and how many clips each store gives to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A committed clip shard."""

    path: str
    num_clips: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """The clips of one bucket in one store."""

    store: int
    """Position of the store among the stores of the training."""
    bucket: str
    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """Names the stream in a checkpoint."""
        return f"{self.store}/{self.bucket}"

    @property
    def num_clips(self) -> int:
        """Clips of an epoch."""
        return sum(shard.num_clips for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Shards that are read one after the other and shuffled among themselves."""

    epoch: int
    number: int
    """Within the epoch."""
    shards: tuple[Shard, ...]
    skip: int = 0
    """Clips, of the shuffled ones, that an earlier run has used."""

    @property
    def num_clips(self) -> int:
        """Clips of the unit, skipped ones included."""
        return sum(shard.num_clips for shard in self.shards)


def epoch_units(stream: Stream, *, seed: int, epoch: int, unit_clips: int) -> list[Unit]:
    """The units of an epoch: shards in an order of (seed, epoch), as many to a unit as make `unit_clips`.

    Args:
        stream: What is read.
        seed: Of the training.
        epoch: From 0.
        unit_clips: Least clips of a unit; the epoch's last may have fewer.
    """
    order = np.random.default_rng([seed, epoch, stream.store]).permutation(len(stream.shards))
    units: list[Unit] = []
    held: list[Shard] = []
    for place in order:
        held.append(stream.shards[place])
        if sum(shard.num_clips for shard in held) >= unit_clips:
            units.append(Unit(epoch=epoch, number=len(units), shards=tuple(held)))
            held = []
    if held:
        units.append(Unit(epoch=epoch, number=len(units), shards=tuple(held)))
    return units


def worker_units(
    stream: Stream, *, seed: int, unit_clips: int, rank: int, world_size: int, skip: int
) -> Iterator[Unit]:
    """Units of one worker, epoch after epoch without end, the first `skip` of its clips left out."""
    place = epoch = 0
    while True:
        for unit in epoch_units(stream, seed=seed, epoch=epoch, unit_clips=unit_clips):
            if place % world_size == rank:
                if skip < unit.num_clips:
                    yield Unit(epoch=unit.epoch, number=unit.number, shards=unit.shards, skip=skip)
                skip = max(skip - unit.num_clips, 0)
            place += 1
        epoch += 1


class Mixture:
    """Draws the clips of every step."""

    def __init__(self, streams: Sequence[Stream], *, weights: Sequence[float], seed: int) -> None:
        """Streams of all stores, and the share of the clips each store gives (empty: in proportion to its clips)."""
        sizes: dict[int, int] = {}
        for stream in streams:
            sizes[stream.store] = sizes.get(stream.store, 0) + stream.num_clips
        shares = {store: float(weights[store]) if weights else float(size) for store, size in sizes.items()}
        self._seed = seed
        self._streams: dict[str, list[Stream]] = {}
        for stream in streams:
            self._streams.setdefault(stream.bucket, []).append(stream)
        self._odds = {
            bucket: np.array([shares[part.store] * part.num_clips / sizes[part.store] for part in parts])
            for bucket, parts in self._streams.items()
        }
        totals = np.array([odds.sum() for odds in self._odds.values()])
        self._buckets = list(self._streams)
        self._bucket_odds = totals / totals.sum()

    def expected(self, stream: Stream, *, num_clips: int) -> int:
        """How many of so many clips the stream will give, about."""
        place = self._streams[stream.bucket].index(stream)
        odds = self._odds[stream.bucket]
        share = self._bucket_odds[self._buckets.index(stream.bucket)] * odds[place] / odds.sum()
        return round(num_clips * float(share))

    def draw(self, step: int, *, num_clips: int) -> Mapping[str, int]:
        """Clips that each stream gives to one worker's part of a step, all of one bucket; the same for each worker."""
        generator = np.random.default_rng([self._seed, step])
        bucket = self._buckets[int(generator.choice(len(self._buckets), p=self._bucket_odds))]
        parts, odds = self._streams[bucket], self._odds[bucket]
        counts = generator.multinomial(num_clips, odds / odds.sum())
        return {part.name: int(count) for part, count in zip(parts, counts, strict=True) if count}
