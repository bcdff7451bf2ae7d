"""What a stage is: a callable that turns a planned shard into a committed one, and says how long it took."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.media.reject import RejectClip
from pipeline.store.ledger import OutcomeRow, ShardRecord
from pipeline.store.planned_shards import PlannedShard
from schemas.clip import ClipMetadata
from schemas.outcome import TRANSIENT_REASONS, Stage, outcome_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """A committed shard and the seconds it took, by step."""

    record: ShardRecord
    seconds: Mapping[str, float]


class ShardStage(Protocol):
    """Processes and commits one shard; made once a worker, called once a shard."""

    def __call__(self, shard: PlannedShard) -> ShardReport:
        """Do the work of one shard, up to its ledger record."""


T = TypeVar("T")


class StepClock:
    """Seconds spent in named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def pulled(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, the time of getting each added to a step."""
        iterator = iter(items)
        while True:
            with self.step(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def reject_clip(error: RejectClip, metadata: ClipMetadata, stage: Stage) -> OutcomeRow:
    """The row on disk of a clip that was decoded and failed later."""
    return reject_row(
        error,
        key=metadata.key,
        media_uri=metadata.media_uri,
        start_seconds=metadata.start_seconds,
        end_seconds=metadata.end_seconds,
        stage=stage,
    )


def reject_row(
    error: RejectClip,
    *,
    key: str,
    media_uri: str,
    start_seconds: float | None,
    end_seconds: float | None,
    stage: Stage,
) -> OutcomeRow:
    """The row on disk of a clip that is not stored."""
    return OutcomeRow(
        key=key,
        media_uri=media_uri,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        outcome=outcome_of(error.reason),
        stage=stage,
        reason=error.reason,
        transient=error.reason in TRANSIENT_REASONS,
        attempts=error.attempts,
        message=error.message,
    )
