"""Train a tokenizer: clip shards in, a checkpoint out, through Ray Train."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pipeline.runs.clips import check_tubelet
from pipeline.runs.record import StartClock
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.training.config import TrainConfig
from pipeline.training.fit import Training, train_once
from schemas.metadata import CLIP_STORE_FORMAT, FORMAT_VERSION
from vitok.config import AutoEncoderConfig


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
    from pipeline.training.data import streams_of
    from pipeline.training.worker import TOKENIZER_FOLDER, WorkerTask, train_worker
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

    def make_work() -> Callable[[], None]:
        task = WorkerTask(
            config=config,
            autoencoder=autoencoder,
            output=output,
            stores=stores,
            validation=_open_clips(config.watch.validation, autoencoder) if config.watch.validation else None,
            record=identity,
        )
        return partial(train_worker, task)

    trained = train_once(
        Training(
            job="train",
            output=output,
            identity=identity,
            num_samples=sum(buckets.values()),
            result=TOKENIZER_FOLDER,
            player="tokenizer",
            max_steps=config.optimizer.max_steps,
            parallel=config.parallel,
            counts={"buckets": buckets},
        ),
        make_work,
        config=config,
        clock=clock,
        break_claim=config.break_claim,
    )
    return TrainSummary(
        tokenizer=trained.url,
        steps=trained.steps,
        clips=trained.steps * config.data.batch_size,
        resumed_steps=trained.resumed_steps,
        seconds=trained.seconds,
    )


def _autoencoder(config: TrainConfig) -> tuple[AutoEncoderConfig, str | None]:
    """The model's config, and the fingerprint of the tokenizer whose weights it begins from."""
    from vitok.model.checkpoint import fingerprint, load_checkpoint

    if not config.tokenizer:
        return config.model.autoencoder(), None
    model = load_checkpoint(config.tokenizer)
    return model.config, fingerprint(model)


def _open_clips(url: str, autoencoder: AutoEncoderConfig) -> Store:
    store = open_store(Folder(url), format_name=CLIP_STORE_FORMAT)
    check_tubelet(store, str(autoencoder.tubelet), "the tokenizer to be trained")
    if not any(row.stored for row in store.rows):
        raise ValueError(f"{url} holds no clips to train on")
    return store
