"""Clips into a training worker: each stream through Ray Data, in the order that `pipeline.training.order` fixes."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.store.clipshard import Clip, read_clips
from pipeline.store.files import Folder
from pipeline.store.index import Store
from pipeline.training.augment import augment
from pipeline.training.config import DataFlags
from pipeline.training.order import Mixture, Shard, Stream, Unit, worker_units
from vitok.pixels import from_uint8

if TYPE_CHECKING:
    import ray.data

_READ_CPUS = 0.25
"""Of one reading task: decoding waits for files as much as it computes, and must fit beside training workers."""
_BLOCK_BYTES = 1 << 23
_SHUFFLE_BYTES = 1 << 29
"""Most pixels that a reading task holds to shuffle."""
_AHEAD_BYTES = 1 << 28
"""Most pixels that lie read and not yet used, of one stream and worker."""
_UNIT_COLUMNS = ("paths", "epoch", "number", "skip")
_CLIPS_PER_TASK = 512
"""At least, where units are smaller: a task costs more than a handful of clips."""
_CLIPS_PER_STREAM = 1 << 17
"""After so many a Ray Data stream ends and the next begins: its list of tasks is held in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelBatch:
    """One worker's clips of one step."""

    pixels: torch.Tensor
    """uint8 [b, T, H, W, 3]."""
    keys: tuple[str, ...]
    used: Mapping[str, int]
    """Clips that all workers together have taken of each stream, this batch included: the position in the data."""

    def to(self, device: torch.device) -> torch.Tensor:
        """Pixels as the auto-encoder takes them: float32 [b, 3, T, H, W] in [-1, 1]."""
        pinned = self.pixels.pin_memory() if device.type == "cuda" else self.pixels
        return from_uint8(pinned.to(device, non_blocking=True))


