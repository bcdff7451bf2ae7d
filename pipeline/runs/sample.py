"""Sample a generator: clips of asked classes into a clip store, with pictures of them and scores against real clips."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pipeline.media.bucket import bucket_name
from pipeline.runs.clips import NetworkRunConfig, tokenizer_url
from pipeline.runs.planned import Job, RunSummary, run_planned
from pipeline.runs.record import StartClock
from pipeline.runs.sample_scores import Scoring, clips_of, open_scoring
from pipeline.store.clipshard import CodecName, PixelCodec
from pipeline.store.documents import write_json
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import Grid, Tubelet

if TYPE_CHECKING:  # torch, which flags do without
    from numpy.typing import NDArray

    from pipeline.stages.sample import SampleOrder
    from pipeline.stages.tokenizer import Inference
    from vitok.generator.config import GeneratorConfig
    from vitok.generator.sampler import SampleSettings, Solver

SCORES_FILE = "scores.json"
PICTURE_FILE = "samples.png"
MOVING_PICTURE_FILE = "samples.webp"
_PICTURED_CLASSES = 8
_PICTURED_OF_CLASS = 8


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
    metrics: tuple[str, ...] = ()
    """Scores: fid_torchvision (the paper's gFID), inception_score_torchvision, fid_2015, inception_score_2015, fvd;
    empty: none."""
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
        if self.seed < 0:
            raise ValueError(f"--seed: got {self.seed}, expected 0 or more")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sampling:
    """Samples about to be drawn: everything is opened, and nothing of it is done."""

    output: Folder
    generator_url: str
    generator_fingerprint: str
    tokenizer_url: str
    tubelet: Tubelet
    """That the tokenizer's clips divide into."""
    order: "SampleOrder"
    settings: "SampleSettings"
    solver: "Solver"
    inference: "Inference"
    codec: PixelCodec
    scoring: Scoring

    @property
    def made_of(self) -> dict[str, object]:
        """All that can change a pixel."""
        return {
            "generator": self.generator_fingerprint,
            "samples": asdict(self.order) | {"classes": list(self.order.classes), "grid": str(self.order.grid)},
            "sampling": asdict(self.settings) | {"solver": self.solver},
            "inference": self.inference.to_json(),
            "codec": self.codec.to_json(),
            "tubelet": str(self.tubelet),
        }

    @property
    def identity(self) -> dict[str, object]:
        """What names the run."""
        return {"format_version": FORMAT_VERSION, **self.made_of}

    def plan(self) -> Plan:
        """Shards of samples, one after the other."""
        frames, height, width = _shape(self.order, self.tubelet)
        # That of the clips, as in every clip store: a latent's may have fewer frames.
        grid = Grid.of_clip(num_frames=frames, height=height, width=width, tubelet=self.tubelet)
        shard_size, num_samples = self.order.shard_size, self.order.num_samples
        shards = [
            PlannedShard(index=index, bucket=bucket_name(grid), num_clips=min(shard_size, num_samples - first))
            for index, first in enumerate(range(0, num_samples, shard_size))
        ]
        counts = PlanCounts(media=0, clips=num_samples)
        return Plan.save(self.output, job="sample", identity=self.identity, counts=counts, shards=shards)


def sample(config: SampleConfig, *, clock: StartClock | None = None) -> SampleResult:
    """Run the job; see `run_planned` for what else is raised.

    Samples are planned shards, so 50,000 of them are drawn once each by any number of workers, through any kill. Scores
    are taken by this process alone, from the stores.

    Raises:
        ValueError: The generator knows no such class or grid, the tokenizer is not its own, a metric is unknown, needs
            a reference, or does not fit the clips.
        FileNotFoundError: There is no generator, no tokenizer, or no weights for a metric.
    """
    from pipeline.stages.sample import SampleShard

    opened = _open(config)
    summary = run_planned(
        Job(
            name="sample",
            store_format=CLIP_STORE_FORMAT,
            identity=opened.identity,
            make_stage=partial(
                SampleShard,
                output=opened.output,
                generator_url=opened.generator_url,
                tokenizer_url=opened.tokenizer_url,
                order=opened.order,
                settings=opened.settings,
                inference=opened.inference,
                codec=opened.codec,
            ),
            workers=config.workers,
            details={"preprocessing": opened.made_of, "columns": {}},
        ),
        make_plan=opened.plan,
        config=config,
        output=opened.output,
        clock=clock,
        break_claim=config.break_claim,
    )
    store = open_store(opened.output, format_name=CLIP_STORE_FORMAT)
    _draw_pictures(store, opened.order)
    scores = opened.scoring.values(store, device=config.device) if opened.scoring.metrics else {}
    if scores:
        write_json(opened.output, SCORES_FILE, opened.scoring.record(store, scores))
    return SampleResult(summary=summary, scores=scores, picture=opened.output.path(PICTURE_FILE))


def _open(config: SampleConfig) -> _Sampling:
    from vitok.adapters.load import load_adapter
    from vitok.generator.checkpoint import load_generator
    from vitok.generator.sampler import SampleSettings

    generator_url = Folder(config.generator).url
    generator = load_generator(generator_url)
    url = tokenizer_url(config.tokenizer)
    adapter = load_adapter(url)
    if adapter.fingerprint != generator.config.tokenizer_fingerprint:
        raise ValueError(
            f"--tokenizer: {url} has the fingerprint {adapter.fingerprint}, the generator makes latents of "
            f"{generator.config.tokenizer_fingerprint}: give that tokenizer"
        )
    tubelet = adapter.tubelet
    if tubelet is None:
        raise ValueError(f"--tokenizer: {url} does not tell its tubelet, which a store of its clips needs")
    settings = SampleSettings(
        num_steps=config.steps, guidance=config.guidance, solver=config.solver or None, batch_size=config.batch_size
    )
    order = _order(config, generator.config)
    return _Sampling(
        output=Folder(config.output),
        generator_url=generator_url,
        generator_fingerprint=generator.fingerprint,
        tokenizer_url=url,
        tubelet=tubelet,
        order=order,
        settings=settings,
        solver=settings.solver_of(generator.config.process),
        inference=config.inference(),
        codec=PixelCodec(name=config.codec),
        scoring=open_scoring(config.metrics, config.reference, samples=_shape(order, tubelet)),
    )


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


def _shape(order: "SampleOrder", tubelet: Tubelet) -> tuple[int, int, int]:
    """Frames, height and width of a sample."""
    return order.num_frames, order.grid.height * tubelet.patch, order.grid.width * tubelet.patch


def _draw_pictures(store: Store, order: "SampleOrder") -> None:
    """The first samples of the first classes, a class a row: a PNG of the middle frame; of clips, also all frames."""
    import numpy as np

    from pipeline.report.samples import grid_of, png_of, webp_of

    shown = min(order.per_class, _PICTURED_OF_CLASS)
    starts = range(0, min(len(order.classes), _PICTURED_CLASSES) * order.per_class, order.per_class)
    numbers = [start + place for start in starts for place in range(shown)]
    found: dict[int, NDArray[np.uint8]] = {}
    for clip in clips_of(store):
        if clip.metadata.clip_index > numbers[-1]:
            break
        if clip.metadata.clip_index in numbers:
            found[clip.metadata.clip_index] = clip.pixels
    if not found:
        return  # all of them were rejected
    rejected = np.zeros_like(next(iter(found.values())))
    grid = grid_of([found.get(number, rejected) for number in numbers], num_columns=shown)
    store.folder.write_bytes(PICTURE_FILE, png_of(grid[len(grid) // 2]))
    if len(grid) > 1:
        store.folder.write_bytes(MOVING_PICTURE_FILE, webp_of(grid))
