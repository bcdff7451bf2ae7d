"""Sample a generator: clips of asked classes into a clip store, with pictures of them and scores against real clips."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal

from pipeline.media.bucket import bucket_name
from pipeline.runs.clips import NetworkRunConfig, tokenizer_url
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.store.clipshard import CodecName, PixelCodec, read_clips
from pipeline.store.documents import write_json
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import Grid

if TYPE_CHECKING:  # torch, which flags do without
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.stages.sample import SampleOrder
    from vitok.generator.config import GeneratorConfig

SCORES_FILE = "scores.json"
PICTURE_FILE = "samples.png"
MOVING_PICTURE_FILE = "samples.webp"
_PICTURED_CLASSES = 8
_PICTURED_OF_CLASS = 8
_SCORED_AT_ONCE = 16
"""Clips that go through a metric's network together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig(NetworkRunConfig):
    """Draw clips from a generator into a clip store, and score them."""

    generator: str
    """Folder of a generator: path or URL."""
    tokenizer: str
    """The tokenizer whose latents it makes: as encode takes it."""
    classes: tuple[str, ...] = ()
    """Labels to draw; none: all that the generator knows."""
    per_class: int = 8
    """Samples of each class. The paper scores 50,000 in all: 50 of each of ImageNet's classes."""
    guidance: float = 1.5
    """Scale of classifier-free guidance; 1: none. The paper sweeps 1.5 and 3, and pictures 4 and, of videos, 2."""
    steps: int = 250
    """Steps of the solver."""
    solver: Literal["", "ddim", "ddpm", "euler", "heun"] = ""
    """Of diffusions ddim (paper) or ddpm, of flows euler or heun; empty: the first of them."""
    grid: str = ""
    """Grid of the latents, as 4x16x16, out of those that the generator was trained on; empty: its commonest."""
    seed: int = 0
    """Sample n has the noise of (seed, n)."""
    codec: CodecName = "png"
    """How pixels are stored."""
    metrics: str = ""
    """Scores, with commas between: fid_torchvision (the paper's gFID), inception_score_torchvision, fid_2015,
    inception_score_2015, fvd; empty: none."""
    reference: str = ""
    """Clip store of real clips that fid and fvd compare with."""
    shard_size: int = 256
    """Samples of one shard."""
    batch_size: int = 32
    """Samples of one forward pass."""

    def __post_init__(self) -> None:
        NetworkRunConfig.__post_init__(self)
        for name in ("per_class", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"--classes: got {list(self.classes)}, expected different ones")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleResult:
    """What was drawn and how good it is."""

    summary: RunSummary
    scores: dict[str, float]
    """By metric."""
    picture: str
    """Path or URL."""


def sample(config: SampleConfig, *, clock: StartClock | None = None) -> SampleResult:
    """Run the job; see `run_planned` for what else is raised.

    Samples are planned shards, so 50,000 of them are drawn once each by any number of workers, through any kill. Scores
    are taken by this process alone, from the stores.

    Raises:
        ValueError: The generator knows no such class or grid, the tokenizer is not its own, a metric is unknown, or
            one needs a reference.
        FileNotFoundError: There is no generator, no tokenizer, or no weights for a metric.
    """
    from pipeline.stages.sample import SampleShard
    from vitok.adapters.load import load_adapter
    from vitok.generator.checkpoint import load_generator
    from vitok.generator.sampler import SampleSettings

    metrics, reference = _scores_of(config)
    output, generator_url = Folder(config.output), Folder(config.generator).url
    generator = load_generator(generator_url)
    url = tokenizer_url(config.tokenizer)
    adapter = load_adapter(url)
    if adapter.fingerprint != generator.config.tokenizer_fingerprint:
        raise ValueError(
            f"--tokenizer: {url} has the fingerprint {adapter.fingerprint}, the generator makes latents of "
            f"{generator.config.tokenizer_fingerprint}: give that tokenizer"
        )
    tubelet = adapter.describe(set()).tubelet
    if tubelet is None:
        raise ValueError(f"--tokenizer: {url} does not tell its tubelet, which a store of its clips needs")
    settings = SampleSettings(
        num_steps=config.steps, guidance=config.guidance, solver=config.solver or None, batch_size=config.batch_size
    )
    order = _order(config, generator.config)
    codec = PixelCodec(name=config.codec)
    inference = config.inference()
    made_of = {
        "generator": generator.fingerprint,
        "samples": asdict(order) | {"classes": list(order.classes), "grid": str(order.grid)},
        "sampling": asdict(settings) | {"solver": settings.solver_of(generator.config.process)},
        "inference": asdict(inference),
        "codec": codec.to_json(),
        "tubelet": str(tubelet),
    }
    identity = {"format_version": FORMAT_VERSION, **made_of}

    def make_plan() -> Plan:
        shards = [
            PlannedShard(
                index=index,
                bucket=bucket_name(order.grid),
                num_clips=min(order.shard_size, order.num_samples - first),
            )
            for index, first in enumerate(range(0, order.num_samples, order.shard_size))
        ]
        counts = PlanCounts(media=0, clips=order.num_samples)
        return Plan.save(output, job="sample", identity=identity, counts=counts, shards=shards)

    summary = run_planned(
        Job(
            name="sample",
            store_format=CLIP_STORE_FORMAT,
            identity=identity,
            make_stage=partial(
                SampleShard,
                output=output,
                generator_url=generator_url,
                tokenizer_url=url,
                order=order,
                settings=settings,
                inference=inference,
                codec=codec,
            ),
            workers=config.workers,
            details={"preprocessing": made_of, "columns": {}},
        ),
        make_plan=make_plan,
        config=config,
        output=output,
        clock=clock,
        break_claim=config.break_claim,
    )
    store = open_store(output, format_name=CLIP_STORE_FORMAT)
    _draw_pictures(store, order)
    scores = score(store, reference, metrics, device=config.device) if metrics else {}
    if scores:
        compared = None if reference is None else {"url": reference.folder.url, **reference.identity}
        write_json(output, SCORES_FILE, {"samples": store.identity, "reference": compared, "scores": scores})
    return SampleResult(summary=summary, scores=scores, picture=output.path(PICTURE_FILE))


