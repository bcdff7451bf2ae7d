"""What the jobs share that put a finished clip store through a tokenizer: flags, inputs, plan and workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.media.bucket import parse_bucket
from pipeline.runs.cluster import default_workers
from pipeline.runs.shards import Workers
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.store.plan import Plan, PlanCounts, group_sources
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.config import Tubelet

if TYPE_CHECKING:  # torch, which flags do without
    from pipeline.stages.tokenizer import Inference
    from vitok.config import AutoEncoderConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRunConfig:
    """Flags of a job that puts clips through a tokenizer."""

    shards: str
    """Clip store that prepare_corpus wrote: path or URL."""
    tokenizer: str
    """Folder with config.json and model.safetensors: path or URL."""
    output: str
    """Folder of what the job makes: path or URL."""
    shard_size: int = 8192
    """Clips of one output shard; it is made of whole clip shards, and exceeds this only where one of them does."""
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
    max_reject_fraction: float = 1.0
    """Share of the planned clips that may be rejected before the run stops."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if not 0 <= self.max_reject_fraction <= 1:
            raise ValueError(f"--max-reject-fraction: got {self.max_reject_fraction}, expected 0 to 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRun:
    """The inputs of such a job, opened and found to fit each other."""

    source: Store
    output: Folder
    tokenizer_url: str
    tokenizer_fingerprint: str
    autoencoder: "AutoEncoderConfig"
    inference: "Inference"
    config: TokenizerRunConfig

    def plan(self, job: str, identity: Mapping[str, object]) -> Plan:
        """Plan shards over the committed shards of the clip store: O(shards), no clip is read."""
        clip_shards = [(row.bucket, row.path, row.stored) for row in self.source.rows if row.path is not None]
        shards = list(group_sources(clip_shards, shard_size=self.config.shard_size))
        counts = PlanCounts(media=0, clips=sum(shard.num_clips for shard in shards))
        return Plan.save(self.output, job=job, identity=identity, counts=counts, shards=shards)

    def workers(self) -> Workers:
        """Workers that run the tokenizer: as many as asked for, or as fill the cluster."""
        cpus, device = self.config.threads_per_worker, self.config.device
        count = self.config.num_workers or default_workers(cpus_per_worker=cpus, device=device)
        return Workers(count=count, cpus=cpus, gpus=1 if device == "cuda" else 0)


def open_run(config: TokenizerRunConfig) -> TokenizerRun:
    """Open the clip store and the tokenizer of a job.

    Raises:
        ValueError: One of them is not there, or the clips were cut for another tubelet.
        FileNotFoundError: There is no tokenizer.
    """
    from pipeline.stages.tokenizer import Inference
    from vitok.model.checkpoint import fingerprint, load_checkpoint

    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    tokenizer_url = Folder(config.tokenizer).url
    model = load_checkpoint(tokenizer_url)
    check_tubelet(source, str(model.config.tubelet), f"the tokenizer {tokenizer_url}")
    return TokenizerRun(
        source=source,
        output=Folder(config.output),
        tokenizer_url=tokenizer_url,
        tokenizer_fingerprint=fingerprint(model),
        autoencoder=model.config,
        inference=Inference(
            batch_size=config.batch_size,
            precision=config.precision,
            device=config.device,
            threads=config.threads_per_worker,
        ),
        config=config,
    )


def check_tubelet(source: Store, tubelet: str, owner: str, *, finer: bool = False) -> None:
    """Refuse clips that were cut for another tubelet than their user's.

    Args:
        source: Clip store.
        tubelet: Its user's, as in "4x8".
        owner: Names the user.
        finer: Take tubelets too that divide the store's: every clip of the store divides into them. Only for who makes
            nothing of the names of the store's buckets, which are grids of its own tubelet.

    Raises:
        ValueError: Says both.
    """
    stored, wanted = stored_tubelet(source), Tubelet.parse(tubelet)
    if stored == wanted or (finer and not stored.frames % wanted.frames and not stored.patch % wanted.patch):
        return
    raise ValueError(
        f"{source.folder.url} was prepared for tubelets {stored}, {owner} has {wanted}: "
        f"prepare the corpus with --tubelet {wanted}{' or a multiple of it' if finer else ''}, "
        "or give another tokenizer"
    )


def stored_tubelet(source: Store) -> Tubelet:
    """The tubelet that a clip store was prepared for: its buckets are grids of it."""
    preprocessing = source.document["preprocessing"]
    assert isinstance(preprocessing, dict)
    return Tubelet.parse(preprocessing["tubelet"])


def passed_columns(source: Store) -> dict[str, str]:
    """Pass-through columns of a clip store, by name and type (`schemas.latent.COLUMN_TYPES`)."""
    columns = source.document["columns"]
    assert isinstance(columns, dict)
    return columns


def clip_shapes(source: Store) -> set[tuple[int, int, int]]:
    """Frames, height and width in pixels of a store's clips: one for each bucket that holds any."""
    tubelet = stored_tubelet(source)
    grids = [parse_bucket(name) for name in {row.bucket for row in source.rows if row.stored}]
    return {
        # A clip of several frames spans two tubelets at least (see PrepareConfig): one tubelet is an image.
        (
            1 if grid.frames == 1 else grid.frames * tubelet.frames,
            grid.height * tubelet.patch,
            grid.width * tubelet.patch,
        )
        for grid in grids
    }
