"""The plan of a clip store: the clips of a spool of media laid into shards, and a plan that grows."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from pipeline.media.keys import clip_key
from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.runs.survey import MediaSpool, ended_row, probed
from pipeline.stages.probe import Probed
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.files import TEMPORARY_FOLDER, FileRecord, Folder
from pipeline.store.ledger import OutcomeRow, read_outcomes, write_outcomes
from pipeline.store.plan import ClipPlanWriter, Plan, PlanCounts, PlannedClip
from schemas.metadata import MEDIA_FILE, PLAN_OUTCOMES_FILE, SHARDS_FILE
from schemas.outcome import Outcome

logger = logging.getLogger(__name__)


def plan_clips(
    spool: MediaSpool,
    damaged: Mapping[str, RejectClip],
    output: Folder,
    protocol: ClipProtocol,
    *,
    identity: Mapping[str, object],
    shard_size: int,
    policy: RetryPolicy,
    num_workers: int,
) -> Plan:
    """Probe every media on the cluster and lay its clips into shards, in the media's order.

    Args:
        spool: The media.
        damaged: Containers that could not be listed to their end, and why: each counts as one reject.
        output: The clip store.
        protocol: How clips are made.
        identity: Of the plan.
        shard_size: Clips of one shard.
        policy: How media are read.
        num_workers: Of the probe.
    """
    files = [spool.save(output, MEDIA_FILE)]
    layout = _Layout(spool, protocol)
    with ClipPlanWriter(output, shard_size=shard_size) as writer:
        found = probed(spool, output, MEDIA_FILE, protocol, policy=policy, num_workers=num_workers)
        rows = chain(layout.lay_damaged(damaged), layout.lay(found, writer))
        ended = write_outcomes(output, PLAN_OUTCOMES_FILE, rows)
        writer.finish()
    files += [*writer.files, *([ended] if ended else [])]
    _report_buckets(layout.buckets, shard_size)
    return Plan.save(
        output, job="prepare", identity=identity, counts=layout.counts(), shards=writer.shards, files=files
    )


class _Layout:
    """Lays media into shards and counts what becomes of them."""

    def __init__(self, spool: MediaSpool, protocol: ClipProtocol) -> None:
        self.buckets: Counter[str] = Counter()
        """Clips by bucket."""
        self._spool = spool
        self._protocol = protocol
        self._ended: Counter[tuple[str, str]] = Counter()

    def lay(self, found: Iterator[Probed | OutcomeRow], writer: ClipPlanWriter) -> Iterator[OutcomeRow]:
        """Give each media's clips to the writer; yields the outcomes of media that have none."""
        for position, (media, entry) in enumerate(zip(self._spool, found, strict=True)):
            if position in self._spool.repeated:
                continue
            if isinstance(entry, OutcomeRow):
                self._ended[entry.outcome, entry.reason] += 1
                yield entry
                continue
            bucket = self._protocol.bucket(media.kind, entry.size)
            for index, first_frame in enumerate(entry.first_frames):
                clip = PlannedClip(
                    key=clip_key(media.uri, index), media=media, clip_index=index, first_frame=first_frame
                )
                writer.add(bucket, clip)
                self.buckets[bucket] += 1

    def lay_damaged(self, damaged: Mapping[str, RejectClip]) -> Iterator[OutcomeRow]:
        """The outcomes of containers that end before their time."""
        for uri, error in sorted(damaged.items()):
            row = ended_row(uri, error)
            self._ended[row.outcome, row.reason] += 1
            yield row

    def counts(self) -> PlanCounts:
        """Of what was laid."""
        reasons: Counter[str] = Counter()
        outcomes: Counter[str] = Counter()
        for (outcome, reason), count in self._ended.items():
            outcomes[outcome] += count
            reasons[reason] += count
        return PlanCounts(
            media=len(self._spool),
            clips=self.buckets.total(),
            filtered=outcomes[Outcome.FILTERED],
            rejected=outcomes[Outcome.REJECTED],
            reasons=dict(reasons),
        )


def _report_buckets(buckets: Mapping[str, int], shard_size: int) -> None:
    """Say how many clips each bucket gets; small ones are kept as they are, and told apart."""
    if len(buckets) > 1:
        logger.info("prepare: clips by bucket: %s", ", ".join(f"{name} {buckets[name]}" for name in sorted(buckets)))
    small = [name for name, clips in sorted(buckets.items()) if clips < shard_size]
    if small and len(buckets) > len(small):
        logger.warning("prepare: buckets that do not fill one shard of %d: %s", shard_size, ", ".join(small))


def retried_plan(
    plan: Plan, spool: MediaSpool, output: Folder, protocol: ClipProtocol, *, policy: RetryPolicy, num_workers: int
) -> Plan:
    """The plan after media that had ended while planning were probed once more: their clips are in new shards.

    Args:
        plan: Of the folder.
        spool: Media with an outcome in the plan that another attempt may change.
        output: The folder.
        protocol: The plan's.
        policy: How media are read.
        num_workers: Of the probe.
    """
    again = {media.uri for media in spool}
    kept = [row for row in read_outcomes(output, PLAN_OUTCOMES_FILE) if row.media_uri not in again]
    attempts = {row.media_uri: row.attempts for row in read_outcomes(output, PLAN_OUTCOMES_FILE)}
    saved = spool.save(output, f"{TEMPORARY_FOLDER}/retried.parquet")
    layout = _Layout(spool, protocol)
    shard_size = plan.identity["shard_size"]
    assert isinstance(shard_size, int)
    with ClipPlanWriter(output, shard_size=shard_size, before=plan.shards) as writer:
        found = probed(spool, output, saved.path, protocol, policy=policy, num_workers=num_workers)
        ended = [replace(row, attempts=row.attempts + attempts[row.media_uri]) for row in layout.lay(found, writer)]
        writer.finish()
    outcomes = [*kept, *ended]
    written = write_outcomes(output, PLAN_OUTCOMES_FILE, outcomes)
    if written is None:
        output.remove(PLAN_OUTCOMES_FILE)
    counts = replace(
        plan.counts,
        clips=plan.counts.clips + layout.counts().clips,
        filtered=sum(row.outcome == Outcome.FILTERED for row in outcomes),
        rejected=sum(row.outcome == Outcome.REJECTED for row in outcomes),
        reasons=dict(Counter(row.reason for row in outcomes)),
    )
    renewed = {file.path for file in writer.files} | {PLAN_OUTCOMES_FILE, SHARDS_FILE}
    files: list[FileRecord] = [file for file in plan.files if file.path not in renewed] + writer.files
    files += [written] if written else []
    return Plan.save(output, job=plan.job, identity=plan.identity, counts=counts, shards=writer.shards, files=files)