def score(samples: Store, reference: Store | None, metrics: Sequence[str], *, device: str) -> dict[str, float]:
    """Metrics of a store of generated clips, by name.

    Args:
        samples: The clip store.
        reference: Of real clips, where a metric compares with them.
        metrics: Out of `vitok.metrics.generation.GENERATION_METRICS`.
        device: Where the metrics' networks run.

    Raises:
        MissingWeightsError: The weights of a metric are not there.
        ValueError: A store has too few clips for a metric.
    """
    import torch

    from vitok.metrics.generation import GenerationScores

    scores = GenerationScores(metrics, device=torch.device(device))
    for store, generated in ((samples, True), *([(reference, False)] if reference is not None else [])):
        for _, clips in groupby((pixels for pixels, _ in _clips_of(store)), key=lambda pixels: pixels.shape):
            while batch := list(islice(clips, _SCORED_AT_ONCE)):
                scores.add(batch, generated=generated)
    return scores.values()


def _scores_of(config: SampleConfig) -> tuple[tuple[str, ...], Store | None]:
    """Metrics, and what they compare with; before any work, as are the errors of what is missing."""
    from vitok.metrics.generation import GENERATION_METRICS
    from vitok.metrics.registry import METRICS, Kind, parse_metrics
    from vitok.networks.weights import find_weights

    metrics = parse_metrics(config.metrics, GENERATION_METRICS) if config.metrics else ()
    for weights in sorted({name for metric in metrics for name in METRICS[metric].weights}):
        find_weights(weights)
    compares = [name for name in metrics if METRICS[name].kind == Kind.FRECHET]
    if compares and not config.reference:
        raise ValueError(f"--reference: got none, and {', '.join(compares)} compares with real clips: name their store")
    if not compares:
        return metrics, None
    return metrics, open_store(Folder(config.reference), format_name=CLIP_STORE_FORMAT)


def _order(config: SampleConfig, generator: "GeneratorConfig") -> "SampleOrder":
    from pipeline.stages.sample import SampleOrder

    unknown = sorted(set(config.classes) - set(generator.classes))
    if unknown:
        raise ValueError(f"--classes: the generator knows no {unknown}, only {list(generator.classes)}")
    grid = Grid.parse(config.grid) if config.grid else generator.grids[0]
    if grid not in generator.grids:
        raise ValueError(f"--grid: got {grid}, the generator was trained on {', '.join(map(str, generator.grids))}")
    numbers = {label: number for number, label in enumerate(generator.classes)}
    wanted = tuple(numbers[label] for label in config.classes) or tuple(range(len(generator.classes)))
    return SampleOrder(
        classes=wanted or (generator.dit.null_class,),
        per_class=config.per_class,
        shard_size=config.shard_size,
        seed=config.seed,
        grid=grid,
        num_frames=generator.num_frames[generator.grids.index(grid)],
    )


def _draw_pictures(store: Store, order: "SampleOrder") -> None:
    """The first samples of the first classes, a class a row: a PNG of the middle frame; of clips, also all frames."""
    from pipeline.report.samples import grid_of, png_of, webp_of

    shown = min(order.per_class, _PICTURED_OF_CLASS)
    last = min(len(order.classes), _PICTURED_CLASSES) * order.per_class
    clips = [
        pixels
        for pixels, number in islice(_clips_of(store), last)
        if number < last and number % order.per_class < shown
    ]
    if not clips:
        return  # all of them were rejected
    grid = grid_of(clips, num_columns=shown)
    store.folder.write_bytes(PICTURE_FILE, png_of(grid[len(grid) // 2]))
    if len(grid) > 1:
        store.folder.write_bytes(MOVING_PICTURE_FILE, webp_of(grid))


def _clips_of(store: Store) -> "Iterator[tuple[NDArray[np.uint8], int]]":
    """Pixels [T, H, W, 3] and number of every clip, in the store's order."""
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                for clip in read_clips(stream, where=store.folder.path(row.path)):
                    yield clip.pixels, clip.metadata.clip_index
