"""Clips into training workers: one Ray Data stream a bucket, read shard by shard."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import Store

if TYPE_CHECKING:
    import ray.data

_READ_CPUS = 0.25
"""Of one reading task: decoding waits for files as much as it computes, and must fit beside training workers."""
_CLIPS_PER_BLOCK = 32
_CLIPS_PER_TASK = 256
"""At least, where shards are smaller: a task costs more than a handful of clips."""
_MAX_SHARDS = 4096
"""Shards that one start of a stream reads, where a store has fewer."""


class ReadClips:
    """Paths of clip shards in, blocks of pixels out; what Ray Data maps over."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def __call__(self, batch: Mapping[str, NDArray[np.object_]]) -> Iterator[dict[str, NDArray[np.uint8]]]:
        """Pixels [n, T, H, W, 3] of every clip, n at most `_CLIPS_PER_BLOCK`."""
        for path in batch["path"]:
            held: list[NDArray[np.uint8]] = []
            with self._folder.open(path) as stream:
                for clip in read_clips(stream, where=self._folder.path(path)):
                    held.append(clip.pixels)
                    if len(held) == _CLIPS_PER_BLOCK:
                        yield {"pixels": np.stack(held)}
                        held = []
            if held:
                yield {"pixels": np.stack(held)}


def bucket_sizes(store: Store) -> dict[str, int]:
    """Clips by bucket, for buckets that have any."""
    sizes: dict[str, int] = {}
    for row in store.rows:
        if row.stored:
            sizes[row.bucket] = sizes.get(row.bucket, 0) + row.stored
    return dict(sorted(sizes.items()))


def bucket_dataset(store: Store, bucket: str, *, num_clips: int, seed: int) -> "ray.data.Dataset":
    """Clips of a bucket as rows of `pixels` [T, H, W, 3], epoch after epoch, shards in another order in each.

    One dataset holds many epochs, so that an epoch of a small store does not cost a start of the stream.

    Args:
        store: The clip store.
        bucket: Which of its buckets.
        num_clips: How many the training will ask for; there may come fewer, and the stream is then read again.
        seed: Of the order.
    """
    import ray.data

    from pipeline.training.pacing import PacedScheduling

    rows = [row for row in store.rows if row.bucket == bucket and row.path is not None]
    clips = sum(row.stored for row in rows)
    epochs = math.ceil(num_clips / clips)
    epochs = max(1, min(epochs, _MAX_SHARDS // len(rows)))
    items = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        items += [{"path": rows[place].path} for place in order]
    tasks = math.ceil(epochs * clips / _CLIPS_PER_TASK)
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), tasks)).map_batches(
        ReadClips(store.folder), batch_size=1, batch_format="numpy", num_cpus=_READ_CPUS
    )
    dataset.context.execution_options.preserve_order = True
    dataset.context.custom_execution_callback_classes = [PacedScheduling]
    return dataset


def bucket_of_step(sizes: Mapping[str, int], *, seed: int, step: int) -> str:
    """The bucket whose clips make a step: drawn in proportion to its size, the same on every worker."""
    names: Sequence[str] = list(sizes)
    weights = np.array([sizes[name] for name in names], np.float64)
    draw = np.random.default_rng([seed, step]).choice(len(names), p=weights / weights.sum())
    return names[int(draw)]
