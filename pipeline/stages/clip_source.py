"""Where the clips of a planned shard come from: clip shards that hold them, or media that are decoded for it."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.media.sandbox import Sandbox
from pipeline.stages.decode import DecodeMedia, PlannedMedia
from pipeline.stages.protocol import ClipProtocol
from pipeline.stages.stage import reject_row
from pipeline.store.clipshard import Clip, read_clips
from pipeline.store.files import Folder
from pipeline.store.ledger import OutcomeRow
from pipeline.store.planned_clips import PlannedClip, read_planned_clips
from pipeline.store.planned_shards import PlannedShard
from schemas.outcome import Stage

Decoded = TypeVar("Decoded")
Item = TypeVar("Item")


class ClipSource(Protocol):
    """The clips of planned shards. Picklable until it is first called."""

    def __call__(self, shard: PlannedShard) -> Iterator[Clip | OutcomeRow]:
        """The clips of a shard, in order; in the place of one that cannot be had, what became of it."""


@dataclass(frozen=True, slots=True)
class StoredClips:
    """Clips that a clip store holds; a planned shard names the store's shards that it is made of."""

    folder: Folder

    def __call__(self, shard: PlannedShard) -> Iterator[Clip]:
        """The clips of a shard: all can be had. Raises what `read_clips` raises."""
        for path in shard.sources:
            with self.folder.open(path) as stream:
                yield from read_clips(stream, where=self.folder.path(path))


class MediaClips:
    """Clips that are decoded as they are asked for; the folder's plan names them."""

    def __init__(self, plan: Folder, protocol: ClipProtocol, policy: RetryPolicy) -> None:
        """Prepare; nothing starts yet.

        Args:
            plan: Folder whose plan holds the clips of each shard.
            protocol: How clips are made.
            policy: How media are read.
        """
        self._plan = plan
        self._decoder = ShardDecoder(partial(DecodeMedia, protocol, policy), protocol)

    def __call__(self, shard: PlannedShard) -> Iterator[Clip | OutcomeRow]:
        """One result for each clip of the shard."""
        return self._decoder(shard, read_planned_clips(self._plan, shard))


class ShardDecoder(Generic[Decoded]):
    """Planned clips of shards, decoded in a sandbox, media by media."""

    def __init__(
        self, make: Callable[[], Callable[[PlannedMedia], Iterator[Decoded | RejectClip]]], protocol: ClipProtocol
    ) -> None:
        """Prepare; nothing starts yet.

        Args:
            make: Gives, in the sandbox, what decodes the clips of one media: one result for each.
            protocol: How clips are made.
        """
        self._protocol = protocol
        self._sandbox = Sandbox(make, count=_num_clips, timeout_s=protocol.limits.timeout_s)

    def __call__(self, shard: PlannedShard, planned: Sequence[PlannedClip]) -> Iterator[Decoded | OutcomeRow]:
        """One result for each clip, in order.

        Args:
            shard: Gives the size of the clips, by the name of their bucket.
            planned: All or some of the shard's clips, in its order.
        """
        size = self._protocol.size_of(shard.clip_bucket or shard.bucket)
        media = [
            PlannedMedia(clips=list(clips), size=size)
            for _, clips in itertools.groupby(planned, key=lambda clip: clip.media.uri)
        ]
        for entry, results in zip(media, self._sandbox.run(media), strict=True):
            clips = iter(entry.clips)
            try:
                for result in results:
                    clip = next(clips)
                    yield self._ended(clip, result) if isinstance(result, RejectClip) else result
            except RejectClip as error:
                # The media itself failed: that is the end of all its clips not yet given.
                for clip in clips:
                    yield self._ended(clip, error)

    def _ended(self, clip: PlannedClip, error: RejectClip) -> OutcomeRow:
        """The row on disk of a clip that was not decoded."""
        fps, start = self._protocol.fps, clip.first_frame
        return reject_row(
            error,
            key=clip.key,
            media_uri=clip.media.uri,
            start_seconds=None if start is None else float(start / fps),
            end_seconds=None if start is None else float((start + self._protocol.num_frames) / fps),
            stage=Stage.DECODE,
        )


def _num_clips(planned: PlannedMedia) -> int:
    return len(planned.clips)


@contextmanager
def read_ahead(items: Iterator[Item], count: int) -> Iterator[Iterator[Item]]:
    """The items in their order, up to `count` of them fetched ahead by a thread while the last one is worked on.

    Args:
        items: Consumed by that thread alone. What it raises is raised in the item's place.
        count: Bounds the memory.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        yield _fetched(items, count, thread)
    finally:
        thread.shutdown(cancel_futures=True)


def _fetched(items: Iterator[Item], count: int, thread: ThreadPoolExecutor) -> Iterator[Item]:
    # A list of at most one: an iterator's end cannot cross a thread as StopIteration.
    def fetch() -> Future[list[Item]]:
        return thread.submit(lambda: list(itertools.islice(items, 1)))

    waiting = deque(fetch() for _ in range(count))
    while item := waiting.popleft().result():
        waiting.append(fetch())
        yield item[0]


def in_batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`; the last may be shorter."""
    while batch := list(itertools.islice(items, size)):
        yield batch
