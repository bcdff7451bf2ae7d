"""Train a tokenizer: clip shards in, a checkpoint out, through Ray Train."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.runs.clips import check_tubelet
from pipeline.runs.cluster import cluster_resource, connect
from pipeline.runs.planned import held, settle_identity
from pipeline.runs.record import StartClock
from pipeline.store.files import TEMPORARY_FOLDER, Folder
from pipeline.store.index import Store, open_store
from pipeline.training.config import TrainConfig
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import AutoEncoderConfig

if TYPE_CHECKING:
    from pipeline.training.worker import WorkerTask

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient was NaN or infinite; the message says where the keys of its clips are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary:
    """What a training run did."""

    tokenizer: str
    """Path or URL of the finished checkpoint."""
    steps: int
    """Steps this run took."""
    clips: int
    """Clips in them."""
    resumed_steps: int
    """Steps that an earlier run had taken."""
    seconds: float
    """Wall time of this run's training, worker start included."""


def train(config: TrainConfig, *, clock: StartClock | None = None) -> TrainSummary:
    """Run the job, or go on from its newest checkpoint.

    Raises:
        RunRefusedError: Another run holds the folder, or it was begun with other settings.
        ValueError: There is no clip store, it holds no clips, or it was cut for another tubelet.
        FileNotFoundError: There is no tokenizer to begin from, or no weights for LPIPS.
        NonFiniteLossError: A loss or a gradient was not finite.
    """
    from pipeline.report.training import draw_training
    from pipeline.training.checkpoint import latest_step, read_curve
    from pipeline.training.data import streams_of
    from pipeline.training.watch import PICTURES_FOLDER
    from pipeline.training.worker import TOKENIZER_FOLDER, WorkerTask
    from vitok.networks.lpips import Lpips

    output = Folder(config.output)
    if config.tokenizer:
        config = replace(config, tokenizer=Folder(config.tokenizer).url)  # workers run in another directory
    if config.loss.lpips_weight:
        Lpips.load()  # here, so that weights that are not there cost no start of Ray
    autoencoder, begins_from = _autoencoder(config)
    stores = tuple(_open_clips(url, autoencoder) for url in config.shards)
    buckets: dict[str, int] = {}
    for stream in streams_of(stores):
        buckets[stream.bucket] = buckets.get(stream.bucket, 0) + stream.num_clips
    identity = {
        "format_version": FORMAT_VERSION,
        "clips": [store.identity for store in stores],
        "autoencoder": autoencoder.to_json(),
        "begins_from": begins_from,
        "recipe": config.recipe(),
    }
    with held(output, job="train", config=config, clock=clock, break_claim=config.break_claim) as record:
        settle_identity(output, job="train", identity=identity, num_clips=sum(buckets.values()))
        before = latest_step(output) or 0
        tokenizer = output.subfolder(TOKENIZER_FOLDER)
        steps = config.optimizer.max_steps
        if before:
            logger.info("train: %d of %d steps were already taken in %s", before, steps, output.url)
        if not tokenizer.exists("config.json"):
            task = WorkerTask(
                config=config,
                autoencoder=autoencoder,
                output=output,
                stores=stores,
                validation=_open_clips(config.watch.validation, autoencoder) if config.watch.validation else None,
                record=identity,
            )
            with record.phase("ray"):
                connect()
            with record.phase("work"):
                _fit(task)
            for name, picture in draw_training((point.step, point.values) for point in read_curve(output)).items():
                output.write_bytes(f"{PICTURES_FOLDER}/{name}", picture)
        summary = TrainSummary(
            tokenizer=tokenizer.url,
            steps=steps - before,
            clips=(steps - before) * config.data.batch_size,
            resumed_steps=before,
            seconds=record.seconds.get("work", 0.0),
        )
        record.counts |= {"steps": summary.steps, "resumed_steps": before, "buckets": buckets}
        logger.info("train: %d steps done, tokenizer in %s", steps, tokenizer.url)
        return summary


def _autoencoder(config: TrainConfig) -> tuple[AutoEncoderConfig, str | None]:
    """The model's config, and the fingerprint of the tokenizer whose weights it begins from."""
    from vitok.model.checkpoint import fingerprint, load_checkpoint

    if not config.tokenizer:
        return config.model.autoencoder(), None
    model = load_checkpoint(config.tokenizer)
    return model.config, fingerprint(model)


def _open_clips(url: str, autoencoder: AutoEncoderConfig) -> Store:
    store = open_store(Folder(url), format_name=CLIP_STORE_FORMAT)
    check_tubelet(store, str(autoencoder.tubelet), "the tokenizer to be trained", finer=True)
    if not any(row.stored for row in store.rows):
        raise ValueError(f"{url} holds no clips to train on")
    return store


def _fit(task: "WorkerTask") -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipeline.training.loop import STOPPED_FOLDER
    from pipeline.training.worker import train_worker

    parallel, output = task.config.parallel, task.output
    output.remove(STOPPED_FOLDER)
    # On a small machine workers that took every CPU would leave none to the tasks that read for them, and wait forever.
    spare_cpus = cluster_resource("CPU") - 1
    cpus = min(float(parallel.threads_per_worker), max(spare_cpus, 0.5) / parallel.num_workers)
    trainer = TorchTrainer(
        lambda: train_worker(task),
        scaling_config=ray.train.ScalingConfig(
            num_workers=parallel.num_workers,
            use_gpu=parallel.device == "cuda",
            resources_per_worker={"CPU": cpus},
        ),
        run_config=ray.train.RunConfig(
            name="ray-train",
            storage_path=output.path(TEMPORARY_FOLDER),
            failure_config=ray.train.FailureConfig(max_failures=parallel.max_failures),
        ),
    )
    trainer.fit()
    stopped = output.find(STOPPED_FOLDER)
    if stopped:
        raise NonFiniteLossError(
            f"a loss or a gradient was not finite: the keys of the clips are in {output.path(stopped[0])}. "
            "Look at them, lower --learning-rate, or go on from the last checkpoint with --precision float32 "
            "in another folder"
        )
