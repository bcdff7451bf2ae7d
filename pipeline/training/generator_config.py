"""What a generator's training is: the flags of the job, in groups, and what of them makes it another training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from pipeline.training.config import (
    IntervalFlags,
    OptimizerFlags,
    ParallelFlags,
    check_at_least_one,
    check_optimizer,
)
from vitok.config import Grid
from vitok.generator.config import DitConfig, DitPositions, Process


@dataclass(frozen=True, kw_only=True, slots=True)
class DitFlags:
    """The diffusion transformer, and what it learns."""

    variant: str = "L"
    """N, S, B, L or XL. The paper sweeps with L and ends with XL."""
    process: Process = "diffusion"
    """Noise prediction (paper), or the velocity of a rectified flow."""
    learned_variance: bool = True
    """Diffusion only: learn the variance of the steps backwards too (v1 code)."""
    positions: DitPositions = "rope3d"
    """3D RoPE (paper), or learned positions and RoPE over the flattened index (v1 code), which take one grid alone."""

    def dit(self, *, latent_channels: int, num_classes: int, grid: Grid) -> DitConfig:
        """The network's config for latents and classes; `grid` is that of learned positions.

        Raises:
            ValueError: The variant is unknown.
        """
        return DitConfig.from_name(
            self.variant,
            latent_channels=latent_channels,
            num_classes=num_classes,
            learned_variance=self.learned_variance and self.process == "diffusion",
            positions=self.positions,
            grid=grid,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentFlags:
    """What a step's latents are."""

    batch_size: int = 256
    """Latents of one step over all workers. A bucket's last step of an epoch takes what is left."""
    grid: str = ""
    """Of latents, as 1x16x16: those alone are learned; empty: all of the store."""
    latent: Literal["mean", "posterior"] = "mean"
    """The stored mean, or a draw from the posterior each time (v1 code; needs a store with log variance)."""
    normalize: bool = True
    """Zero mean and unit variance per channel. The v1 code takes latents as they are."""
    flip: bool = False
    """Take the mirrored view for half of the latents (needs a store with it)."""
    class_dropout: float = 0.1
    """Share of labels that are dropped, for guidance (v1 code, as in DiT)."""
    time_law: Literal["uniform", "logit_normal"] = "uniform"
    """How the times of a flow are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorOptimizerFlags(OptimizerFlags):
    """AdamW with betas 0.9 and 0.95, a constant learning rate and averaged weights."""

    max_steps: int = 500_000
    """Optimizer steps; the paper takes 500,000 in its sweep and for videos, 4,000,000 for XL on images."""
    learning_rate: float = 1e-4
    """Peak, at 256 latents a step; scaled with the batch size."""
    warmup_fraction: float = 0.0
    """Share of the steps that warm up; the paper says nothing of one."""
    weight_decay: float = 0.0
    """AdamW's; DiT's, the paper says nothing of it."""
    ema_decay: float = 0.9999
    """Of the weights that are kept (v1 code); 0 keeps the last."""
    cosine: bool = False
    """Let the learning rate end at 0 along a cosine; else it stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleWatchFlags(IntervalFlags):
    """What is to be seen of it; changes no weight."""

    sample_every: int = 10_000
    """Steps between grids of samples in OUTPUT/pictures; the last step always has one. Needs --tokenizer."""
    samples: int = 16
    """Of each grid: class after class, from seeds that stay the same."""
    sample_steps: int = 50
    """Steps of the solver for these."""
    guidance: float = 4.0
    """Of these. The paper's own examples are drawn at 4 (images) and 2 (videos)."""
    keep_generators: bool = False
    """Keep the generator of each of these steps in OUTPUT/generators, for scores over steps."""
    log_every: int = 100
    """Steps between points of the curve and of TensorBoard."""
    checkpoint_every: int = 5_000
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorTrainConfig:
    """Train a diffusion transformer on a latent store.

    --recipe NAME: begin from a named training (`pipeline.training.generator_recipes`): paper_image_256, paper_sweep,
    paper_video_128, or laptop; the other flags change what it says.
    """

    store: str
    """Latent store that encode_corpus wrote: path or URL."""
    output: str
    """Folder of the run; the generator ends in its subfolder generator."""
    tokenizer: str = ""
    """The store's tokenizer, for pictures of samples; empty: none are drawn."""
    model: DitFlags = field(default_factory=DitFlags)
    latents: LatentFlags = field(default_factory=LatentFlags)
    optimizer: GeneratorOptimizerFlags = field(default_factory=GeneratorOptimizerFlags)
    parallel: ParallelFlags = field(default_factory=ParallelFlags)
    watch: SampleWatchFlags = field(default_factory=SampleWatchFlags)
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        check_at_least_one(
            {
                "max-steps": self.optimizer.max_steps,
                "accumulation": self.optimizer.accumulation,
                "num-workers": self.parallel.num_workers,
                "threads-per-worker": self.parallel.threads_per_worker,
                "checkpoint-every": self.watch.checkpoint_every,
                "sample-every": self.watch.sample_every,
                "samples": self.watch.samples,
                "sample-steps": self.watch.sample_steps,
                "log-every": self.watch.log_every,
            }
        )
        check_optimizer(self.latents.batch_size, self.parallel, self.optimizer)
        if 1 < self.parallel.num_workers == self.latents.batch_size:
            raise ValueError(
                f"--batch-size: got {self.latents.batch_size} for as many workers, expected two latents a worker at "
                "least: what is left of an epoch could be too little for all of them"
            )
        if not 0.0 <= self.latents.class_dropout <= 1.0:
            raise ValueError(f"--class-dropout: got {self.latents.class_dropout}, expected 0 to 1")

    def recipe(self) -> Mapping[str, object]:
        """What of the flags makes it another training: neither where it runs nor what is watched."""
        return {**asdict(self.model), **asdict(self.latents), **asdict(self.optimizer)}

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate` at 256 latents a step, in proportion to the batch."""
        return self.optimizer.learning_rate * self.latents.batch_size / 256
