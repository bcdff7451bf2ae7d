"""A planned run, start to end: claim, plan or resume, work, fold, and the record of it. The one path of every job."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipeline.runs.cluster import connect
from pipeline.runs.progress import Progress
from pipeline.runs.record import RunRecord, StartClock, recorded
from pipeline.runs.shards import Workers, run_shards
from pipeline.stages.stage import ShardStage
from pipeline.store.claim import claim
from pipeline.store.files import TEMPORARY_FOLDER, Folder
from pipeline.store.index import close_store, total_counts
from pipeline.store.ledger import ShardRecord, read_ledger
from pipeline.store.plan import Plan, PlanCounts, PlannedShard
from schemas.metadata import STORE_FILE
from schemas.outcome import FILTER_REASONS, Reason

logger = logging.getLogger(__name__)


class TooManyRejectsError(RuntimeError):
    """More was rejected than the run is meant to bear; the message says why most of it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What tells one planned job from another."""

    name: str
    """Also the plan's: "prepare", "encode", "audit"."""
    store_format: str
    identity: Mapping[str, object]
    """Everything that can change an output byte."""
    make_stage: Callable[[], ShardStage]
    """Picklable; called in each worker."""
    workers: Callable[[], Workers]
    """Called with Ray connected."""
    describe: Callable[[Plan, Sequence[ShardRecord]], Mapping[str, object]]
    """The job's own keys of `store.json`."""
    max_reject_fraction: float = 1.0
    """Share of what is planned that may be rejected before the run stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a run did and what its store now holds."""

    planned: int
    stored: int
    filtered: int
    rejected: int
    reasons: Mapping[str, int]
    shards: int
    resumed_shards: int
    """Shards that an earlier run had committed."""
    resumed_clips: int
    size_bytes: int
    worked_clips: int
    """Clips that this run put through."""
    work_seconds: float
    """Wall time from the first shard handed out to the last one committed."""
    worker_seconds: float
    """What all workers together spent on them."""

    @property
    def clips_per_second(self) -> float | None:
        """Rate of this run; None where there was nothing left to do."""
        return self.worked_clips / self.work_seconds if self.worked_clips else None


@contextmanager
def held(
    output: Folder, *, job: str, config: object, clock: StartClock | None, break_claim: bool
) -> Iterator[RunRecord]:
    """An output folder that this run alone writes to, and the record of the run.

    Raises:
        RunRefusedError: Another run holds the folder.
    """
    with claim(output, break_claim=break_claim), recorded(output, job=job, config=config, clock=clock) as record:
        output.remove(TEMPORARY_FOLDER)  # what a killed run left half-written
        yield record
        output.remove(TEMPORARY_FOLDER)


def settle_identity(output: Folder, *, job: str, identity: Mapping[str, object], num_clips: int) -> None:
    """Fix what a run without planned shards is about, or refuse to go on as another one.

    Raises:
        RunRefusedError: The folder was begun with another identity; says what differs.
    """
    plan = Plan.load(output)
    if plan is not None:
        plan.check(folder=output, job=job, identity=identity)
    else:
        Plan.save(output, job=job, identity=identity, counts=PlanCounts(media=0, clips=num_clips), shards=[])


def run_planned(
    job: Job,
    *,
    make_plan: Callable[[], Plan],
    config: object,
    output: Folder,
    clock: StartClock | None = None,
    break_claim: bool = False,
) -> RunSummary:
    """Run a job on its output folder, or go on where an earlier run ended.

    Args:
        job: The job.
        make_plan: Called once in the life of the folder, with Ray connected.
        config: For the record.
        output: The folder.
        clock: Of the command.
        break_claim: See `claim`.

    Raises:
        RunRefusedError: Another run holds the folder, or it was planned for something else.
        TooManyRejectsError: More than `max_reject_fraction` of the plan is rejected.
    """
    with held(output, job=job.name, config=config, clock=clock, break_claim=break_claim) as record:
        plan = _plan_or_resume(job, make_plan, output, record)
        committed = read_ledger(output)
        pending = [shard for shard in plan.shards if shard.index not in committed]
        if committed:
            logger.info(
                "%s: %d of %d shards (%d clips) were already committed in %s",
                job.name,
                len(committed),
                len(plan.shards),
                sum(shard.planned for shard in committed.values()),
                output.url,
            )
        return work_and_close(job, plan, output, record, committed=committed, pending=pending)


