"""Held-out PSNR of a small ViTok against PCA and bicubic resampling at the same number of latent floats.

    python benchmarks/reconstruction.py --images FOLDER --work FOLDER --json benchmarks/results/reconstruction.json

Every fifth photograph is held out. Photographs are stored at 128 pixels; training takes random crops of 64 and their
mirrors, held out are the four quarters. The tokenizer is N-T/8 (192 wide, 2 + 4 blocks) with 16 channels and no noise:
64 tokens, E = 1024 floats for 12,288 samples. PCA of 8 x 8 x 3 tubelets with 16 components (mean removed) is fitted on
random crops of the same training photographs: the best that any linear code of single tubelets does. Bicubic keeps
19 x 18 x 3 = 1026 floats. Every reconstruction is rounded to 8 bits; PSNR is the mean over clips.

"vitok" are the weights of the last step; "vitok_averaged", and the curve over steps, those averaged with a decay of
0.999, which on a run as short as this still carry weights of a thousand steps before.

A second start goes on where the first stopped. Beside the JSON lie its pictures: curve and reconstructions.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from harness import machine
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from pipeline.report.plots import Series, curves
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.training.checkpoint import read_curve
from pipeline.training.config import (
    DataFlags,
    LossFlags,
    ModelFlags,
    OptimizerFlags,
    ParallelFlags,
    TrainConfig,
    WatchFlags,
)
from pipeline.training.tokenizer import train
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.config import AutoEncoderConfig
from vitok.metrics.pixel import psnr, ssim
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import load_checkpoint
from vitok.pixels import from_uint8, to_uint8

STORED, SIDE, PATCH, CHANNELS = 128, 64, 8, 16
BICUBIC = (19, 18)
HELD_OUT_EVERY = 5
CROPS_FOR_PCA = 20


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--work", type=Path, required=True, help="stores and the training are kept here")
    parser.add_argument("--steps", type=int, default=3000, help="of 64 clips (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="results; pictures go beside it")
    arguments = parser.parse_args()
    stored, tiles = prepare_stores(arguments.images, arguments.work)
    training = train(training_config(arguments.work, arguments.steps))
    held_out = clips_of(tiles)
    averaged = load_checkpoint(training.tokenizer)
    candidates = {
        "vitok": reconstruct(last_weights(arguments.work, averaged.config), held_out),
        "vitok_averaged": reconstruct(averaged, held_out),
        "pca": pca(random_crops(clips_of(stored)), held_out),
        "bicubic": bicubic(held_out),
    }
    quality = {
        name: {
            "psnr": float(psnr(held_out, candidate).mean()),
            "ssim": float(ssim(held_out, candidate).mean()),
            "floats": BICUBIC[0] * BICUBIC[1] * 3 if name == "bicubic" else (SIDE // PATCH) ** 2 * CHANNELS,
        }
        for name, candidate in candidates.items()
    }
    points = read_curve(Folder(str(arguments.work / "training")))
    curve = {point.step: point.values["validation/psnr"] for point in points if "validation/psnr" in point.values}
    document = {
        "command": f"python benchmarks/reconstruction.py --images FOLDER --work FOLDER --steps {arguments.steps}",
        "machine": machine(),
        "held_out_clips": len(held_out),
        "quality": quality,
        "psnr_above_pca": quality["vitok"]["psnr"] - quality["pca"]["psnr"],
        "psnr_by_step": curve,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(json.dumps({"quality": quality, "psnr_above_pca": document["psnr_above_pca"]}, indent=1) + "\n")
    names = {"vitok": "ViTok, last weights", "pca": "PCA", "bicubic": "bicubic"}
    picture = rearrange(
        torch.stack([clips[::7][:12, 0] for clips in (held_out, *(candidates[name] for name in names))]),
        "rows n h w c -> (rows h) (n w) c",
    )
    Image.fromarray(picture.numpy()).save(arguments.json.with_suffix(".clips.png"))
    ends = (float(min(curve)), float(max(curve)))
    levels = [Series(name=names[name], x=ends, y=(quality[name]["psnr"],) * 2) for name in names]
    plotted = curves(
        [Series(name="ViTok N-T/8, averaged weights", x=tuple(curve), y=tuple(curve.values())), *levels],
        x_label="optimizer steps of 64 clips",
        y_label=f"held-out PSNR [dB] at {quality['vitok']['floats']} latent floats",
    )
    arguments.json.with_suffix(".curve.png").write_bytes(plotted.png)


def prepare_stores(images: Path, work: Path) -> tuple[Path, Path]:
    """Clip stores of the training photographs at 128 pixels, and of the held-out ones' quarters."""
    for place, image in enumerate(sorted(path for path in images.rglob("*") if path.is_file())):
        part = work / "media" / ("held-out" if place % HELD_OUT_EVERY == 0 else "train")
        part.mkdir(parents=True, exist_ok=True)
        if not (part / image.name).exists():
            shutil.copy2(image, part)
    stored = {part: work / "clips" / part for part in ("train", "held-out")}
    for part, output in stored.items():
        prepare(_prepare_config(work / "media" / part, output, STORED))
    quarters = work / "media" / "quarters"
    quarters.mkdir(exist_ok=True)
    for number, clip in enumerate(clips_of(stored["held-out"])):
        parts = rearrange(clip[0], "(rows h) (columns w) c -> (rows columns) h w c", h=SIDE, w=SIDE)
        for place, part in enumerate(parts):
            path = quarters / f"{number:04d}-{place}.png"
            if not path.exists():
                Image.fromarray(part.numpy()).save(path)
    prepare(_prepare_config(quarters, work / "clips" / "quarters", SIDE))
    return stored["train"], work / "clips" / "quarters"


