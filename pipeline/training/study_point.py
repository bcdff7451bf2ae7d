"""One point of a study: a tokenizer, where it is asked for a generator on its latents, and what both have reached.

<point>/             the tokenizer's training, as `train` leaves it
<point>/latents/     the clips it was trained on, encoded
<point>/generator/   a generator's training on them
<point>/samples/     clips drawn from that, and in the end their scores
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pipeline.runs.clips import clip_shapes
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.sample import SCORES_FILE, SampleConfig, sample
from pipeline.store.documents import read_json
from pipeline.store.files import Folder
from pipeline.store.index import Store
from pipeline.training.config import TrainConfig
from pipeline.training.generator import train_generator
from pipeline.training.generator_config import GeneratorTrainConfig
from pipeline.training.generator_recipes import GENERATOR_RECIPES
from pipeline.training.tokenizer import train

if TYPE_CHECKING:  # matplotlib, which flags do without
    from pipeline.report.study_data import StudyPoint

_LATENTS_FOLDER = "latents"
_GENERATOR_FOLDER = "generator"
_SAMPLES_FOLDER = "samples"
_VALIDATION = "validation/"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationFlags:
    """The second half of a study: how well a generator does on each point's latents (paper, figure 5)."""

    generator_recipe: str = ""
    """Train a generator on each point's latents by this recipe (`pipeline.training.generator_recipes`), paper_sweep or
    laptop, and score its samples; empty: none. It learns whole stored clips, of one store of --shards."""
    generator_steps: int = 0
    """Its optimizer steps; 0: as many as the recipe says."""
    samples_per_class: int = 50
    """Samples that are scored, of each label of the clips; without labels: in all. The paper scores 50,000."""
    sample_steps: int = 250
    """Steps of the solver."""
    guidance: float = 1.5
    """Scale of classifier-free guidance; 1: none. The paper's figure has 1.5 and 3."""
    generation_metrics: tuple[str, ...] = ("fid_torchvision",)
    """Scores against the clips of --validation: those of `vitok sample`."""

    def __post_init__(self) -> None:
        if self.generator_recipe and self.generator_recipe not in GENERATOR_RECIPES:
            raise ValueError(
                f"--generator-recipe: got {self.generator_recipe!r}, expected one of {', '.join(GENERATOR_RECIPES)}"
            )
        for name, least in (("generator_steps", 0), ("samples_per_class", 2), ("sample_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least {least}")

    def recipe(self, *, store: str, output: str) -> GeneratorTrainConfig:
        """The training on a latent store."""
        config = GENERATOR_RECIPES[self.generator_recipe](store=store, output=output)
        steps = self.generator_steps or config.optimizer.max_steps
        return replace(config, optimizer=replace(config.optimizer, max_steps=steps))

    def to_json(self) -> dict[str, object]:
        """What all points of a study share of it."""
        return {
            "recipe": dict(self.recipe(store="", output="").recipe()),
            "samples_per_class": self.samples_per_class,
            "sample_steps": self.sample_steps,
            "guidance": self.guidance,
            "metrics": list(self.generation_metrics),
        }


def check_scores(generation: GenerationFlags, stores: Sequence[Store], shape: tuple[int, int, int]) -> None:
    """Refuse what could not be scored once everything is trained.

    Raises:
        ValueError: A metric is unknown, or has no value for clips of this shape; stored clips have another.
        MissingWeightsError: The weights of a metric are not there.
    """
    from vitok.metrics.generation import GENERATION_METRICS
    from vitok.metrics.registry import METRICS, check_metrics
    from vitok.networks.weights import find_weights

    for store in stores:
        if clip_shapes(store) != {shape}:
            raise ValueError(
                f"--generator-recipe: generators learn whole stored clips, those of {store.folder.url} are "
                f"{sorted(clip_shapes(store))} (frames, height, width), a step's {shape}: prepare them so, and leave "
                "--resolution out"
            )
    frames, height, width = shape
    for name in check_metrics(generation.generation_metrics, GENERATION_METRICS):
        reason = METRICS[name].unfit(num_frames=frames, height=height, width=width)
        if reason is not None:
            raise ValueError(f"--generation-metrics: {name} {reason}, got clips of {frames}x{height}x{width}")
        for weights in METRICS[name].weights:
            find_weights(weights)


def is_finished(training: TrainConfig, generation: GenerationFlags) -> bool:
    """Whether nothing of a point is left to do."""
    from pipeline.training.worker import TOKENIZER_FOLDER

    last = f"{_SAMPLES_FOLDER}/{SCORES_FILE}" if generation.generator_recipe else f"{TOKENIZER_FOLDER}/config.json"
    return Folder(training.output).exists(last)


def run_point(training: TrainConfig, generation: GenerationFlags) -> None:
    """Do what of a point is left to do: each of its jobs goes on where it was."""
    tokenizer = train(training).tokenizer
    if not generation.generator_recipe:
        return
    folder, parallel = Folder(training.output), training.parallel
    (clips,) = training.shards
    latents = folder.subfolder(_LATENTS_FOLDER).url
    recipe = generation.recipe(store=latents, output=folder.subfolder(_GENERATOR_FOLDER).url)
    encode(
        EncodeConfig(
            shards=clips,
            tokenizer=tokenizer,
            output=latents,
            logvar=recipe.latents.latent == "posterior",
            flip=recipe.latents.flip,
            device=parallel.device,
            threads_per_worker=parallel.threads_per_worker,
            num_workers=parallel.num_workers,
            break_claim=training.break_claim,
        )
    )
    trained = train_generator(
        replace(
            recipe,
            optimizer=replace(recipe.optimizer, seed=training.optimizer.seed),
            parallel=parallel,
            break_claim=training.break_claim,
        )
    )
    sample(
        SampleConfig(
            generator=trained.url,
            tokenizer=tokenizer,
            output=folder.subfolder(_SAMPLES_FOLDER).url,
            per_class=generation.samples_per_class,
            steps=generation.sample_steps,
            guidance=generation.guidance,
            seed=training.optimizer.seed,
            metrics=generation.generation_metrics,
            reference=training.watch.validation,
            device=parallel.device,
            threads_per_worker=parallel.threads_per_worker,
            num_workers=parallel.num_workers,
            break_claim=training.break_claim,
        )
    )


def point_of(
    name: str, training: TrainConfig, generation: GenerationFlags, shape: tuple[int, int, int]
) -> "StudyPoint":
    """What a finished point is and has reached.

    Args:
        name: Of the point.
        training: Of its tokenizer.
        generation: What came after that.
        shape: Frames, height and width of a clip.
    """
    from pipeline.report.study_data import GENERATION, StudyPoint
    from pipeline.training.checkpoint import read_curve
    from vitok.model.count import count

    folder = Folder(training.output)
    metrics = {
        key.removeprefix(_VALIDATION): value
        for point in read_curve(folder)
        if point.step == training.optimizer.max_steps
        for key, value in point.values.items()
        if key.startswith(_VALIDATION)
    }
    assert metrics, f"{training.output}: a study's training ends with a validation"
    if generation.generator_recipe:
        found = read_json(folder, f"{_SAMPLES_FOLDER}/{SCORES_FILE}")["scores"]
        metrics |= {GENERATION + key: value for key, value in cast(Mapping[str, float], found).items()}
    autoencoder = training.model.autoencoder()
    frames, height, width = shape
    counted = count(autoencoder, num_frames=frames, height=height, width=width)
    encoder, decoder = training.model.variant.partition("/")[0].split("-")
    return StudyPoint(
        name=name,
        encoder=encoder,
        decoder=decoder,
        tubelet=str(autoencoder.tubelet),
        latent_channels=autoencoder.latent_channels,
        positions=autoencoder.positions,
        bottleneck=autoencoder.bottleneck,
        seed=training.optimizer.seed,
        grid=str(counted.grid),
        latent_size=counted.latent_size,
        encoder_parameters=counted.parameters.encode,
        decoder_parameters=counted.parameters.decode,
        macs=counted.macs.total,
        metrics=metrics,
    )
