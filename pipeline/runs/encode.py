"""Encode a corpus: a tokenizer and clip shards, or media to make clips of, in; a latent store out."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from pipeline.runs.clip_flags import ClipFlags
from pipeline.runs.clip_plan import plan_clips
from pipeline.runs.clips import (
    OpenedTokenizer,
    TokenizerRun,
    TokenizerRunConfig,
    open_run,
    open_tokenizer,
    passed_columns,
)
from pipeline.runs.grow_latents import append_clip_shards, clip_differences, has_clips
from pipeline.runs.grow_media import append_media, joined_columns
from pipeline.runs.planned import Append, Job, RunSummary, run_planned
from pipeline.runs.prepare import list_corpus, media_identity, prepare_workers, report_listing
from pipeline.runs.record import StartClock
from pipeline.runs.stale import made_differences
from pipeline.runs.survey import MediaSpool
from pipeline.stages.clip_source import ClipSource, MediaClips, StoredClips
from pipeline.stages.protocol import ClipProtocol
from pipeline.store.index import Normalisation
from pipeline.store.latentshard import StoreFormat
from pipeline.store.plan import Plan
from schemas.latent import LATENT_LAYOUT, latent_columns
from schemas.metadata import FORMAT_VERSION, LATENT_STORE_FORMAT
from vitok.config import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig(TokenizerRunConfig):
    """Encode clips into a latent store: those of clip shards, or those made of media on the way, never written out."""

    shards: str = ""
    """Clip store that prepare_corpus wrote: path or URL. This or `--input`."""
    input: tuple[str, ...] = ()
    """Media, as prepare_corpus takes them: clips are made by the flags below, for the tokenizer's tubelet."""
    format: StoreFormat = "parquet"
    """How latents are stored: Parquet, or WebDataset tars."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Dtype of stored latents."""
    logvar: bool = False
    """Store the posterior's log variance beside its mean."""
    flip: bool = False
    """Store the posterior of the clip mirrored left-right beside its own; the forward passes take twice as long."""
    append: bool = False
    """Add the clips that the store does not have yet, in new shards: of the same clip store, grown since, of another
    that was prepared alike, or of further media. Its old shards stay as they are."""
    clips: ClipFlags = field(default_factory=ClipFlags)
    """With `--input` only."""

    def __post_init__(self) -> None:
        TokenizerRunConfig.__post_init__(self)  # `super()` does not find its class where dataclasses make slots
        if bool(self.shards) == bool(self.input):
            raise ValueError(
                f"--shards and --input: got {'both' if self.shards else 'neither'}, expected one: clips that are "
                "prepared, or media to make them of"
            )
        if self.shards and (changed := self.clips.changed()):
            raise ValueError(
                f"{', '.join(changed)}: got a flag that makes clips of media, and --shards {self.shards} holds clips: "
                "leave it out, or give --input in place of --shards"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clips:
    """The clips of a run."""

    source: ClipSource
    """Where workers get them."""
    identity: Mapping[str, object]
    """All of them that can change a latent's byte."""
    preprocessing: object
    """What made them, for `store.json`."""
    columns: Mapping[str, str]
    """Pass-through columns, by name and type."""
    make_plan: Callable[[Mapping[str, object]], Plan]
    """From the run's whole identity."""
    append: Callable[[Mapping[str, object], Mapping[str, object]], Append]
    """From the run's whole identity and the details of its `store.json`."""
    differences: Callable[[Plan, Mapping[str, object]], list[str]] | None = None
    """What of the clips is not as a plan was made for, line by line, by the same details; None: identities say."""
    has_inputs: Callable[[Mapping[str, object]], bool] | None = None
    """See `Job`."""


def encode(config: EncodeConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job; see `run_planned` and `open_run` for what else is raised.

    Raises:
        ValueError: The log variance is asked for, and the tokenizer has none; an input names no media; a flag that
            makes clips does not go with the tokenizer's tubelet.
    """
    run = open_run(config) if config.shards else open_tokenizer(config)
    if config.logvar and not run.description.learns_variance:
        raise ValueError(
            f"--logvar: the posteriors of the tokenizer {run.tokenizer_url} have no variance: leave --logvar out, or "
            "give a tokenizer that learns one (of ours those with the bottleneck kl)"
        )
    with _clips(config, run) as clips:
        return _encode(config, run, clips, clock=clock)


@contextmanager
def _clips(config: EncodeConfig, run: OpenedTokenizer) -> Iterator[_Clips]:
    """The clips of the clip store or of the media, as long as they are needed."""
    if isinstance(run, TokenizerRun):
        yield _Clips(
            source=StoredClips(run.source.folder),
            identity={"clips": run.source.identity},
            preprocessing=run.source.document["preprocessing"],
            columns=passed_columns(run.source),
            make_plan=partial(run.plan, "encode"),
            append=partial(append_clip_shards, run),
            differences=partial(clip_differences, run),
            has_inputs=partial(has_clips, run.source),
        )
        return
    flags, policy = config.clips, config.clips.reads.policy()
    assert run.description.tubelet is not None, "an adapter without one describes nothing before there are clips"
    protocol = flags.clip_protocol(run.description.tubelet, codec=None)
    _check_grids(run, protocol)
    listing = list_corpus(config.input, flags.inputs)
    with MediaSpool(listing, protocol) as spool:
        report_listing("encode", spool, listing)
        columns = joined_columns(run.output, listing.column_types) if config.append else listing.column_types

        def make_plan(identity: Mapping[str, object]) -> Plan:
            return plan_clips(
                spool,
                listing.damaged,
                run.output,
                protocol,
                job="encode",
                identity=identity,
                shard_size=config.shard_size,
                policy=policy,
                num_workers=prepare_workers(config.num_workers).count,
            )

        def append(identity: Mapping[str, object], _: Mapping[str, object]) -> Append:
            return append_media(
                spool,
                listing.damaged,
                run.output,
                protocol,
                job="encode",
                identity=identity,
                policy=policy,
                num_workers=lambda: prepare_workers(config.num_workers).count,
            )

        yield _Clips(
            source=MediaClips(run.output, protocol, policy),
            identity=media_identity(spool, columns, protocol),
            preprocessing=protocol.to_json(),
            columns=columns,
            make_plan=make_plan,
            append=append,
        )


def _check_grids(run: OpenedTokenizer, protocol: ClipProtocol) -> None:
    """Refuse to plan clips whose latents have another grid than they have themselves, after which shards are named.

    Raises:
        ValueError: Says which, and the way that is open.
    """
    for frames, (height, width) in itertools.product((1, protocol.num_frames), protocol.resize.sizes):
        grid = run.description.grid_of((frames, height, width))
        clip = Grid.of_clip(num_frames=frames, height=height, width=width, tubelet=protocol.tubelet)
        if grid != clip:
            raise ValueError(
                f"--input: the latents of {run.tokenizer_url} have the grid {grid} where the clips' is {clip}: prepare "
                f"the media with --tubelet {protocol.tubelet} and the same flags, then give --shards"
            )


def _encode(config: EncodeConfig, run: OpenedTokenizer, clips: _Clips, *, clock: StartClock | None) -> RunSummary:
    from pipeline.stages.encode import EncodeShard, LatentFormat

    latent = LatentFormat(
        format=config.format,
        dtype=config.dtype,
        columns=latent_columns(logvar=config.logvar, flip=config.flip),
        passed=clips.columns,
    )
    stored_as = {"format": latent.format, "dtype": latent.dtype, "columns": list(latent.columns)}
    identity = {
        "format_version": FORMAT_VERSION,
        **clips.identity,
        "tokenizer": run.tokenizer_fingerprint,
        "latent": stored_as,
        "inference": asdict(run.inference),
        "shard_size": config.shard_size,
    }
    details = {
        "tokenizer": {"fingerprint": run.tokenizer_fingerprint, "config": dict(run.description.config)},
        "preprocessing": clips.preprocessing,
        "columns": dict(latent.passed),
        "latent": stored_as | {"layout": LATENT_LAYOUT, "channels": run.description.channels},
        "inference": identity["inference"],
    }
    rule = run.description.rule

    def explain(plan: Plan) -> list[str]:
        lines = made_differences(run.output, plan, identity, details)
        return lines if clips.differences is None else lines + clips.differences(plan, details)

    job = Job(
        name="encode",
        store_format=LATENT_STORE_FORMAT,
        identity=identity,
        make_stage=partial(
            EncodeShard,
            source=clips.source,
            output=run.output,
            tokenizer_url=run.tokenizer_url,
            inference=run.inference,
            channels=run.description.channels,
            latent=latent,
        ),
        workers=run.workers,
        details=details,
        make_sums=partial(Normalisation, run.description.channels, None if rule is None else asdict(rule)),
        max_reject_fraction=config.max_reject_fraction,
        explain=explain,
        has_inputs=clips.has_inputs,
    )
    return run_planned(
        job,
        make_plan=partial(clips.make_plan, identity),
        config=config,
        output=run.output,
        append=clips.append(identity, details) if config.append else None,
        clock=clock,
        break_claim=config.break_claim,
    )
