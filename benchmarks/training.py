"""Step time of the project's training loop over that of a bare torch loop: same model, batch and arithmetic.

The bare loop holds the clips in memory, uint8, and cuts random crops with slices; it has no Ray, no logging, no
checkpoints, no validation. Ours is `vitok train` over a clip store of the same clips: Ray Train, Ray Data, crops in
reading actors. Both run in one order, bare, ours, bare, ours, ..., each in processes of its own; compared are medians
of seconds a step after the first 20 steps. Both must be seen to do the same: losses of the last steps within 25 %.

With one thread, on a machine of two cores, the row shows what our loop adds; with two threads Ray's own processes share
the cores with the training, and a step waits for the thread that was interrupted.

    python benchmarks/training.py --json benchmarks/results/training.json
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import Row, main
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig

VARIANT, CHANNELS, STORED, SIDE, BATCH = "N-T/8", 16, 128, 64, 64
STEPS, WARM, PEAK, LOG_EVERY = 60, 20, 1.5e-3, 5
THREADS = (1, 2)
LOSS_TOLERANCE = 0.25


def measure(runs: int) -> list[Row]:
    """Seconds a step of both, as often as asked."""
    with tempfile.TemporaryDirectory(prefix="vitok-training-") as folder:
        root = Path(folder)
        clips = make_store(root)
        rows = []
        for threads in THREADS:
            ours, bare = [], []
            for number in range(runs):
                bare_seconds, bare_loss = in_process(root / "clips.npy", threads)
                our_seconds, our_loss = train(clips, root / f"training-{threads}-{number}", threads)
                if abs(our_loss / bare_loss - 1) > LOSS_TOLERANCE:
                    raise RuntimeError(f"the loops do not do the same: last losses {our_loss:.4f} and {bare_loss:.4f}")
                ours.append(our_seconds)
                bare.append(bare_seconds)
            rows.append(Row.of(f"step of {BATCH} clips, {VARIANT}, {SIDE} px, {threads} threads", ours, bare, "s"))
    return rows


def make_store(root: Path) -> Path:
    """Clips of 128 pixels cut from photographs of installed packages, as a store and as one array."""
    from importlib.metadata import files

    media = root / "media"
    media.mkdir()
    cut = []
    for package, suffixes in (("scikit-image", (".png", ".jpg")), ("scikit-learn", (".jpg",))):
        for file in files(package) or []:
            if file.suffix in suffixes and ("data" in file.parts or "images" in file.parts):
                pixels = np.asarray(Image.open(str(file.locate())).convert("RGB"))
                for top in range(0, pixels.shape[0] - STORED + 1, STORED):
                    for left in range(0, pixels.shape[1] - STORED + 1, STORED):
                        cut.append(pixels[top : top + STORED, left : left + STORED])
    for number, clip in enumerate(cut):
        Image.fromarray(clip).save(media / f"{number:05d}.png")
    np.save(root / "clips.npy", np.stack(cut)[:, None])
    output = root / "clips"
    prepare(
        PrepareConfig(
            input=(str(media),),
            output=str(output),
            resolution=STORED,
            num_frames=1,
            tubelet="1x8",
            codec="raw",
            shard_size=256,
        )
    )
    return output


def train(clips: Path, output: Path, threads: int) -> tuple[float, float]:
    """Median seconds a step and last loss of `vitok train`, as it logs them."""
    flags = {
        "shards": clips,
        "output": output,
        "variant": VARIANT,
        "latent-channels": CHANNELS,
        "resolution": SIDE,
        "augmentation": "random_crop",
        "batch-size": BATCH,
        "learning-rate": PEAK * 256 / BATCH,
        "max-steps": STEPS,
        "lpips-weight": 0,
        "threads-per-worker": threads,
        "log-every": LOG_EVERY,
    }
    argv = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "jobs.command", "train", *argv], check=True)
    rates, losses = [], []
    for file in (output / "tensorboard").iterdir():
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            for value in event.summary.value:
                if value.tag == "rate/clips_per_second" and event.step > WARM:
                    rates.append(BATCH / value.simple_value)
                if value.tag == "tokenizer/total":
                    losses.append(value.simple_value)
    return float(np.median(rates)), float(np.mean(losses[-4:]))


def in_process(path: Path, threads: int) -> tuple[float, float]:
    """What the bare loop says of itself, run in a process of its own."""
    command = [sys.executable, __file__, "bare", str(path), str(threads)]
    seconds, loss = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, loss


def bare_loop(path: str, threads: int) -> tuple[float, float]:
    """Median seconds a step, over groups of as many steps as ours logs, and last loss."""
    from vitok.config import AutoEncoderConfig
    from vitok.model.autoencoder import AutoEncoder

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clips = torch.from_numpy(np.load(path))
    model = AutoEncoder(AutoEncoderConfig.from_name(VARIANT, latent_channels=CHANNELS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=1e-4)
    warmup = round(0.03 * STEPS)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup if step < warmup else 0.5 + 0.5 * np.cos(np.pi * (step - warmup) / (STEPS - warmup))
        ),
    )
    generator = np.random.default_rng(0)
    seconds, losses, started = [], [], time.perf_counter()
    for step in range(STEPS):
        chosen = []
        for place in generator.integers(len(clips), size=BATCH):
            top, left = generator.integers(STORED - SIDE + 1, size=2)
            crop = clips[place, :, top : top + SIDE, left : left + SIDE]
            chosen.append(crop.flip(2) if generator.random() < 0.5 else crop)
        pixels = torch.stack(chosen).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reconstruction = model(pixels)
        squared = (reconstruction.pixels.float() - pixels).square().mean()
        loss = squared + 1e-3 * reconstruction.posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
        if (step + 1) % LOG_EVERY == 0:
            now = time.perf_counter()
            if step + 1 > WARM:
                seconds.append((now - started) / LOG_EVERY)
            started = now
    return float(np.median(seconds)), float(np.mean(losses[LOG_EVERY - 1 :: LOG_EVERY][-4:]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        sys.stdout.write(json.dumps(bare_loop(sys.argv[2], int(sys.argv[3]))))
    else:
        main(measure, description=__doc__ or "", runs=2)
