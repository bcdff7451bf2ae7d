"""Encode a corpus: clip shards and a tokenizer in, a latent store out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from pipeline.runs.cluster import default_workers
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import RunRecord
from pipeline.runs.shards import Workers
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.latentshard import StoreFormat
from pipeline.store.ledger import ShardRecord
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import Plan, PlanCounts, group_sources
from schemas.latent import LATENT_LAYOUT
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION, LATENT_STORE_FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """Encode clip shards into a latent store."""

    shards: str
    """Clip store that prepare_corpus wrote: path or URL."""
    tokenizer: str
    """Folder with config.json and model.safetensors: path or URL."""
    output: str
    """Folder of the latent store: path or URL."""
    format: StoreFormat = "parquet"
    """How latents are stored: Parquet, or WebDataset tars."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Dtype of stored latents."""
    logvar: bool = False
    """Store the posterior's log variance beside its mean."""
    shard_size: int = 8192
    """Clips of a latent shard; it is made of whole clip shards and exceeds this only where one of them does."""
    batch_size: int = 8
    """Clips of one forward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    threads_per_worker: int = 1
    """CPU threads and CPUs of one worker."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"--shard-size: got {self.shard_size}, expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")


def encode(config: EncodeConfig, *, imports_seconds: float = 0.0) -> RunSummary:
    """Run the job; see `run_planned` for what is raised.

    Raises:
        ValueError: The shards or the tokenizer are not there, or do not fit each other.
    """
    from pipeline.stages.encode import EncodeShard, LatentFormat
    from pipeline.stages.tokenizer import Inference
    from vitok.model.checkpoint import fingerprint, load_checkpoint

    output = Folder(config.output)
    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    tokenizer_url = Folder(config.tokenizer).url
    model = load_checkpoint(tokenizer_url)
    check_tubelet(source, str(model.config.tubelet), config.tokenizer)
    latent = LatentFormat(
        format=config.format, dtype=config.dtype, columns=("mean", "logvar") if config.logvar else ("mean",)
    )
    inference = Inference(
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        threads=config.threads_per_worker,
    )
    tokenizer = {"fingerprint": fingerprint(model), "config": model.config.to_json()}
    identity = {
        "format_version": FORMAT_VERSION,
        "clips": source.identity,
        "tokenizer": tokenizer["fingerprint"],
        "latent": asdict(latent) | {"columns": list(latent.columns)},
        "inference": asdict(inference),
        "shard_size": config.shard_size,
    }

    def describe(_plan: Plan, records: Sequence[ShardRecord]) -> dict[str, object]:
        channels = model.config.latent_channels
        return {
            "tokenizer": tokenizer,
            "preprocessing": source.document["preprocessing"],
            "latent": identity["latent"] | {"layout": LATENT_LAYOUT, "channels": channels},  # type: ignore[operator]
            "inference": identity["inference"],
            "normalisation": _normalisation(records, channels),
        }

    job = Job(
        name="encode",
        store_format=LATENT_STORE_FORMAT,
        identity=identity,
        make_plan=partial(plan_over_clips, "encode", identity, source, output, config.shard_size),
        make_stage=partial(
            EncodeShard,
            source=source.folder,
            output=output,
            tokenizer_url=tokenizer_url,
            inference=inference,
            latent=latent,
        ),
        workers=partial(inference_workers, config.num_workers, config.threads_per_worker, config.device),
        describe=describe,
    )
    return run_planned(
        job, config=config, output=output, imports_seconds=imports_seconds, break_claim=config.break_claim
    )


def check_tubelet(source: Store, tubelet: str, tokenizer_url: str) -> None:
    """Refuse clips that were cut for another tubelet than the tokenizer's.

    Raises:
        ValueError: Says both.
    """
    preprocessing = source.document["preprocessing"]
    assert isinstance(preprocessing, dict)
    if preprocessing["tubelet"] != tubelet:
        raise ValueError(
            f"{source.folder.url} was prepared for tubelets {preprocessing['tubelet']}, the tokenizer "
            f"{tokenizer_url} has {tubelet}: prepare the corpus with --tubelet {tubelet}, or give another tokenizer"
        )


def plan_over_clips(
    job: str, identity: dict[str, object], source: Store, output: Folder, shard_size: int, _record: RunRecord
) -> Plan:
    """Plan shards over the committed shards of a clip store: O(shards), no clip is read."""
    clip_shards = [(row.bucket, row.path, row.stored) for row in source.rows if row.path is not None]
    shards = list(group_sources(clip_shards, shard_size=shard_size))
    counts = PlanCounts(media=0, clips=sum(shard.num_clips for shard in shards))
    return Plan.save(output, job=job, identity=identity, counts=counts, shards=shards)


def inference_workers(num_workers: int, threads_per_worker: int, device: str) -> Workers:
    """Workers that run a tokenizer: as many as asked for, or as fill the cluster."""
    count = num_workers or default_workers(cpus_per_worker=threads_per_worker, device=device)
    return Workers(count=count, cpus=threads_per_worker, gpus=1 if device == "cuda" else 0)


def _normalisation(records: Sequence[ShardRecord], channels: int) -> dict[str, object]:
    """Per-channel mean and std over the corpus and per bucket, merged in plan order."""
    by_bucket: dict[str, list[ChannelMoments]] = {}
    for record in records:
        moments = record.sums["moments"]
        assert isinstance(moments, dict)
        by_bucket.setdefault(record.bucket, []).append(ChannelMoments.from_json(moments))
    merged = {bucket: ChannelMoments.merge_all(parts, channels) for bucket, parts in sorted(by_bucket.items())}
    return {
        "all": ChannelMoments.merge_all(merged.values(), channels).normalisation(),
        "buckets": {bucket: moments.normalisation() for bucket, moments in merged.items()},
    }
