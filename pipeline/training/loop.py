"""The training loop of one worker: batches in, optimizer steps, checkpoints out. Runs under Ray Train."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.runs.progress import Progress
from pipeline.store.files import Folder
from pipeline.training.checkpoint import CurvePoint, Progressed, latest_step, load_training, save_training
from pipeline.training.data import bucket_of_step
from vitok.config import AutoEncoderConfig
from vitok.losses.reconstruction import Terms, stage_one_loss
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint
from vitok.pixels import from_uint8

TOKENIZER_FOLDER = "tokenizer"
_CURVE_POINTS = 1000
"""Most points of a run's curve: steps between them grow with the run."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """Everything a worker needs; picklable."""

    output: Folder
    autoencoder: AutoEncoderConfig
    buckets: Mapping[str, int]
    """Clips by bucket."""
    max_steps: int
    batch_size: int
    """Clips of a step, over all workers."""
    peak_learning_rate: float
    warmup_steps: int
    weight_decay: float
    kl_weight: float
    max_grad_norm: float
    precision: str
    checkpoint_every: int
    threads: int
    seed: int
    training_record: Mapping[str, object]
    """Goes into the finished tokenizer's config."""


def train_worker(settings: LoopSettings) -> None:
    """Train from the newest checkpoint, or from the seed, to the last step; the first worker writes the tokenizer."""
    import ray.train
    import ray.train.torch

    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.manual_seed(settings.seed)
    model = AutoEncoder(settings.autoencoder).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    step = latest_step(settings.output)
    progressed = Progressed(step=0, curve=())
    if step is not None:
        progressed = load_training(settings.output, step, model, optimizer)
        logger.info("train: goes on after step %d", step)
    wrapped = ray.train.torch.prepare_model(model)
    streams = {
        bucket: _endless_batches(bucket, settings, device=device, world_size=world_size) for bucket in settings.buckets
    }
    curve = list(progressed.curve)
    curve_every = math.ceil(settings.max_steps / _CURVE_POINTS)
    with Progress("train", total=settings.max_steps, done=progressed.step, unit="steps") as progress:
        for number in range(progressed.step, settings.max_steps):
            pixels = next(streams[bucket_of_step(settings.buckets, seed=settings.seed, step=number)])
            # Noise is a function of (seed, step, rank), not of what came before: a resumed run draws the same.
            generator = torch.Generator(device).manual_seed(_noise_seed(settings.seed, number, rank))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
                reconstruction = wrapped(pixels, generator=generator)
            terms = stage_one_loss(reconstruction, model.pad_frames(pixels), settings.kl_weight)
            optimizer.zero_grad(set_to_none=True)
            terms.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm, error_if_nonfinite=True)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, number)
            optimizer.step()
            done = number + 1
            if done % curve_every == 0 or done == settings.max_steps:
                curve.append(_mean_over_workers(terms, done, world_size))
            if rank == 0:
                progress.advance(1, note=f"loss {curve[-1].loss:.4f}" if curve else "")
                if done % settings.checkpoint_every == 0 or done == settings.max_steps:
                    save_training(settings.output, model, optimizer, Progressed(step=done, curve=tuple(curve)))
        if rank == 0:
            save_checkpoint(
                settings.output.subfolder(TOKENIZER_FOLDER).url,
                model,
                {**settings.training_record, "steps": settings.max_steps},
            )
    if world_size > 1:
        dist.barrier()


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warmup to the peak, then cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.peak_learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(settings.max_steps - settings.warmup_steps, 1)
    return settings.peak_learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _endless_batches(
    bucket: str, settings: LoopSettings, *, device: torch.device, world_size: int
) -> Iterator[torch.Tensor]:
    """This worker's clips of a bucket over and over, [b, 3, T, H, W] in [-1, 1], shuffled anew each epoch."""
    import ray.train

    shard = ray.train.get_dataset_shard(bucket)
    assert shard is not None
    local_batch = max(1, settings.batch_size // world_size)
    for epoch in range(settings.max_steps):
        empty = True
        for batch in shard.iter_torch_batches(
            batch_size=local_batch,
            device="cpu",
            local_shuffle_buffer_size=4 * local_batch,
            local_shuffle_seed=settings.seed + epoch,
        ):
            empty = False
            yield from_uint8(batch["pixels"].to(device))
        if empty:
            raise ValueError(
                f"bucket {bucket} has {settings.buckets[bucket]} clips, fewer than the {world_size} workers: "
                "train with fewer workers or more clips"
            )


def _noise_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 65_537 + rank


def _mean_over_workers(terms: Terms, step: int, world_size: int) -> CurvePoint:
    values = torch.stack([terms.total.detach(), terms.reconstruction.detach(), terms.kl.detach()]).double()
    if world_size > 1:
        dist.all_reduce(values)
        values /= world_size
    loss, reconstruction, kl = values.tolist()
    return CurvePoint(step=step, loss=loss, reconstruction=reconstruction, kl=kl)
