"""What a tokenizer's training is: the flags of the job, in groups, and what of them makes it another training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from vitok.config import Activation, AutoEncoderConfig, Bottleneck, Positions

Augmentation = Literal["none", "flip", "random_crop", "random_resized_crop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFlags:
    """The auto-encoder."""

    variant: str = "S-B/4x8"
    """ENCODER-DECODER/QxP."""
    latent_channels: int = 16
    """K, channels of the latent."""
    activation: Activation = "swiglu"
    """Of the gated MLP; the paper says SwiGLU, its code runs GEGLU."""
    positions: Positions = "rope3d"
    """How tokens know their place."""
    bottleneck: Bottleneck = "kl"
    """What stands between encoder and decoder."""

    def autoencoder(self) -> AutoEncoderConfig:
        """The model's config.

        Raises:
            ValueError: The variant is unknown or its parts do not fit.
        """
        named = AutoEncoderConfig.from_name(self.variant, latent_channels=self.latent_channels)
        return replace(named, activation=self.activation, positions=self.positions, bottleneck=self.bottleneck)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlags:
    """What a step's clips are."""

    batch_size: int = 256
    """Clips of one step over all workers; the paper's are 1024 images or 256 videos in stage 1."""
    augmentation: Augmentation = "random_resized_crop"
    """Of stored clips: a crop of 0.8 to 1.0 of the area, resized back, and a mirror (v1 code, images); a crop without
    resizing, and a mirror (v1 code, videos: store them larger than --resolution); a mirror alone; none."""
    resolution: int = 0
    """Height and width of the crop; 0: as stored."""
    shuffle_clips: int = 1024
    """Clips a reader holds and draws from, within `_SHUFFLE_BYTES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerFlags:
    """AdamW with betas 0.9 and 0.95, linear warmup, cosine to zero (paper, section 2.3)."""

    max_steps: int = 100_000
    """Optimizer steps; the paper takes 100,000 in each stage."""
    learning_rate: float = 1e-4
    """Peak, at 256 clips a step; scaled with the batch size as in the paper."""
    warmup_fraction: float = 0.03
    """Share of the steps that warm up (v1 code; the paper does not say)."""
    weight_decay: float = 1e-4
    """AdamW's."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, after the backward pass (the v1 code clips before it, to no effect)."""
    accumulation: int = 1
    """Parts a worker's batch is cut into, for memory; changes rounding only."""
    ema_decay: float = 0.0
    """Of the weights that are kept; 0 keeps the last. The paper's stage 2: 0.9999."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward pass; the paper's is bfloat16 by autocast."""
    seed: int = 0
    """Of the weights, the order of clips, the augmentation and the noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossFlags:
    """Equation 1 of the paper."""

    pixel_loss: Literal["l2", "l1", "charbonnier"] = "l2"
    """The reconstruction term."""
    kl_weight: float = 1e-3
    """beta."""
    lpips_weight: float = 1.0
    """eta. Above 0 needs the weights of VGG16 and LPIPS (`vitok.networks.weights`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GanFlags:
    """Stage 2: the decoder alone is trained on, against a discriminator."""

    gan_weight: float = 0.05
    """lambda: 0.05 is called best in the paper's appendix A.2, section 2.3 says 1.0."""
    gan_start_step: int = 5_000
    """Step from which the decoder hears the discriminator (v1 code, at 256 clips a step; the paper names none)."""
    gan_ramp_steps: int = 50_000
    """Steps over which its weight grows from there to the full (v1 code)."""
    discriminator_learning_rate: float = 2e-5
    """Peak, not scaled with the batch."""
    discriminator_warmup_steps: int = 25_000
    """Linear, then constant (paper, appendix A.2)."""
    discriminator_channels: int = 512
    """Most channels of a layer; StyleGAN's 512."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelFlags:
    """Where and how it is computed; changes rounding at most."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where workers train."""
    num_workers: int = 1
    """Training workers, each a process of its own."""
    threads_per_worker: int = 1
    """CPU threads of one worker."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Every worker holds the model, or a part of it (FSDP2)."""
    activation_checkpointing: bool = False
    """Compute activations of blocks again in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile of the transformers."""
    max_failures: int = 3
    """Times that Ray Train starts dead workers again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalFlags:
    """How often it is told of and kept; changes no weight."""

    log_every: int = 50
    """Steps between points of the curve and of TensorBoard."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchFlags(IntervalFlags):
    """What is to be seen of it; changes no weight."""

    validation: str = ""
    """Clip store that PSNR, SSIM and pictures are made of during training; empty: none."""
    validate_every: int = 5000
    """Steps between validations; the last step is always one."""
    validation_clips: int = 256
    """Of each validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a ViTok auto-encoder on clip shards.

    --recipe NAME: begin from a named training (`pipeline.training.recipes`), such as paper_image_256, its _stage2, its
    _tiny twin, or laptop; the other flags change what it says.
    """

    shards: tuple[str, ...]
    """Clip stores that prepare_corpus wrote: paths or URLs."""
    output: str
    """Folder of the run; the tokenizer ends in its subfolder tokenizer."""
    shard_weights: tuple[float, ...] = ()
    """Share of the clips that each store gives, as in 1 7 for 1/8 and 7/8; none: by their sizes."""
    stage: Literal[1, 2] = 1
    """1: everything, on reconstruction, LPIPS and KL. 2: the decoder, with a discriminator, from --tokenizer."""
    tokenizer: str = ""
    """Tokenizer to begin from: needed in stage 2; empty in stage 1: random weights."""
    model: ModelFlags = field(default_factory=ModelFlags)
    """The auto-encoder; with --tokenizer its config is taken instead."""
    data: DataFlags = field(default_factory=DataFlags)
    optimizer: OptimizerFlags = field(default_factory=OptimizerFlags)
    loss: LossFlags = field(default_factory=LossFlags)
    gan: GanFlags = field(default_factory=GanFlags)
    parallel: ParallelFlags = field(default_factory=ParallelFlags)
    watch: WatchFlags = field(default_factory=WatchFlags)
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        self.model.autoencoder()
        check_at_least_one(
            {
                "max-steps": self.optimizer.max_steps,
                "accumulation": self.optimizer.accumulation,
                "shuffle-clips": self.data.shuffle_clips,
                "num-workers": self.parallel.num_workers,
                "threads-per-worker": self.parallel.threads_per_worker,
                "checkpoint-every": self.watch.checkpoint_every,
                "validate-every": self.watch.validate_every,
                "validation-clips": self.watch.validation_clips,
                "log-every": self.watch.log_every,
            }
        )
        check_optimizer(self.data.batch_size, self.parallel, self.optimizer)
        if not self.shards:
            raise ValueError("--shards: got none, expected a clip store or several")
        if self.shard_weights and (len(self.shard_weights) != len(self.shards) or min(self.shard_weights) <= 0):
            raise ValueError(
                f"--shard-weights: got {self.shard_weights}, expected a positive number for each of the "
                f"{len(self.shards)} stores, or none"
            )
        if self.stage == 2 and not self.tokenizer:
            raise ValueError("--tokenizer: got none, expected the tokenizer whose decoder stage 2 trains on")

    def recipe(self) -> Mapping[str, object]:
        """What of the flags makes it another training: neither where it runs nor what is watched."""
        return {
            "stage": self.stage,
            "shard_weights": list(self.shard_weights),
            **asdict(self.data),
            **asdict(self.optimizer),
            **asdict(self.loss),
            **(asdict(self.gan) if self.stage == 2 else {}),
        }

    @property
    def peak_learning_rate(self) -> float:
        """The tokenizer's: `learning_rate` at 256 clips a step, in proportion to the batch."""
        return self.optimizer.learning_rate * self.data.batch_size / 256


def check_at_least_one(flags: Mapping[str, int]) -> None:
    """Refuse a flag below 1.

    Raises:
        ValueError: Names it.
    """
    for name, value in flags.items():
        if value < 1:
            raise ValueError(f"--{name}: got {value}, expected at least 1")


def check_optimizer(batch_size: int, parallel: ParallelFlags, optimizer: OptimizerFlags) -> None:
    """Refuse a batch that does not divide among workers and their parts, a decay that averages nothing, a seed below 0.

    Raises:
        ValueError: Says what would do.
    """
    parts = parallel.num_workers * optimizer.accumulation
    if batch_size < parts or batch_size % parts:
        raise ValueError(
            f"--batch-size: got {batch_size}, expected a multiple of {parts}: --num-workers times --accumulation"
        )
    if not 0.0 <= optimizer.ema_decay < 1.0:
        raise ValueError(f"--ema-decay: got {optimizer.ema_decay}, expected 0 (none) to below 1")
    if optimizer.seed < 0:
        raise ValueError(f"--seed: got {optimizer.seed}, expected 0 or more")
