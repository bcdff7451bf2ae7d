"""A study: one training for each point of a product of axes, and how what they reach follows what they are.

<output>/points/NAME/        one point each (`pipeline.training.study_point`)
<output>/study.json          points, lines through them, protocol; study.png and study.html show it
<output>/plan/               what all points share; a later start may ask for more points, not for other ones
<output>/generation/plan/    what their generators share, fixed by the first start that asks for generators
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.runs.clips import check_tubelet, clip_shapes
from pipeline.runs.cluster import cluster_resource, connect
from pipeline.runs.planned import held, settle_identity
from pipeline.runs.progress import Progress
from pipeline.runs.record import StartClock
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.training.config import (
    DataFlags,
    LossFlags,
    ModelFlags,
    OptimizerFlags,
    ParallelFlags,
    TrainConfig,
    WatchFlags,
)
from pipeline.training.study_point import GenerationFlags, check_scores, is_finished, point_of, run_point
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import Bottleneck, Positions

if TYPE_CHECKING:  # matplotlib, which flags do without
    from pipeline.report.study_data import LineFit, StudyPoint

POINTS_FOLDER = "points"
_GENERATION_FOLDER = "generation"
logger = logging.getLogger(__name__)


class StudyFailedError(RuntimeError):
    """Some points have no result; the message names them. The others are finished and stay so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Train a tokenizer for each combination of the axes, and on its latents a generator if asked, and compare them."""

    shards: tuple[str, ...]
    """Clip stores that prepare_corpus wrote, all of one size of clips; their tubelet is a multiple of every variant's.
    --validation names a held-out one and is needed."""
    output: str
    """Folder of the study."""
    variants: tuple[str, ...] = ("S-B/16",)
    """Axis: ENCODER-DECODER/QxP."""
    latent_channels: tuple[int, ...] = (16,)
    """Axis: K, channels of the latent."""
    positions: tuple[Positions, ...] = ("rope3d",)
    """Axis: how tokens know their place."""
    bottlenecks: tuple[Bottleneck, ...] = ("kl",)
    """Axis: what stands between encoder and decoder."""
    seeds: tuple[int, ...] = (0,)
    """Axis: trainings of each combination, each with the seed --seed plus one of these."""
    concurrency: int = 1
    """Points that train at a time, where the cluster has room for as many."""
    data: DataFlags = field(default_factory=DataFlags)
    optimizer: OptimizerFlags = field(default_factory=OptimizerFlags)
    loss: LossFlags = field(default_factory=LossFlags)
    parallel: ParallelFlags = field(default_factory=ParallelFlags)
    watch: WatchFlags = field(default_factory=WatchFlags)
    generation: GenerationFlags = field(default_factory=GenerationFlags)
    break_claim: bool = False
    """Take over object-store folders, the study's and its points', whose runs are known to be dead."""

    def __post_init__(self) -> None:
        for name in ("variants", "latent_channels", "positions", "bottlenecks", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')}: got none, expected one or several")
        if self.concurrency < 1:
            raise ValueError(f"--concurrency: got {self.concurrency}, expected at least 1")
        if not self.watch.validation:
            raise ValueError("--validation: got none, expected the clip store that points are compared on")
        if self.generation.generator_recipe:
            self._check_generation()
        names = [name for name, _ in self.trainings()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"got the point {twice[0]} more than once, expected each value of an axis once")

    def _check_generation(self) -> None:
        if len(self.shards) != 1:
            raise ValueError(
                f"--generator-recipe: got {len(self.shards)} stores of --shards, expected one: its latents are what "
                "a generator is trained on"
            )
        latent = self.generation.recipe(store="", output="").latents.latent
        without = [name for name in self.bottlenecks if name != "kl"]
        if latent == "posterior" and without:
            raise ValueError(
                f"--generator-recipe: {self.generation.generator_recipe} learns draws from posteriors, and those of "
                f"--bottlenecks {', '.join(without)} have no variance: give laptop, which learns means"
            )

    def trainings(self) -> Iterator[tuple[str, TrainConfig]]:
        """Name and training of each point, in order.

        Raises:
            ValueError: A flag cannot be used.
        """
        # Points train in other processes, which may run in other directories: their paths are full ones.
        output = Folder(self.output)
        shards = tuple(Folder(url).url for url in self.shards)
        watch = replace(self.watch, validation=Folder(self.watch.validation).url)
        for variant, channels, positions, bottleneck, seed in itertools.product(
            self.variants, self.latent_channels, self.positions, self.bottlenecks, self.seeds
        ):
            model = ModelFlags(variant=variant, latent_channels=channels, positions=positions, bottleneck=bottleneck)
            tubelet = model.autoencoder().tubelet
            total_seed = self.optimizer.seed + seed
            name = f"{variant.partition('/')[0]}_{tubelet}_c{channels}_{positions}_{bottleneck}_s{total_seed}"
            yield (
                name,
                TrainConfig(
                    shards=shards,
                    output=output.subfolder(f"{POINTS_FOLDER}/{name}").url,
                    model=model,
                    data=self.data,
                    optimizer=replace(self.optimizer, seed=total_seed),
                    loss=self.loss,
                    parallel=self.parallel,
                    watch=watch,
                    break_claim=self.break_claim,
                ),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """What a study found."""

    points: "tuple[StudyPoint, ...]"
    fits: "Mapping[str, LineFit]"
    """By metric, over log2 E; empty where E does not vary."""
    trained: int
    """Points that this run began, or went on with."""
    page: str
    """Path or URL."""


def study(config: StudyConfig, *, clock: StartClock | None = None) -> StudySummary:
    """Run the job: train the points that are not finished, then write what all of them show.

    Raises:
        RunRefusedError: Another run holds the folder, or it was begun with other settings or stores.
        ValueError: A store cannot be used, or clips have several sizes.
        FileNotFoundError: There are no weights for LPIPS, or for a score of samples.
        StudyFailedError: Points failed; the others are finished and written.
    """
    from pipeline.report.study import PAGE_FILE, write_study
    from pipeline.report.study_data import fits_of
    from vitok.networks.lpips import Lpips

    output, generation = Folder(config.output), config.generation
    trainings = dict(config.trainings())
    if config.loss.lpips_weight:
        Lpips.load()  # here, so that weights that are not there cost no start of Ray
    stores = tuple(_open_clips(url, config.variants) for url in config.shards)
    validation = _open_clips(config.watch.validation, config.variants)
    shape = _clip_shape(config, stores, validation)
    if generation.generator_recipe:
        check_scores(generation, [*stores, validation], shape)
    identity = {
        "format_version": FORMAT_VERSION,
        "clips": [store.identity for store in stores],
        "validation": validation.identity,
        "validation_clips": config.watch.validation_clips,
        "recipe": {key: value for key, value in next(iter(trainings.values())).recipe().items() if key != "seed"},
    }
    with held(output, job="study", config=config, clock=clock, break_claim=config.break_claim) as record:
        clips = sum(row.stored for store in stores for row in store.rows)
        settle_identity(output, job="study", identity=identity, num_clips=clips)
        protocol = {**identity, "clip": "x".join(map(str, shape))}
        if generation.generator_recipe:
            protocol["generation"] = generation.to_json()
            settle_identity(
                output.subfolder(_GENERATION_FOLDER), job="study", identity=generation.to_json(), num_clips=clips
            )
        pending = {name: training for name, training in trainings.items() if not is_finished(training, generation)}
        failed: dict[str, str] = {}
        if pending:
            with record.phase("ray"):
                connect()
            with record.phase("work"):
                failed = _run_all(pending, config, finished=len(trainings) - len(pending))
        points = tuple(
            point_of(name, training, generation, shape) for name, training in trainings.items() if name not in failed
        )
        record.counts |= {"points": len(points), "trained": len(pending) - len(failed), "failed": failed}
        if points:
            write_study(output, points=points, protocol=protocol, failed=failed)
        if failed:
            raise StudyFailedError(
                f"{len(failed)} of {len(trainings)} points have no result; start again to go on with them:\n  "
                + "\n  ".join(f"{name}: {reason}" for name, reason in failed.items())
            )
    page = output.path(PAGE_FILE)
    logger.info("study: %d points, %d of them trained by this run, in %s", len(points), len(pending), page)
    return StudySummary(points=points, fits=fits_of(points), trained=len(pending), page=page)


def _open_clips(url: str, variants: Sequence[str]) -> Store:
    store = open_store(Folder(url), format_name=CLIP_STORE_FORMAT)
    for variant in variants:
        check_tubelet(store, variant.partition("/")[2], f"the variant {variant}")
    return store


def _clip_shape(config: StudyConfig, stores: Sequence[Store], validation: Store) -> tuple[int, int, int]:
    """Frames, height and width of all clips, after augmentation.

    Raises:
        ValueError: There are several: then E is no one number.
    """
    side = config.data.resolution
    trained = {
        (frames, side or height, side or width) for store in stores for frames, height, width in clip_shapes(store)
    }
    shapes = trained | clip_shapes(validation)
    if len(shapes) != 1:
        raise ValueError(
            f"clips of a study have one size, or E would not be one number: training sees {sorted(trained)} (frames, "
            f"height, width), {validation.folder.url} holds {sorted(clip_shapes(validation))}: prepare both alike, or "
            "give --resolution"
        )
    (shape,) = shapes
    return shape


def _run_all(pending: Mapping[str, TrainConfig], config: StudyConfig, *, finished: int) -> dict[str, str]:
    """Bring points to their ends, some at a time; why points failed, by name."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    # A point is a driver of its own jobs: it waits, their workers compute.
    start = ray.remote(num_cpus=0)(run_point)
    at_once = _room(config)
    waiting = list(pending)
    running: dict[ray.ObjectRef[None], str] = {}
    failed: dict[str, str] = {}
    with Progress("study", total=finished + len(pending), done=finished, unit="points") as progress:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[start.remote(pending[name], config.generation)] = name
            (done,), _ = ray.wait(list(running))
            name = running.pop(done)
            try:
                ray.get(done)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                failed[name] = f"{type(cause).__name__}: {cause}"
                logger.error("study: the point %s failed", name, exc_info=error)
            progress.advance(1, note=f"{len(failed)} failed")
    return failed


def _room(config: StudyConfig) -> int:
    """Points that can train at a time: as many as asked for, but one CPU stays with the tasks that read for them."""
    parallel = config.parallel
    room = int((cluster_resource("CPU") - 1) // (parallel.num_workers * parallel.threads_per_worker))
    if parallel.device == "cuda":
        room = min(room, int(cluster_resource("GPU")) // parallel.num_workers)
    at_once = max(1, min(config.concurrency, room))
    if at_once < config.concurrency:
        logger.info("study: %d points at a time, the cluster has no room for %d", at_once, config.concurrency)
    return at_once
