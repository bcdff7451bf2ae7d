"""Encode a corpus: a tokenizer and clip shards, or media to make clips of, in; a latent store out."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from pipeline.media.bucket import bucket_name
from pipeline.runs.clip_flags import ClipFlags
from pipeline.runs.clip_plan import plan_clips
from pipeline.runs.clips import (
    OpenedTokenizer,
    TokenizerRun,
    TokenizerRunConfig,
    clip_shape,
    described,
    load_tokenizer,
    open_run,
    passed_columns,
    tokenizer_url,
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
from vitok.config import Tubelet

_PIXEL = Tubelet(frames=1, patch=1)
"""Clips of any size divide into it: for a tokenizer that does not tell its tubelet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig(TokenizerRunConfig):
    """Encode clips into a latent store: those of clip shards, or those made of media on the way, never written out."""

    shards: str = ""
    """Clip store that prepare_corpus wrote: path or URL. This or `--input`."""
    input: tuple[str, ...] = ()
    """Media, as prepare_corpus takes them: clips are made by the flags below, for the tokenizer's tubelet, or for none
    where module:function does not tell one."""
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
    run, opened = _open(config)
    if config.logvar and not run.description.learns_variance:
        raise ValueError(
            f"--logvar: the posteriors of the tokenizer {run.tokenizer_url} have no variance: leave --logvar out, or "
            "give a tokenizer that learns one (of ours those with the bottleneck kl)"
        )
    with opened as clips:
        return _encode(config, run, clips, clock=clock)


def _open(config: EncodeConfig) -> tuple[OpenedTokenizer, AbstractContextManager[_Clips]]:
    """The tokenizer, and the clips for it."""
    if config.shards:
        stored = open_run(config)
        return stored, nullcontext(_stored_clips(stored))
    run, protocol = _open_for_media(config)
    return run, _media_clips(config, run, protocol)


def _stored_clips(run: TokenizerRun) -> _Clips:
    """The clips of the clip store."""
    return _Clips(
        source=StoredClips(run.source.folder),
        identity={"clips": run.source.identity},
        preprocessing=run.source.document["preprocessing"],
        columns=passed_columns(run.source),
        make_plan=partial(run.plan, "encode"),
        append=partial(append_clip_shards, run),
        differences=partial(clip_differences, run),
        has_inputs=partial(has_clips, run.source),
    )


def _open_for_media(config: EncodeConfig) -> tuple[OpenedTokenizer, ClipProtocol]:
    """The tokenizer, and how clips for it are made of media.

    Raises:
        ValueError: It cannot be used, or a flag does not go with it.
        FileNotFoundError: There is none.
    """
    adapter, flags = load_tokenizer(config), config.clips
    if adapter.tubelet is None and flags.bucket_tokens:
        raise ValueError(
            f"--bucket-tokens: {tokenizer_url(config.tokenizer)} does not tell its tubelet, so what a token is: give "
            "the sizes by --sizes"
        )
    protocol = flags.clip_protocol(adapter.tubelet or _PIXEL, codec=None)
    sizes = itertools.product({1, protocol.num_frames}, protocol.resize.sizes)
    shapes = {(num_frames, height, width) for num_frames, (height, width) in sizes}
    return described(config, adapter, shapes, clips="clips of the media as the flags make them"), protocol


@contextmanager
def _media_clips(config: EncodeConfig, run: OpenedTokenizer, protocol: ClipProtocol) -> Iterator[_Clips]:
    """Clips made of the media, which are listed as long as they are needed."""
    flags, policy = config.clips, config.clips.reads.policy()

    def bucket_of(clip_bucket: str) -> str:
        return bucket_name(run.description.grid_of(clip_shape(clip_bucket, protocol.tubelet)))

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
                bucket_of=bucket_of,
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
                bucket_of=bucket_of,
            )

        yield _Clips(
            source=MediaClips(run.output, protocol, policy),
            identity=media_identity(spool, columns, protocol),
            preprocessing=protocol.to_json(),
            columns=columns,
            make_plan=make_plan,
            append=append,
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
        "inference": run.inference.to_json(),
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
