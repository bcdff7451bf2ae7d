"""The plan over media: the clips of a spool of them laid into shards, and parts by which such a plan grows."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from pipeline.media.keys import clip_key
from pipeline.media.reject import RejectClip
from pipeline.media.retry import RetryPolicy
from pipeline.runs.survey import MediaSpool, ended_row, probed
from pipeline.stages.probe import Probed
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.files import TEMPORARY_FOLDER, FileRecord, Folder
from pipeline.store.ledger import OutcomeRow, read_outcomes, write_outcomes
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_clips import ClipPlanWriter, PlannedClip
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import MEDIA_FILE, PLAN_OUTCOMES_FILE, part_file
from schemas.outcome import Outcome

logger = logging.getLogger(__name__)


def plan_clips(
    spool: MediaSpool,
    damaged: Mapping[str, RejectClip],
    output: Folder,
    protocol: ClipProtocol,
    *,
    job: str,
    identity: Mapping[str, object],
    shard_size: int,
    policy: RetryPolicy,
    num_workers: int,
    bucket_of: Callable[[str], str] = str,
) -> Plan:
    """Probe every media on the cluster and lay its clips into shards, in the media's order.

    Args:
        spool: The media.
        damaged: Containers that could not be listed to their end, and why: each counts as one reject.
        output: The folder that the plan is for.
        protocol: How clips are made.
        job: That the plan is for.
        identity: Of the plan.
        shard_size: Clips of one shard.
        policy: How media are read.
        num_workers: Of the probe.
        bucket_of: Bucket of a shard by that of its clips: the same, unless latents are made of them. A shard's clips
            are of one bucket, also where those of another have latents of the same.
    """
    laid = _lay(
        spool,
        damaged,
        output,
        protocol,
        part=0,
        shard_size=shard_size,
        policy=policy,
        num_workers=num_workers,
        bucket_of=bucket_of,
    )
    _report_buckets(job, laid.buckets, shard_size)
    return Plan.save(output, job=job, identity=identity, counts=laid.counts, shards=laid.shards, files=laid.files)


def append_clips(
    plan: Plan,
    spool: MediaSpool,
    damaged: Mapping[str, RejectClip],
    output: Folder,
    protocol: ClipProtocol,
    *,
    identity: Mapping[str, object],
    policy: RetryPolicy,
    num_workers: int,
    bucket_of: Callable[[str], str],
) -> Plan:
    """The plan with a part over further media, probed and laid as those of `plan_clips`.

    Args:
        plan: Of the folder.
        spool: Media that the plan does not have.
        damaged: See `plan_clips`; those that the plan does not have.
        output: The folder.
        protocol: The plan's.
        identity: Of the part.
        policy: How media are read.
        num_workers: Of the probe.
        bucket_of: See `plan_clips`.
    """
    part, shard_size = len(plan.parts) + 1, _shard_size(plan)
    output.remove(part_file(MEDIA_FILE, part).rpartition("/")[0])  # what an append of other media left, killed
    laid = _lay(
        spool,
        damaged,
        output,
        protocol,
        part=part,
        shard_size=shard_size,
        policy=policy,
        num_workers=num_workers,
        bucket_of=bucket_of,
    )
    _report_buckets(plan.job, laid.buckets, shard_size)
    counts = plan.counts + laid.counts
    return plan.grow(output, identity=identity, counts=counts, shards=laid.shards, files=laid.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Laid:
    """Media laid into one part of a plan."""

    counts: PlanCounts
    buckets: Mapping[str, int]
    """Clips by bucket."""
    shards: list[PlannedShard]
    files: list[FileRecord]


def _lay(
    spool: MediaSpool,
    damaged: Mapping[str, RejectClip],
    output: Folder,
    protocol: ClipProtocol,
    *,
    part: int,
    shard_size: int,
    policy: RetryPolicy,
    num_workers: int,
    bucket_of: Callable[[str], str],
) -> _Laid:
    media = spool.save(output, part_file(MEDIA_FILE, part))
    layout = _Layout(spool, protocol)
    with ClipPlanWriter(output, shard_size=shard_size, part=part) as writer:
        found = probed(spool, output, media.path, protocol, policy=policy, num_workers=num_workers)
        rows = chain(layout.lay_damaged(damaged), layout.lay(found, writer))
        ended = write_outcomes(output, part_file(PLAN_OUTCOMES_FILE, part), rows)
        writer.finish()
    files = [media, *writer.files, *([ended] if ended else [])]
    shards = [_named(shard, bucket_of(shard.bucket)) for shard in writer.shards]
    return _Laid(counts=layout.counts(), buckets=layout.buckets, shards=shards, files=files)


def _named(shard: PlannedShard, bucket: str) -> PlannedShard:
    """A shard of planned clips under the bucket of what is made of them."""
    return shard if bucket == shard.bucket else replace(shard, bucket=bucket, clip_bucket=shard.bucket)


def _shard_size(plan: Plan) -> int:
    shard_size = plan.identity["shard_size"]
    assert isinstance(shard_size, int)
    return shard_size


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


def _report_buckets(job: str, buckets: Mapping[str, int], shard_size: int) -> None:
    """Say how many clips each bucket gets; small ones are kept as they are, and told apart."""
    if len(buckets) > 1:
        logger.info("%s: clips by bucket: %s", job, ", ".join(f"{name} {buckets[name]}" for name in sorted(buckets)))
    small = [name for name, clips in sorted(buckets.items()) if clips < shard_size]
    if small and len(buckets) > len(small):
        logger.warning("%s: buckets that do not fill one shard of %d: %s", job, shard_size, ", ".join(small))


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
    before = [row for path in plan.paths(PLAN_OUTCOMES_FILE) for row in read_outcomes(output, path)]
    attempts = {row.media_uri: row.attempts for row in before}
    saved = spool.save(output, f"{TEMPORARY_FOLDER}/retried.parquet")
    layout = _Layout(spool, protocol)
    part = len(plan.parts) + 1
    with ClipPlanWriter(output, shard_size=_shard_size(plan), part=part) as writer:
        found = probed(spool, output, saved.path, protocol, policy=policy, num_workers=num_workers)
        ended = [replace(row, attempts=row.attempts + attempts[row.media_uri]) for row in layout.lay(found, writer)]
        writer.finish()
    outcomes = [*(row for row in before if row.media_uri not in again), *ended]
    written = write_outcomes(output, part_file(PLAN_OUTCOMES_FILE, part if writer.shards else part - 1), outcomes)
    counts = replace(
        plan.counts,
        clips=plan.counts.clips + layout.counts().clips,
        filtered=sum(row.outcome == Outcome.FILTERED for row in outcomes),
        rejected=sum(row.outcome == Outcome.REJECTED for row in outcomes),
        reasons=dict(Counter(row.reason for row in outcomes)),
    )
    replaced = plan.paths(PLAN_OUTCOMES_FILE)
    kept = tuple(file for file in plan.files if file.path not in replaced)
    files = [*writer.files, *([written] if written else [])]
    if writer.shards:
        retried = replace(plan, files=kept).grow(
            output, identity=None, counts=counts, shards=writer.shards, files=files
        )
    else:
        retried = replace(plan, counts=counts, files=(*kept, *files))
        retried.write(output)
    for path in replaced:
        if path not in retried.paths(PLAN_OUTCOMES_FILE):
            output.remove(path)
    return retried
