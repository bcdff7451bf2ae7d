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
from pipeline.store.index import Sums, Tally, close_store, is_closed, total_counts
from pipeline.store.ledger import ShardRecord, read_ledger
from pipeline.store.plan import Plan, PlanCounts, RunRefusedError, refuse_other
from pipeline.store.planned_shards import PlannedShard
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
    details: Mapping[str, object]
    """The job's own keys of `store.json`."""
    make_sums: Callable[[], Sums] | None = None
    """Further ones, added up over the records as they are folded."""
    max_reject_fraction: float = 1.0
    """Share of what is planned that may be rejected before the run stops."""
    explain: Callable[[Plan], Sequence[str]] | None = None
    """What differs between what a plan was made for and this job, line by line; None: their identities."""
    has_inputs: Callable[[Mapping[str, object]], bool] | None = None
    """Whether this run can make the shards of a part of the plan, by the part's identity; None: all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Append:
    """How a job adds to a plan."""

    differences: Callable[[Plan], Sequence[str]]
    """What rules it out, line by line: asked before any work."""
    grow: Callable[[Plan], Plan | None]
    """The plan with what is new in it, or None where nothing is: called once the store is finished as it was planned.
    Raises RunRefusedError where what is new does not go with it."""


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
    with (
        claim(output, break_claim=break_claim) as hold,
        recorded(output, job=job, config=config, claim=hold, clock=clock) as record,
    ):
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
    append: Append | None = None,
    clock: StartClock | None = None,
    break_claim: bool = False,
) -> RunSummary:
    """Run a job on its output folder, or go on where an earlier run ended.

    With `append` the folder has a plan: what is planned is finished first, then what is new is planned and done. Until
    that is finished the folder holds the store as it was before. Killed and started again, it goes on.

    Args:
        job: The job.
        make_plan: Called once in the life of the folder, with Ray connected.
        config: For the record.
        output: The folder.
        append: Add what is new.
        clock: Of the command.
        break_claim: See `claim`.

    Raises:
        RunRefusedError: Another run holds the folder, it was planned for something else, what is left to do there
            needs other inputs, or there is nothing to append to.
        TooManyRejectsError: More than `max_reject_fraction` of the plan is rejected.
    """
    with held(output, job=job.name, config=config, clock=clock, break_claim=break_claim) as record:
        plan = _plan_or_resume(job, make_plan, output, record) if append is None else _to_append(append, output)
        summary = _finish(job, plan, output, record)
        if append is None:
            return summary
        with record.phase("plan"):
            grown = append.grow(plan)
        if grown is None:
            logger.info("%s: nothing is new, %s stays as it is", job.name, output.url)
            return summary
        return _finish(job, grown, output, record)


def _to_append(append: Append, output: Folder) -> Plan:
    plan = Plan.load(output)
    if plan is None:
        raise RunRefusedError(f"{output.url} holds no store to append to: correct --output, or leave --append out")
    refuse_other(output, append.differences(plan))
    return plan


def _finish(job: Job, plan: Plan, output: Folder, record: RunRecord) -> RunSummary:
    """Do what is planned and not committed, and close the store."""
    committed = read_ledger(output)
    pending = [shard for shard in plan.shards if shard.index not in committed]
    if job.has_inputs is not None:
        parts = {part: plan.identities[part] or {} for part in {shard.part for shard in pending}}
        foreign = {part for part, identity in parts.items() if not job.has_inputs(identity)}
        left = sum(shard.part in foreign for shard in pending)
        if left:
            raise RunRefusedError(
                f"{output.url}: {left} shards are still to be made of other inputs than these. First start the command "
                "again that was to make them, and it goes on"
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
    with record.phase("resume"):
        resumed = Tally.of(shard for shard in committed.values() if shard.index not in again)
    if resumed.shards:
        logger.info(
            "%s: %d of %d shards (%d clips) were already committed in %s",
            job.name,
            resumed.shards,
            len(plan.shards),
            resumed.planned,
            output.url,
        )
    done = Tally()
    if pending:
        with record.phase("ray"):
            connect()
        with record.phase("work"):
            done = _work(job, plan, pending, resumed, record)
    if pending or not is_closed(output):
        with record.phase("fold"):
            record.claim.confirm()
            close_store(
                output,
                plan,
                read_ledger(output).values(),  # what stands on disk, whoever wrote it
                format_name=job.store_format,
                details=job.details,
                sums=None if job.make_sums is None else job.make_sums(),
            )
    summary = _summarise(plan, resumed, done, record)
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
        if plan.job != job.name or job.identity not in plan.identities:
            refuse_other(output, job.explain(plan) if job.explain else plan.differences(job.name, job.identity))
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
    resumed: Tally,
    record: RunRecord,
) -> Tally:
    done = Tally()
    earlier = f" ({resumed.shards} of earlier runs)" if resumed.shards else ""
    filtered, rejected = plan.counts.filtered + resumed.filtered, plan.counts.rejected + resumed.rejected
    reasons = Counter(plan.counts.reasons) + resumed.reasons
    _check_rejects(job, plan, rejected, reasons)
    with Progress(job.name, total=plan.counts.clips, done=resumed.planned) as progress:
        workers = job.workers()
        record.counts["workers"] = min(workers.count, len(pending))
        for report in run_shards(pending, job.make_stage, workers, job=job.name):
            record.claim.check()
            done.add(report.record)
            reasons.update(report.record.reasons)
            record.add_worker_seconds(report.seconds)
            progress.advance(
                report.record.planned,
                note=f"{resumed.shards + done.shards}/{len(plan.shards)} shards{earlier}, "
                f"{filtered + done.filtered} filtered, {rejected + done.rejected} rejected",
            )
            _check_rejects(job, plan, rejected + done.rejected, reasons)
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


def _summarise(plan: Plan, resumed: Tally, done: Tally, record: RunRecord) -> RunSummary:
    return RunSummary(
        **total_counts(plan, (resumed, done)),
        reasons=dict(Counter(plan.counts.reasons) + resumed.reasons + done.reasons),
        shards=resumed.shards + done.shards,
        resumed_shards=resumed.shards,
        resumed_clips=resumed.planned,
        size_bytes=resumed.size_bytes + done.size_bytes,
        worked_clips=plan.counts.clips - resumed.planned,
        work_seconds=record.seconds.get("work", 0.0),
        worker_seconds=sum(record.worker_seconds.values()),
    )
