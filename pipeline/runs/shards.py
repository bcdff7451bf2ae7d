"""Planned shards through Ray Data: an actor pool, one shard a call, committed by the worker that made it."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.metrics import ShardMetrics
from pipeline.stages.stage import ShardReport, ShardStage
from pipeline.store.faults import StorageError
from pipeline.store.files import FullDiskError
from pipeline.store.ledger import ShardRecord
from pipeline.store.planned_shards import PlannedShard

_MAX_BLOCKS = 4096
"""Blocks of one dataset. A block is a task to Ray Data, and reports when it ends: one shard each as long as there are
no more shards than this."""


_MAX_RETRIES = 8
"""Deaths of the worker that one shard survives. Ray's default is without end: a shard that kills whoever takes it would
keep the run going for ever."""

_STORAGE_ERRORS = {kind.__name__: kind for kind in (StorageError, FullDiskError)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many workers, and what each takes of the cluster. Changes no output byte."""

    count: int
    cpus: float = 1
    gpus: float = 0


class _ShardWorker:
    """The Ray Data side of a stage: one row in (a planned shard), one row out (its report, or a storage fault)."""

    def __init__(self, make_stage: Callable[[], ShardStage], job: str) -> None:
        self._stage = make_stage()
        self._metrics = ShardMetrics(job)

    def __call__(self, batch: dict[str, NDArray[np.object_]]) -> dict[str, NDArray[np.str_]]:
        (text,) = batch["shard"]
        row = json.loads(text)
        try:
            report = self._stage(PlannedShard(**row | {"sources": tuple(row["sources"])}))
        except StorageError as error:
            # As a row: of an exception Ray Data would print one trace a worker, where one message says it all.
            document: dict[str, object] = {"storage_error": type(error).__name__, "message": str(error)}
        else:
            self._metrics.add(report)
            document = {"record": report.record.to_json(), "seconds": dict(report.seconds)}
        return {"report": np.array([json.dumps(document)])}


def run_shards(
    shards: Sequence[PlannedShard], make_stage: Callable[[], ShardStage], workers: Workers, *, job: str
) -> Iterator[ShardReport]:
    """Process shards on the connected cluster; reports come as shards are committed, in any order.

    A worker that dies is replaced and its shard done again, by Ray, `_MAX_RETRIES` times; an exception of the stage
    ends the run.

    Args:
        shards: What is to be done.
        make_stage: Picklable; called in each worker.
        workers: How many there are.
        job: Name that the workers' metrics bear.

    Raises:
        FullDiskError: A worker found no room for its shard.
        StorageError: A server failed a worker to the last attempt.
    """
    import ray.data

    planned = ray.data.from_items(
        [{"shard": json.dumps(asdict(shard))} for shard in shards],
        override_num_blocks=min(len(shards), _MAX_BLOCKS),
    )
    with warnings.catch_warnings():
        # Ray 2.60 deprecates its only two ways to bound retries and names no third.
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = planned.map_batches(
            _ShardWorker,
            fn_constructor_args=(make_stage, job),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(shards))),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            ray_remote_args_fn=lambda: {"max_task_retries": _MAX_RETRIES},
        )
    for row in dataset.iter_rows():
        document = json.loads(row["report"])
        if "storage_error" in document:
            raise _STORAGE_ERRORS[document["storage_error"]](document["message"])
        yield ShardReport(record=ShardRecord.from_json(document["record"]), seconds=document["seconds"])
