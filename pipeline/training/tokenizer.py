"""Train a tokenizer: clip shards in, a checkpoint out, through Ray Train."""

import logging
from dataclasses import dataclass
from typing import Literal

from pipeline.runs.clips import check_tubelet
from pipeline.runs.cluster import cluster_resource, connect
from pipeline.runs.record import StartClock, recorded
from pipeline.store.claim import claim
from pipeline.store.files import TEMPORARY_FOLDER, Folder
from pipeline.store.index import Store, open_store
from pipeline.store.plan import Plan, PlanCounts
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import AutoEncoderConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a ViTok auto-encoder on clip shards (stage 1: reconstruction and KL)."""

    shards: str
    """Clip store that prepare_corpus wrote: path or URL."""
    output: str
    """Folder of the run; the tokenizer ends in its subfolder tokenizer."""
    variant: str = "S-B/4x8"
    """ENCODER-DECODER/QxP."""
    latent_channels: int = 16
    """K, channels of the latent."""
    max_steps: int = 100_000
    """Optimizer steps; the paper's stage 1 takes 100,000."""
    batch_size: int = 256
    """Clips of one step over all workers; the paper's are 1024 images or 256 videos."""
    learning_rate: float = 1e-4
    """Peak, at 256 clips a step; scaled with the batch size as in the paper."""
    warmup_fraction: float = 0.03
    """Share of the steps that warm up (v1 code; the paper does not say)."""
    weight_decay: float = 1e-4
    """AdamW's."""
    kl_weight: float = 1e-3
    """The paper's beta."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward pass; the paper's is bfloat16 by autocast."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where workers train."""
    num_workers: int = 1
    """Training workers, each a process of its own."""
    threads_per_worker: int = 1
    """CPU threads of one worker."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Of the weights, the order of clips and the noise."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        AutoEncoderConfig.from_name(self.variant, latent_channels=self.latent_channels)
        for name in ("max_steps", "num_workers", "threads_per_worker", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.batch_size < self.num_workers or self.batch_size % self.num_workers:
            raise ValueError(
                f"--batch-size: got {self.batch_size}, expected a multiple of the {self.num_workers} workers"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary:
    """What a training run did."""

    tokenizer: str
    """Path or URL of the finished checkpoint."""
    steps: int
    """Steps this run took."""
    resumed_steps: int
    """Steps that an earlier run had taken."""
    seconds: float
    """Wall time of this run's training, worker start included."""


def train(config: TrainConfig, *, clock: StartClock | None = None) -> TrainSummary:
    """Run the job, or go on from its newest checkpoint.

    Raises:
        RunRefusedError: Another run holds the folder, or it was begun with other settings.
        ValueError: There is no clip store, it holds no clips, or it was cut for another tubelet.
    """
    from pipeline.training.checkpoint import latest_step
    from pipeline.training.data import bucket_sizes
    from pipeline.training.loop import TOKENIZER_FOLDER

    output = Folder(config.output)
    autoencoder = AutoEncoderConfig.from_name(config.variant, latent_channels=config.latent_channels)
    store = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    check_tubelet(store, str(autoencoder.tubelet), f"--variant {config.variant}")
    buckets = bucket_sizes(store)
    if not buckets:
        raise ValueError(f"{config.shards} holds no clips to train on")
    identity = _identity(config, store, autoencoder)
    with (
        claim(output, break_claim=config.break_claim),
        recorded(output, job="train", config=config, clock=clock) as record,
    ):
        output.remove(TEMPORARY_FOLDER)
        plan = Plan.load(output)
        if plan is not None:
            plan.check(folder=output, job="train", identity=identity)
        else:
            counts = PlanCounts(media=0, clips=sum(buckets.values()))
            Plan.save(output, job="train", identity=identity, counts=counts, shards=[])
        before = latest_step(output) or 0
        tokenizer = output.subfolder(TOKENIZER_FOLDER)
        if before:
            logger.info("train: %d of %d steps were already taken in %s", before, config.max_steps, output.url)
        if not tokenizer.exists("config.json"):
            with record.phase("ray"):
                connect()
            with record.phase("work"):
                _fit(config, autoencoder, identity, buckets, output)
        output.remove(TEMPORARY_FOLDER)
        summary = TrainSummary(
            tokenizer=tokenizer.url,
            steps=config.max_steps - before,
            resumed_steps=before,
            seconds=record.seconds.get("work", 0.0),
        )
        record.counts |= {"steps": summary.steps, "resumed_steps": before, "buckets": buckets}
        logger.info("train: %d steps done, tokenizer in %s", config.max_steps, tokenizer.url)
        return summary


def _identity(config: TrainConfig, store: Store, autoencoder: AutoEncoderConfig) -> dict[str, object]:
    """Everything that makes this training another one."""
    recipe = (
        "max_steps",
        "batch_size",
        "learning_rate",
        "warmup_fraction",
        "weight_decay",
        "kl_weight",
        "max_grad_norm",
        "precision",
        "seed",
    )
    return {
        "format_version": FORMAT_VERSION,
        "clips": store.identity,
        "autoencoder": autoencoder.to_json(),
        "recipe": {name: getattr(config, name) for name in recipe},
    }


def _fit(
    config: TrainConfig,
    autoencoder: AutoEncoderConfig,
    identity: dict[str, object],
    buckets: dict[str, int],
    output: Folder,
) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipeline.training.data import bucket_dataset
    from pipeline.training.loop import LoopSettings, train_worker

    settings = LoopSettings(
        output=output,
        autoencoder=autoencoder,
        buckets=buckets,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        peak_learning_rate=config.learning_rate * config.batch_size / 256,
        warmup_steps=round(config.max_steps * config.warmup_fraction),
        weight_decay=config.weight_decay,
        kl_weight=config.kl_weight,
        max_grad_norm=config.max_grad_norm,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
        threads=config.threads_per_worker,
        seed=config.seed,
        training_record={"variant": config.variant, **identity},
    )
    store = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    # On a small machine workers that took every CPU would leave none to the tasks that read for them, and wait forever.
    spare_cpus = cluster_resource("CPU") - 1
    cpus = min(float(config.threads_per_worker), max(spare_cpus, 0.5) / config.num_workers)
    trainer = TorchTrainer(
        lambda: train_worker(settings),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.device == "cuda",
            resources_per_worker={"CPU": cpus},
        ),
        run_config=ray.train.RunConfig(
            name="ray-train",
            storage_path=output.path(TEMPORARY_FOLDER),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
        datasets={
            bucket: bucket_dataset(
                store,
                bucket,
                num_clips=config.max_steps * config.batch_size * size // sum(buckets.values()),
                seed=config.seed,
            )
            for bucket, size in buckets.items()
        },
    )
    trainer.fit()
