"""Prepare a corpus: media in, clip shards out."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from pipeline.media.listing import MediaListing
from pipeline.media.retry import RetryPolicy
from pipeline.runs.clip_flags import InputFlags
from pipeline.runs.clip_plan import plan_clips
from pipeline.runs.cluster import default_workers
from pipeline.runs.grow_media import append_media, joined_columns
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock
from pipeline.runs.shards import Workers
from pipeline.runs.survey import MediaSpool
from pipeline.stages.prepare import PrepareShard
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.files import Folder
from pipeline.store.plan import Plan
from schemas.latent import TAKEN_COLUMNS
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION

logger = logging.getLogger(__name__)


def prepare(config: PrepareConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job; see `run_planned` for what is raised.

    Raises:
        ValueError: An input names no media.
    """
    listing = list_corpus(config.input, config.inputs)
    with MediaSpool(listing, config.protocol()) as spool:
        report_listing("prepare", spool, listing)
        return prepare_spool(spool, listing, config, clock=clock)


def list_corpus(inputs: Sequence[str], flags: InputFlags) -> MediaListing:
    """The media that the inputs name; listed as it is iterated."""
    return MediaListing(
        inputs,
        names=flags.column_names(),
        labels_from_folders=flags.labels_from_folders,
        taken=TAKEN_COLUMNS,
    )


def report_listing(job: str, spool: MediaSpool, listing: MediaListing) -> None:
    """Say what the inputs name beside media to work on."""
    if listing.ignored or spool.repeated:
        logger.info("%s: not media: %s; named again: %d", job, dict(listing.ignored), len(spool.repeated))


def media_identity(spool: MediaSpool, columns: Mapping[str, str], protocol: ClipProtocol) -> dict[str, object]:
    """What of media, and of the clips made of them, can change a byte of any store of theirs."""
    return {
        "media": {"count": len(spool), "sha256": spool.sha256},
        "columns": columns,
        "preprocessing": protocol.to_json(),
    }


def prepare_spool(
    spool: MediaSpool, listing: MediaListing, config: PrepareConfig, *, clock: StartClock | None = None
) -> RunSummary:
    """The job over media that are already listed: all of a listing, or some of it."""
    output, protocol = Folder(config.output), config.protocol()
    columns = joined_columns(output, listing.column_types) if config.append else listing.column_types
    identity = {
        "format_version": FORMAT_VERSION,
        **media_identity(spool, columns, protocol),
        "shard_size": config.shard_size,
    }
    append = append_media(
        spool,
        listing.damaged,
        output,
        protocol,
        job="prepare",
        identity=identity,
        policy=config.reads.policy(),
        num_workers=lambda: prepare_workers(config.num_workers).count,
    )

    def make_plan() -> Plan:
        return plan_clips(
            spool,
            listing.damaged,
            output,
            protocol,
            job="prepare",
            identity=identity,
            shard_size=config.shard_size,
            policy=config.reads.policy(),
            num_workers=prepare_workers(config.num_workers).count,
        )

    return run_planned(
        prepare_job(
            identity,
            output,
            protocol,
            policy=config.reads.policy(),
            num_workers=config.num_workers,
            max_reject_fraction=config.max_reject_fraction,
        ),
        make_plan=make_plan,
        config=config,
        output=output,
        append=append if config.append else None,
        clock=clock,
        break_claim=config.break_claim,
    )


def prepare_workers(num_workers: int) -> Workers:
    """As many as asked for, or as fill the connected cluster; each decodes on one CPU."""
    return Workers(count=num_workers or default_workers(cpus_per_worker=1, device="cpu"))


def prepare_job(
    identity: Mapping[str, object],
    output: Folder,
    protocol: ClipProtocol,
    *,
    policy: RetryPolicy,
    num_workers: int,
    max_reject_fraction: float = 1.0,
    retry: bool = False,
) -> Job:
    """The job of a clip store, for its first run and for every retry."""
    return Job(
        name="prepare",
        store_format=CLIP_STORE_FORMAT,
        identity=identity,
        make_stage=partial(PrepareShard, output=output, protocol=protocol, policy=policy, retry=retry),
        workers=partial(prepare_workers, num_workers),
        details={"preprocessing": identity["preprocessing"], "columns": identity["columns"]},
        max_reject_fraction=max_reject_fraction,
    )
