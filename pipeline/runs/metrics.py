"""Metrics of planned runs for Prometheus: what each worker commits, served by Ray on every node.

Ray's endpoint puts `ray_` before each name, `_total` behind counters, and labels of its own (node, worker, session)
beside these. Ray lists the endpoints of a cluster in `prom_metrics_service_discovery.json` of its temporary folder.
"""

from pipeline.stages.stage import ShardReport
from schemas.outcome import Outcome, Reason, outcome_of

CLIPS = "vitok_clips"
"""Counter by job, outcome (stored, filtered, rejected) and reason ("" where stored): clips of committed shards. What
ended while planning has no worker, and stands in the run record."""
SHARDS = "vitok_shards_committed"
"""Counter by job: shards committed."""
BYTES = "vitok_bytes_written"
"""Counter by job: bytes of the files of committed shards."""
STEP_SECONDS = "vitok_step_seconds"
"""Counter by job and step (decode, encode, write, commit, ...): seconds of workers."""
SHARD_SECONDS = "vitok_shard_seconds"
"""Histogram by job: seconds of a worker on one shard. Its sum is Ray's estimate from the buckets."""

_SHARD_SECONDS_BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class ShardMetrics:
    """The metrics of one worker, which must be in a process of Ray's."""

    def __init__(self, job: str) -> None:
        from ray.util.metrics import Counter, Histogram

        self._tags = {"job": job}
        self._clips = Counter(CLIPS, "Clips of committed shards", ("job", "outcome", "reason"))
        self._shards = Counter(SHARDS, "Committed shards", ("job",))
        self._bytes = Counter(BYTES, "Bytes of the files of committed shards", ("job",))
        self._step_seconds = Counter(STEP_SECONDS, "Seconds of workers", ("job", "step"))
        bounds = list(_SHARD_SECONDS_BOUNDS)
        self._shard_seconds = Histogram(SHARD_SECONDS, "Seconds of a worker on one shard", bounds, ("job",))

    def add(self, report: ShardReport) -> None:
        """Count a committed shard."""
        record = report.record
        self._shards.inc(1, self._tags)
        clips = {(outcome_of(Reason(reason)).value, reason): count for reason, count in record.reasons.items()}
        for (outcome, reason), count in ({(Outcome.STORED.value, ""): record.stored} | clips).items():
            if count:
                self._clips.inc(count, self._tags | {"outcome": outcome, "reason": reason})
        size_bytes = sum(file.size_bytes for file in (record.file, record.outcomes) if file is not None)
        if size_bytes:
            self._bytes.inc(size_bytes, self._tags)
        for step, seconds in report.seconds.items():
            if seconds:
                self._step_seconds.inc(seconds, self._tags | {"step": step})
        self._shard_seconds.observe(sum(report.seconds.values()), self._tags)
