"""What the jobs share that put a finished clip store through a tokenizer: flags, inputs, plan and workers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline.media.bucket import bucket_name, parse_bucket
from pipeline.runs.cluster import default_workers
from pipeline.runs.shards import Workers
from pipeline.store.files import Folder
from pipeline.store.index import IndexRow, Store, open_store
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard, group_sources
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.adapters.name import is_function_name
from vitok.config import Tubelet

if TYPE_CHECKING:  # torch, which flags do without
    from pipeline.stages.tokenizer import Inference
    from vitok.adapters.protocol import ClipShape, DescribedAdapter, Description


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkRunConfig:
    """Flags of a job whose workers run networks."""

    output: str
    """Folder of what the job makes: path or URL."""
    shard_size: int = 8192
    """Clips of one output shard."""
    batch_size: int = 8
    """Clips of one forward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run."""
    threads_per_worker: int = 1
    """CPU threads and CPUs of one worker."""
    num_workers: int = 0
    """Workers; 0 fills the cluster. Changes no output byte."""
    break_claim: bool = False
    """Take over an object-store folder whose run is known to be dead."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_size", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"--num-workers: got {self.num_workers}, expected 0 (fill the cluster) or more")

    def workers(self) -> Workers:
        """Workers that run networks: as many as asked for, or as fill the cluster."""
        count = self.num_workers or default_workers(cpus_per_worker=self.threads_per_worker, device=self.device)
        return Workers(count=count, cpus=self.threads_per_worker, gpus=1 if self.device == "cuda" else 0)

    def inference(self) -> "Inference":
        """How the networks run."""
        from pipeline.stages.tokenizer import Inference

        return Inference(
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.device,
            threads=self.threads_per_worker,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRunConfig(NetworkRunConfig):
    """Flags of a job that puts the clips of a clip store through networks."""

    shards: str
    """Clip store that prepare_corpus wrote: path or URL."""
    shard_size: int = 8192
    """Clips of one output shard; it is made of whole clip shards, and exceeds this only where one of them does."""
    max_reject_fraction: float = 1.0
    """Share of the planned clips that may be rejected before the run stops."""
    compile: bool = False
    """torch.compile of the tokenizer's networks: each worker compiles them for each size of clip, a minute or more."""

    def __post_init__(self) -> None:
        NetworkRunConfig.__post_init__(self)  # `super()` does not find its class where dataclasses make slots
        if not 0 <= self.max_reject_fraction <= 1:
            raise ValueError(f"--max-reject-fraction: got {self.max_reject_fraction}, expected 0 to 1")

    def inference(self) -> "Inference":
        """How the networks run."""
        return replace(NetworkRunConfig.inference(self), compile=self.compile)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRunConfig(ClipRunConfig):
    """Flags of a job that puts clips through a tokenizer."""

    tokenizer: str
    """Folder of a tokenizer, or of an auto-encoder of diffusers: path or URL; or module:function that makes one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedTokenizer:
    """The tokenizer of a job, opened, and how it is run."""

    output: Folder
    tokenizer_url: str
    """Or module:function: what workers load it by."""
    tokenizer_fingerprint: str
    description: "Description"
    """Of its latents."""
    inference: "Inference"
    config: TokenizerRunConfig

    def workers(self) -> Workers:
        """Workers that run the tokenizer."""
        return self.config.workers()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRun(OpenedTokenizer):
    """The tokenizer and the clip store of a job, found to fit each other."""

    source: Store

    def plan(self, job: str, identity: Mapping[str, object]) -> Plan:
        """Plan shards over the committed shards of the clip store: O(shards), no clip is read."""
        shards = self.lay(self.source.rows)
        counts = PlanCounts(media=0, clips=sum(shard.num_clips for shard in shards))
        return Plan.save(self.output, job=job, identity=identity, counts=counts, shards=shards)

    def lay(self, rows: Sequence[IndexRow]) -> list[PlannedShard]:
        """Planned shards over clip shards of the store, numbered from 0, in the buckets of their latents' grids.

        A shard holds clips of one shape, also where those of another have latents of the same grid.
        """
        buckets = {
            bucket: bucket_name(self.description.grid_of(shape)) for bucket, shape in bucket_shapes(self.source).items()
        }
        return [
            replace(shard, bucket=buckets[shard.bucket])
            for shard in group_clip_shards(rows, shard_size=self.config.shard_size)
        ]


def group_clip_shards(rows: Sequence[IndexRow], *, shard_size: int) -> Iterator[PlannedShard]:
    """Planned shards over those clip shards of an index that hold clips (`group_sources`)."""
    clip_shards = ((row.bucket, row.path, row.stored) for row in rows if row.path is not None)
    return group_sources(clip_shards, shard_size=shard_size)


def open_run(config: TokenizerRunConfig) -> TokenizerRun:
    """Open the clip store and the tokenizer of a job.

    Raises:
        ValueError: One of them is not there or cannot be used, or the clips do not fit the tokenizer.
        FileNotFoundError: There is no tokenizer.
    """
    source = open_store(Folder(config.shards), format_name=CLIP_STORE_FORMAT)
    opened = open_tokenizer(config, source)
    return TokenizerRun(
        source=source,
        output=opened.output,
        tokenizer_url=opened.tokenizer_url,
        tokenizer_fingerprint=opened.tokenizer_fingerprint,
        description=opened.description,
        inference=opened.inference,
        config=config,
    )


def open_tokenizer(config: TokenizerRunConfig, source: Store) -> OpenedTokenizer:
    """Open the tokenizer of a job over a clip store.

    Raises:
        ValueError: It cannot be used, or the clips do not fit it.
        FileNotFoundError: There is none.
    """
    from vitok.adapters.own import OwnAdapter

    adapter = load_tokenizer(config)
    if isinstance(adapter, OwnAdapter):
        check_tubelet(source, str(adapter.tubelet), f"the tokenizer {tokenizer_url(config.tokenizer)}")
    return described(config, adapter, clip_shapes(source), clips=f"the clips of {source.folder.url}")


def load_tokenizer(config: TokenizerRunConfig) -> "DescribedAdapter":
    """The tokenizer of a job, to be asked about its latents.

    Raises:
        ValueError: It cannot be used as the flags say.
        FileNotFoundError: There is none.
    """
    from vitok.adapters.load import load_adapter

    adapter = load_adapter(tokenizer_url(config.tokenizer))
    if config.compile:
        adapter.compile()  # compiles nothing before there are clips, and refuses here what the workers would
    return adapter


def described(
    config: TokenizerRunConfig, adapter: "DescribedAdapter", shapes: "Collection[ClipShape]", *, clips: str
) -> OpenedTokenizer:
    """What a job knows of its tokenizer.

    Args:
        config: Flags of the job.
        adapter: The tokenizer.
        shapes: Of all clips that it may have to take.
        clips: Names them in the error.

    Raises:
        ValueError: They do not fit it.
    """
    try:
        description = adapter.describe(shapes)
    except ValueError as error:
        raise ValueError(f"--tokenizer {config.tokenizer} for {clips}: {error}") from error
    return OpenedTokenizer(
        output=Folder(config.output),
        tokenizer_url=tokenizer_url(config.tokenizer),
        tokenizer_fingerprint=adapter.fingerprint,
        description=description,
        inference=config.inference(),
        config=config,
    )


def tokenizer_url(name: str) -> str:
    """What `load_adapter` finds a tokenizer by wherever a worker is: a full path or URL, or module:function."""
    return name if is_function_name(name) else Folder(name).url


def check_tubelet(source: Store, tubelet: str, owner: str) -> None:
    """Refuse clips that do not all divide into their user's tubelets, which those do that divide the store's own.

    Args:
        source: Clip store.
        tubelet: Its user's, as in "4x8".
        owner: Names the user.

    Raises:
        ValueError: Says both.
    """
    stored, wanted = stored_tubelet(source), Tubelet.parse(tubelet)
    if not stored.frames % wanted.frames and not stored.patch % wanted.patch:
        return
    raise ValueError(
        f"{source.folder.url} was prepared for tubelets {stored}, {owner} has {wanted}: "
        f"prepare the corpus with --tubelet {wanted} or a multiple of it, or give another tokenizer"
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


def clip_shapes(source: Store) -> "set[ClipShape]":
    """Shapes of a store's clips: one for each bucket that holds any."""
    return set(bucket_shapes(source).values())


def bucket_shapes(source: Store) -> "dict[str, ClipShape]":
    """Frames, height and width in pixels of a store's clips, by bucket that holds any."""
    tubelet = stored_tubelet(source)
    return {name: clip_shape(name, tubelet) for name in {row.bucket for row in source.rows if row.stored}}


def clip_shape(bucket: str, tubelet: Tubelet) -> "ClipShape":
    """Frames, height and width in pixels of a bucket's clips.

    Args:
        bucket: Named after their grid of tubelets.
        tubelet: That they were cut for.
    """
    grid = parse_bucket(bucket)
    # A clip of several frames spans two tubelets at least (see `ClipFlags`): one tubelet is an image.
    num_frames = 1 if grid.frames == 1 else grid.frames * tubelet.frames
    return num_frames, grid.height * tubelet.patch, grid.width * tubelet.patch
