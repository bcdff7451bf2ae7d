"""Merge stores: the shards of several finished ones, made alike, copied unchanged into one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from pipeline.runs.cluster import default_workers
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.runs.shards import Workers
from pipeline.stages.copy_shard import CopyShard, copy_source
from pipeline.store.files import Folder
from pipeline.store.index import Normalisation, Store, is_closed
from pipeline.store.ledger import OutcomeRow, read_outcomes, write_outcomes
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from pipeline.store.stored_keys import refuse_repeats
from pipeline.store.verify import open_any_store
from schemas.metadata import (
    AUDIT_FORMAT,
    FORMAT_VERSION,
    LATENT_STORE_FORMAT,
    PLAN_OUTCOMES_FILE,
    differences,
)

_OWN_KEYS = frozenset(
    ["format_version", "fingerprint", "plan_sha256", "counts", "buckets", "index", "normalisation", "seal"]
)
"""Keys of `store.json` that are of one store; by all others stores must be the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Join finished latent stores, or clip stores, that were made alike."""

    stores: tuple[str, ...]
    """Two or more finished stores: paths or URLs. Their shards come in this order."""
    output: str
    """Folder of the joined store: path or URL."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        if len(self.stores) < 2:
            raise ValueError(f"--stores: got {len(self.stores)}, expected at least two stores to join")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")


def merge(config: MergeConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job; see `run_planned` for what else is raised. A clip that stands in two of the stores is refused.

    Raises:
        ValueError: A store is not finished, or they were not made alike; says line by line what differs.
    """
    output = Folder(config.output)
    stores = [open_any_store(Folder(url)) for url in config.stores]
    for store in stores:
        if not is_closed(store.folder):
            raise ValueError(f"--stores: an append to {store.folder.url} has begun and not finished: finish it first")
    made = [_made(store) for store in stores]
    for store, other in zip(stores[1:], made[1:], strict=True):
        lines = differences(made[0], other)
        if lines:
            raise ValueError(
                f"--stores: {store.folder.url} is not made as {stores[0].folder.url}; what differs:\n  "
                + "\n  ".join(lines)
            )
    if made[0]["format"] == AUDIT_FORMAT:
        raise ValueError(f"--stores: got {AUDIT_FORMAT}, expected latent stores or clip stores")
    identity = {"format_version": FORMAT_VERSION, "stores": [store.identity for store in stores]}
    job = Job(
        name="merge",
        store_format=str(made[0]["format"]),
        identity=identity,
        make_stage=partial(CopyShard, sources=[store.folder for store in stores], output=output),
        workers=partial(_workers, config.num_workers),
        details={name: value for name, value in stores[0].document.items() if name not in _OWN_KEYS | {"format"}},
        make_sums=partial(_normalisation, stores[0]) if made[0]["format"] == LATENT_STORE_FORMAT else None,
    )
    return run_planned(
        job,
        make_plan=partial(_plan, stores, output, identity),
        config=config,
        output=output,
        clock=clock,
        break_claim=config.break_claim,
    )


def _made(store: Store) -> dict[str, object]:
    """What made a store: all that `store.json` says but of its content."""
    made = {name: value for name, value in store.document.items() if name not in _OWN_KEYS}
    return made | {"normalisation": {"tokenizer": _stated(store)}}


def _stated(store: Store) -> dict[str, list[float]] | None:
    """Mean and std that the tokenizer's authors state, where they do; see `Normalisation`."""
    normalisation = cast(Mapping[str, dict[str, list[float]]], store.document.get("normalisation", {}))
    return normalisation.get("tokenizer")


def _normalisation(store: Store) -> Normalisation:
    latent = cast(Mapping[str, int], store.document["latent"])
    return Normalisation(latent["channels"], _stated(store))


def _workers(num_workers: int) -> Workers:
    return Workers(count=num_workers or default_workers(cpus_per_worker=1, device="cpu"))


def _plan(stores: Sequence[Store], output: Folder, identity: Mapping[str, object]) -> Plan:
    """One planned shard for each that there is: O(shards), but for the keys of all clips, read once."""
    refuse_repeats([(store, store.rows) for store in stores], output=output)
    plans = [_plan_of(store) for store in stores]
    sources = ((number, row) for number, store in enumerate(stores) for row in store.rows)
    shards = [
        PlannedShard(index=index, bucket=row.bucket, num_clips=row.planned, sources=(copy_source(number, row),))
        for index, (number, row) in enumerate(sources)
    ]
    ended = write_outcomes(output, PLAN_OUTCOMES_FILE, _ended(stores, plans))
    counts = PlanCounts(media=0, clips=0)
    for plan in plans:
        counts += plan.counts
    files = [ended] if ended else []
    return Plan.save(output, job="merge", identity=identity, counts=counts, shards=shards, files=files)


def _plan_of(store: Store) -> Plan:
    plan = Plan.load(store.folder)
    assert plan is not None, "a finished store has a plan"
    return plan


def _ended(stores: Sequence[Store], plans: Sequence[Plan]) -> Iterator[OutcomeRow]:
    """What ended while the stores were planned."""
    for store, plan in zip(stores, plans, strict=True):
        for path in plan.paths(PLAN_OUTCOMES_FILE):
            yield from read_outcomes(store.folder, path)
