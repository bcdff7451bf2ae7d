"""Retry rejects: what a clip store rejected for a reason that may have passed is tried once more, and merged."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.media.source import Media
from pipeline.runs.clip_flags import ReadFlags
from pipeline.runs.clip_plan import retried_plan
from pipeline.runs.cluster import connect
from pipeline.runs.planned import RunSummary, held, work_and_close
from pipeline.runs.prepare import prepare_job, prepare_workers
from pipeline.runs.record import StartClock
from pipeline.runs.survey import MediaSpool
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger, read_outcomes
from pipeline.store.plan import Plan
from pipeline.store.planned_clips import read_media
from schemas.metadata import PLAN_OUTCOMES_FILE, STORE_FILE
from schemas.outcome import TRANSIENT_REASONS


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryConfig:
    """Try once more what a clip store rejected because a server, a disk or a busy machine failed."""

    store: str
    """Folder of a clip store: path or URL."""
    reads: ReadFlags = field(default_factory=ReadFlags)
    num_workers: int = 0
    """Workers; 0 fills the cluster."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")


def retry_rejects(config: RetryConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job: shards that hold transient rejects are made again around what they already store.

    A shard becomes, byte for byte, what it would have been without the faults; media that ended while planning get
    shards of their own, after the others. May be killed and started again.

    Raises:
        ValueError: The folder holds no planned clip store.
        RunRefusedError: Another run holds it.
    """
    output = Folder(config.store)
    plan = Plan.load(output)
    if plan is None or plan.job != "prepare":
        raise ValueError(
            f"{output.url}: got {plan.job if plan else 'no plan'}, expected a store of prepare_corpus; to try media "
            "of `encode --input` again, prepare them, retry that store, and encode it with --shards"
        )
    preprocessing = plan.identity["preprocessing"]
    assert isinstance(preprocessing, dict)
    protocol, policy = ClipProtocol.from_json(preprocessing), config.reads.policy()
    with held(output, job="retry", config=config, clock=clock, break_claim=config.break_claim) as record:
        committed = read_ledger(output)
        faulty = {index for index, shard in committed.items() if TRANSIENT_REASONS & shard.reasons.keys()}
        if faulty or TRANSIENT_REASONS & plan.counts.reasons.keys():
            output.remove(STORE_FILE)  # until the end the store is as unfinished as in its first run
        if TRANSIENT_REASONS & plan.counts.reasons.keys():
            with record.phase("ray"):
                connect()
            with record.phase("plan"), MediaSpool(_unplanned(output, plan), protocol) as spool:
                num_workers = prepare_workers(config.num_workers).count
                plan = retried_plan(plan, spool, output, protocol, policy=policy, num_workers=num_workers)
        job = prepare_job(plan.identity, output, protocol, policy=policy, num_workers=config.num_workers, retry=True)
        pending = [shard for shard in plan.shards if shard.index in faulty or shard.index not in committed]
        return work_and_close(job, plan, output, record, committed=committed, pending=pending)


def _unplanned(output: Folder, plan: Plan) -> Iterator[Media]:
    """Media that ended while planning for a reason that may have passed, in the plan's order."""
    outcomes = (row for path in plan.paths(PLAN_OUTCOMES_FILE) for row in read_outcomes(output, path))
    again = {row.media_uri for row in outcomes if row.transient}
    for media in read_media(output, plan):
        if media.uri in again:
            again.remove(media.uri)  # a media may be named more than once
            yield media