def work_and_close(
    job: Job,
    plan: Plan,
    output: Folder,
    record: RunRecord,
    *,
    committed: Mapping[int, ShardRecord],
    pending: Sequence[PlannedShard],
) -> RunSummary:
    """Put the pending shards through and close the store.

    Args:
        job: The job.
        plan: Of the folder.
        output: The folder, held.
        record: Of the run.
        committed: The ledger; records of pending shards in it are replaced.
        pending: What is to be done.
    """
    again = {shard.index for shard in pending}
    resumed = [shard for index, shard in committed.items() if index not in again]
    records_by_index = {shard.index: shard for shard in resumed}
    if pending:
        with record.phase("ray"):
            connect()
        with record.phase("work"):
            records_by_index |= _work(job, plan, pending, resumed, record)
    records = [records_by_index[shard.index] for shard in plan.shards]
    if pending or not output.exists(STORE_FILE):
        with record.phase("fold"):
            close_store(output, plan, records, format_name=job.store_format, details=job.describe(plan, records))
    summary = _summarise(plan, records, resumed, record)
    record.counts |= {key: value for key, value in asdict(summary).items() if not key.endswith("_seconds")}
    logger.info(
        "%s: %d clips planned = %d stored + %d filtered + %d rejected, in %s",
        job.name,
        summary.planned,
        summary.stored,
        summary.filtered,
        summary.rejected,
        output.url,
    )
    return summary


def _plan_or_resume(job: Job, make_plan: Callable[[], Plan], output: Folder, record: RunRecord) -> Plan:
    plan = Plan.load(output)
    if plan is not None:
        plan.check(folder=output, job=job.name, identity=job.identity)
        return plan
    with record.phase("ray"):
        connect()
    with record.phase("plan"):
        plan = make_plan()
    logger.info("%s: planned %d clips in %d shards", job.name, plan.counts.planned, len(plan.shards))
    return plan


def _work(
    job: Job,
    plan: Plan,
    pending: Sequence[PlannedShard],
    resumed: Sequence[ShardRecord],
    record: RunRecord,
) -> dict[int, ShardRecord]:
    done: dict[int, ShardRecord] = {}
    ended = Counter(filtered=plan.counts.filtered, rejected=plan.counts.rejected)
    reasons = Counter(plan.counts.reasons)
    for shard in resumed:
        ended.update(filtered=shard.filtered, rejected=shard.rejected)
        reasons.update(shard.reasons)
    _check_rejects(job, plan, ended["rejected"], reasons)
    with Progress(job.name, total=plan.counts.clips, done=sum(shard.planned for shard in resumed)) as progress:
        workers = job.workers()
        record.counts["workers"] = min(workers.count, len(pending))
        for report in run_shards(pending, job.make_stage, workers):
            done[report.record.index] = report.record
            ended.update(filtered=report.record.filtered, rejected=report.record.rejected)
            reasons.update(report.record.reasons)
            record.add_worker_seconds(report.seconds)
            progress.advance(
                report.record.planned,
                note=f"{len(resumed) + len(done)}/{len(plan.shards)} shards, {ended['filtered']} filtered, "
                f"{ended['rejected']} rejected",
            )
            _check_rejects(job, plan, ended["rejected"], reasons)
    return done


def _check_rejects(job: Job, plan: Plan, rejected: int, reasons: Counter[str]) -> None:
    if rejected > job.max_reject_fraction * plan.counts.planned:
        causes = Counter({name: count for name, count in reasons.items() if Reason(name) not in FILTER_REASONS})
        most = ", ".join(f"{count} {name}" for name, count in causes.most_common(3))
        raise TooManyRejectsError(
            f"{job.name}: {rejected} of {plan.counts.planned} planned clips are rejected, more than "
            f"--max-reject-fraction {job.max_reject_fraction:g}: {most}. What is done stays done: mend the cause and "
            "start again, or allow more"
        )


def _summarise(
    plan: Plan, records: Sequence[ShardRecord], resumed: Sequence[ShardRecord], record: RunRecord
) -> RunSummary:
    reasons = dict(plan.counts.reasons)
    for shard in records:
        for reason, count in shard.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    resumed_clips = sum(shard.planned for shard in resumed)
    return RunSummary(
        **total_counts(plan, records),
        reasons=reasons,
        shards=len(records),
        resumed_shards=len(resumed),
        resumed_clips=resumed_clips,
        size_bytes=sum(shard.file.size_bytes for shard in records if shard.file),
        worked_clips=plan.counts.clips - resumed_clips,
        work_seconds=record.seconds.get("work", 0.0),
        worker_seconds=sum(record.worker_seconds.values()),
    )