def training_config(work: Path, steps: int) -> TrainConfig:
    """The training: mean squared error alone, no noise, as PCA has none."""
    return TrainConfig(
        shards=(str(work / "clips" / "train"),),
        output=str(work / "training"),
        model=ModelFlags(variant=f"N-T/{PATCH}", latent_channels=CHANNELS, bottleneck="none"),
        data=DataFlags(batch_size=64, augmentation="random_crop", resolution=SIDE),
        optimizer=OptimizerFlags(max_steps=steps, learning_rate=4 * 1.5e-3, ema_decay=0.999),
        loss=LossFlags(lpips_weight=0.0, kl_weight=0.0),
        parallel=ParallelFlags(threads_per_worker=2),
        watch=WatchFlags(
            validation=str(work / "clips" / "quarters"),
            validate_every=500,
            validation_clips=10_000,
            log_every=100,
            checkpoint_every=500,
        ),
    )


def clips_of(store: Path) -> torch.Tensor:
    """All clips of a store of one size, uint8 [N, 1, H, W, 3]."""
    opened = open_store(Folder(str(store)), format_name=CLIP_STORE_FORMAT)
    clips = []
    for row in opened.rows:
        if row.path is not None:
            with opened.folder.open(row.path) as stream:
                clips += [clip.pixels for clip in read_clips(stream, where=row.path)]
    return torch.from_numpy(np.stack(clips))


def last_weights(work: Path, config: AutoEncoderConfig) -> AutoEncoder:
    """The model of the last step, without averaging over steps."""
    (part,) = (work / "training" / "checkpoints").glob("*/part-00000-of-00001.safetensors")
    prefix = "tokenizer/weights/"
    model = AutoEncoder(config)
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in load_file(part).items() if name.startswith(prefix)}
    )
    return model


@torch.inference_mode()
def reconstruct(model: AutoEncoder, clips: torch.Tensor) -> torch.Tensor:
    """What the tokenizer gives back, in float32."""
    parts = [model(from_uint8(part), sample=False).pixels for part in torch.split(clips, 32)]
    return to_uint8(torch.cat(parts))


def random_crops(clips: torch.Tensor) -> torch.Tensor:
    """Crops as training takes them, without mirrors, uint8 [n, 1, 64, 64, 3]."""
    generator = np.random.default_rng(0)
    crops = []
    for clip in clips:
        for _ in range(CROPS_FOR_PCA):
            top, left = generator.integers(STORED - SIDE + 1, size=2)
            crops.append(clip[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(crops)


def pca(train_clips: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Reconstructions from the leading principal components of each tubelet."""
    fitted = _tubelets(train_clips)
    mean = fitted.mean(0)
    covariance = (fitted - mean).T @ (fitted - mean) / len(fitted)
    basis = torch.linalg.eigh(covariance).eigenvectors[:, -CHANNELS:]
    found = (_tubelets(clips) - mean) @ basis @ basis.T + mean
    pixels = rearrange(
        found,
        "(n h w) (rows columns c) -> n 1 (h rows) (w columns) c",
        h=SIDE // PATCH,
        w=SIDE // PATCH,
        rows=PATCH,
        columns=PATCH,
    )
    return pixels.round().clamp(0, 255).to(torch.uint8)


def bicubic(clips: torch.Tensor) -> torch.Tensor:
    """Reconstructions from a smaller picture."""
    pictures = [Image.fromarray(clip[0].numpy()) for clip in clips]
    small = [picture.resize(BICUBIC, Image.Resampling.BICUBIC) for picture in pictures]
    large: list[NDArray[np.uint8]] = [
        np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in small
    ]
    return torch.from_numpy(np.stack(large))[:, None]


def _tubelets(clips: torch.Tensor) -> torch.Tensor:
    return rearrange(
        clips.double(), "n 1 (h rows) (w columns) c -> (n h w) (rows columns c)", rows=PATCH, columns=PATCH
    )


def _prepare_config(media: Path, output: Path, resolution: int) -> PrepareConfig:
    return PrepareConfig(
        input=(str(media),),
        output=str(output),
        resolution=resolution,
        num_frames=1,
        tubelet=f"1x{PATCH}",
        codec="raw",
        shard_size=256,
    )


if __name__ == "__main__":
    main()
