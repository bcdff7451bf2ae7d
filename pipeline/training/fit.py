"""A training from claim to result, its workers through Ray Train: begun, gone on with, or refused."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.runs.cluster import cluster_resource, connect
from pipeline.runs.planned import held, settle_identity
from pipeline.runs.record import StartClock
from pipeline.store.files import TEMPORARY_FOLDER, Folder
from pipeline.training.config import ParallelFlags

REPORT_FILE = "report.html"

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient was NaN or infinite; the message says where the keys of its clips are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What tells one training from another."""

    job: str
    """Names it in the folder: "train", "train-generator"."""
    output: Folder
    identity: Mapping[str, object]
    """Everything that can change a weight."""
    num_samples: int
    """What an epoch goes over."""
    result: str
    """Subfolder of the finished checkpoint."""
    player: str
    """Whose loss is drawn at the end."""
    max_steps: int
    parallel: ParallelFlags
    counts: Mapping[str, object]
    """Further entries of the run's record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a run of a training did."""

    url: str
    """Path or URL of the finished checkpoint."""
    steps: int
    """Steps this run took."""
    resumed_steps: int
    """Steps that an earlier run had taken."""
    seconds: float
    """Wall time of this run's training, worker start included."""


def train_once(
    training: Training,
    make_work: Callable[[], Callable[[], None]],
    *,
    config: object,
    clock: StartClock | None,
    break_claim: bool,
) -> Trained:
    """Train, or go on from the newest checkpoint, or find it done.

    Args:
        training: What.
        make_work: Gives what each worker is to do, picklable; called where something is left to do.
        config: For the record.
        clock: Of the command.
        break_claim: See `claim`.

    Raises:
        RunRefusedError: Another run holds the folder, or it was begun with other settings.
        NonFiniteLossError: A loss or a gradient was not finite.
    """
    from pipeline.report.training import write_training_page
    from pipeline.training.checkpoint import latest_step, read_curve
    from pipeline.training.watch import PICTURES_FOLDER

    output, steps = training.output, training.max_steps
    with held(output, job=training.job, config=config, clock=clock, break_claim=break_claim) as record:
        settle_identity(output, job=training.job, identity=training.identity, num_clips=training.num_samples)
        before = latest_step(output) or 0
        result = output.subfolder(training.result)
        if before:
            logger.info("train: %d of %d steps were already taken in %s", before, steps, output.url)
        if not result.exists("config.json"):
            work = make_work()
            with record.phase("ray"):
                connect()
            with record.phase("work"):
                fit(work, training.parallel, output)
            write_training_page(
                output,
                REPORT_FILE,
                points=[(point.step, point.values) for point in read_curve(output)],
                player=training.player,
                pictures=PICTURES_FOLDER,
                identity=training.identity,
            )
        record.counts |= {"steps": steps - before, "resumed_steps": before, **training.counts}
        logger.info("train: %d steps done, %s in %s", steps, training.result, result.url)
        return Trained(
            url=result.url,
            steps=steps - before,
            resumed_steps=before,
            seconds=record.seconds.get("work", 0.0),
        )


def fit(work: Callable[[], None], parallel: ParallelFlags, output: Folder) -> None:
    """Run `work` on every worker to its end.

    Raises:
        NonFiniteLossError: The loop stopped itself.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipeline.training.loop import STOPPED_FOLDER

    output.remove(STOPPED_FOLDER)
    # On a small machine workers that took every CPU would leave none to the tasks that read for them, and wait forever.
    spare_cpus = cluster_resource("CPU") - 1
    cpus = min(float(parallel.threads_per_worker), max(spare_cpus, 0.5) / parallel.num_workers)
    trainer = TorchTrainer(
        work,
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