class ReadUnit:
    """A unit in, blocks of its clips out, shuffled and augmented; what Ray Data maps over."""

    def __init__(self, folder: Folder, seed: int, flags: DataFlags) -> None:
        self._folder = folder
        self._seed = seed
        self._flags = flags

    def __call__(self, batch: Mapping[str, NDArray[np.object_]]) -> Iterator[dict[str, NDArray[np.generic]]]:
        """`pixels` uint8 [n, T, H, W, 3] and `key` of every clip that the unit does not skip."""
        for paths, epoch, number, skip in zip(*(batch[name] for name in _UNIT_COLUMNS), strict=True):
            held: list[tuple[NDArray[np.uint8], str]] = []
            shuffle = np.random.default_rng([self._seed, epoch, number])
            for clip in itertools.islice(self._shuffled(paths, shuffle), skip, None):
                key = clip.metadata.key
                generator = np.random.default_rng([self._seed, epoch, crc32(key.encode())])
                pixels = augment(
                    clip.pixels,
                    how=self._flags.augmentation,
                    resolution=self._flags.resolution,
                    generator=generator,
                )
                held.append((pixels, key))
                if len(held) * pixels.nbytes >= _BLOCK_BYTES:
                    yield _block(held)
                    held = []
            if held:
                yield _block(held)

    def _shuffled(self, paths: Sequence[str], generator: np.random.Generator) -> Iterator[Clip]:
        """Clips of shards through a buffer that each new clip takes a random place of."""
        buffer: list[Clip] = []
        for clip in self._clips(paths):
            room = max(1, min(self._flags.shuffle_clips, _SHUFFLE_BYTES // clip.pixels.nbytes))
            if len(buffer) < room:
                buffer.append(clip)
                continue
            place = int(generator.integers(room))
            yield buffer[place]
            buffer[place] = clip
        for place in generator.permutation(len(buffer)):
            yield buffer[place]

    def _clips(self, paths: Sequence[str]) -> Iterator[Clip]:
        for path in paths:
            with self._folder.open(path) as stream:
                yield from read_clips(stream, where=self._folder.path(path))


def streams_of(stores: Sequence[Store]) -> list[Stream]:
    """What each store holds of each bucket, buckets without clips left out."""
    streams = []
    for place, store in enumerate(stores):
        shards: dict[str, list[Shard]] = {}
        for row in store.rows:
            if row.path is not None and row.stored:
                shards.setdefault(row.bucket, []).append(Shard(path=row.path, num_clips=row.stored))
        streams += [Stream(store=place, bucket=name, shards=tuple(held)) for name, held in sorted(shards.items())]
    return streams


class Batches:
    """The batches of one worker, step after step."""

    def __init__(
        self,
        folders: Sequence[Folder],
        streams: Sequence[Stream],
        *,
        mixture: Mixture,
        flags: DataFlags,
        seed: int,
        rank: int,
        world_size: int,
        step: int,
        num_steps: int,
        used: Mapping[str, int],
    ) -> None:
        """Begin at a step.

        Args:
            folders: Of the stores.
            streams: Of all stores.
            mixture: What draws the clips of a step.
            flags: Batch size and augmentation.
            seed: Of order and augmentation.
            rank: Of this worker.
            world_size: Number of workers.
            step: The first step to come.
            num_steps: About how many will come.
            used: Clips that all workers together have taken of each stream, by its name.
        """
        self._used = dict(used)
        self._mixture = mixture
        self._step = step
        self._world_size = world_size
        self._num_clips = flags.batch_size // world_size
        self._readers = {
            stream.name: _Reader(
                _blocks(
                    worker_units(
                        stream,
                        seed=seed,
                        unit_clips=flags.shuffle_clips,
                        rank=rank,
                        world_size=world_size,
                        skip=used.get(stream.name, 0) // world_size,
                    ),
                    (folders[stream.store], seed, flags),
                    num_clips=min(mixture.expected(stream, num_clips=self._num_clips * num_steps), _CLIPS_PER_STREAM),
                    num_streams=len(streams) * world_size,
                )
            )
            for stream in streams
        }

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> PixelBatch:
        """The next step's clips."""
        counts = self._mixture.draw(self._step, num_clips=self._num_clips)
        parts = [part for name, count in counts.items() for part in self._readers[name].take(count)]
        for name, count in counts.items():
            self._used[name] = self._used.get(name, 0) + count * self._world_size
        self._step += 1
        return PixelBatch(
            pixels=torch.from_numpy(np.concatenate([pixels for pixels, _ in parts])),
            keys=tuple(str(key) for _, keys in parts for key in keys),
            used=dict(self._used),
        )


class _Reader:
    """Clips out of blocks, as many as are asked for."""

    def __init__(self, blocks: Iterator[Mapping[str, NDArray[np.generic]]]) -> None:
        self._blocks = blocks
        self._pixels: NDArray[np.generic] = np.empty(0)
        self._keys: NDArray[np.generic] = np.empty(0)

    def take(self, count: int) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
        """Pixels and keys of the next clips, in as few pieces as the blocks allow."""
        while count:
            if not len(self._keys):
                block = next(self._blocks)
                self._pixels, self._keys = block["pixels"], block["key"]
            yield self._pixels[:count], self._keys[:count]
            taken = min(count, len(self._keys))
            self._pixels, self._keys = self._pixels[taken:], self._keys[taken:]
            count -= taken


def _blocks(
    units: Iterator[Unit], reading: tuple[Folder, int, DataFlags], *, num_clips: int, num_streams: int
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Blocks of an endless sequence of units, read by Ray Data tasks ahead of their use.

    A stream is of about `num_clips`, the next one too: what a training is expected to take, so that nothing is read in
    vain behind a short one's back, and little where it takes somewhat more.
    """
    while True:
        held: list[Unit] = []
        left = num_clips
        while left > 0 or not held:
            held.append(next(units))
            left -= held[-1].num_clips - held[-1].skip
        yield from _dataset(held, reading, num_streams=num_streams).iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=2
        )


def _dataset(units: Sequence[Unit], reading: tuple[Folder, int, DataFlags], *, num_streams: int) -> "ray.data.Dataset":
    import ray.data

    from pipeline.runs.cluster import cluster_resource
    from pipeline.training.pacing import PacedScheduling

    tasks = math.ceil(sum(unit.num_clips for unit in units) / _CLIPS_PER_TASK)
    rows = [([shard.path for shard in unit.shards], unit.epoch, unit.number, unit.skip) for unit in units]
    items = ray.data.from_items(
        [dict(zip(_UNIT_COLUMNS, row, strict=True)) for row in rows], override_num_blocks=min(len(units), tasks)
    )
    # As many actors from first to last: a stream ahead of its trainer would see the processes of tasks, or of a pool
    # that grows and shrinks, ended and started again, seconds of a core each time.
    dataset = items.map_batches(
        ReadUnit,
        fn_constructor_args=reading,
        batch_size=1,
        batch_format="numpy",
        num_cpus=_READ_CPUS,
        compute=ray.data.ActorPoolStrategy(size=max(1, int(cluster_resource("CPU") / (2 * num_streams)))),
    )
    options = dataset.context.execution_options
    options.preserve_order = True
    # Streams know nothing of each other: without a limit each would fill the cluster with its read-ahead.
    options.resource_limits = ray.data.ExecutionResources.for_limits(
        cpu=max(1.0, cluster_resource("CPU") / num_streams),
        object_store_memory=min(_AHEAD_BYTES, cluster_resource("object_store_memory") / (2 * num_streams)),
    )
    dataset.context.custom_execution_callback_classes = [PacedScheduling]
    return dataset


def _block(clips: Sequence[tuple[NDArray[np.uint8], str]]) -> dict[str, NDArray[np.generic]]:
    return {"pixels": np.stack([pixels for pixels, _ in clips]), "key": np.array([key for _, key in clips])}
