"""Encode a corpus: clip shards and a tokenizer in, a latent store out."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from pipeline.runs.clips import TokenizerRunConfig, open_run, passed_columns
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.store.index import Normalisation
from pipeline.store.latentshard import StoreFormat
from schemas.latent import LATENT_LAYOUT, latent_columns
from schemas.metadata import FORMAT_VERSION, LATENT_STORE_FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig(TokenizerRunConfig):
    """Encode clip shards into a latent store."""

    format: StoreFormat = "parquet"
    """How latents are stored: Parquet, or WebDataset tars."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Dtype of stored latents."""
    logvar: bool = False
    """Store the posterior's log variance beside its mean."""
    flip: bool = False
    """Store the posterior of the clip mirrored left-right beside its own; the forward passes take twice as long."""


def encode(config: EncodeConfig, *, clock: StartClock | None = None) -> RunSummary:
    """Run the job; see `run_planned` and `open_run` for what else is raised.

    Raises:
        ValueError: The log variance is asked for, and the tokenizer has none.
    """
    from pipeline.stages.encode import EncodeShard, LatentFormat

    run = open_run(config)
    if config.logvar and run.autoencoder.bottleneck != "kl":
        raise ValueError(
            f"--logvar: the tokenizer {run.tokenizer_url} has the bottleneck {run.autoencoder.bottleneck}, "
            "which learns no variance (kl does): leave --logvar out, or give another tokenizer"
        )
    latent = LatentFormat(
        format=config.format,
        dtype=config.dtype,
        columns=latent_columns(logvar=config.logvar, flip=config.flip),
        passed=passed_columns(run.source),
    )
    stored_as = {"format": latent.format, "dtype": latent.dtype, "columns": list(latent.columns)}
    identity = {
        "format_version": FORMAT_VERSION,
        "clips": run.source.identity,
        "tokenizer": run.tokenizer_fingerprint,
        "latent": stored_as,
        "inference": asdict(run.inference),
        "shard_size": config.shard_size,
    }
    channels = run.autoencoder.latent_channels

    job = Job(
        name="encode",
        store_format=LATENT_STORE_FORMAT,
        identity=identity,
        make_stage=partial(
            EncodeShard,
            source=run.source.folder,
            output=run.output,
            tokenizer_url=run.tokenizer_url,
            inference=run.inference,
            latent=latent,
        ),
        workers=run.workers,
        details={
            "tokenizer": {"fingerprint": run.tokenizer_fingerprint, "config": run.autoencoder.to_json()},
            "preprocessing": run.source.document["preprocessing"],
            "columns": dict(latent.passed),
            "latent": stored_as | {"layout": LATENT_LAYOUT, "channels": channels},
            "inference": identity["inference"],
        },
        make_sums=partial(Normalisation, channels),
        max_reject_fraction=config.max_reject_fraction,
    )
    return run_planned(
        job,
        make_plan=partial(run.plan, "encode", identity),
        config=config,
        output=run.output,
        clock=clock,
        break_claim=config.break_claim,
    )
