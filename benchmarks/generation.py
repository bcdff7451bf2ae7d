"""A small generator on a small tokenizer, both trained here: samples over its steps, and their gFID.

    python benchmarks/generation.py --images FOLDER --work FOLDER --json benchmarks/results/generation.json

Photographs named after their WordNet number (n02100877_...) fall into three classes: animals (n01, n02), artefacts
(n03, n04), the rest. Every fifth is held out. Of each, scaled to 96 pixels on the short side, random crops of 64 pixels
are taken. The tokenizer is N-T/8 with 8 channels (E = 512), the generator the laptop recipe of `vitok train-generator`:
a nano flow of 2.8 M parameters on 64 tokens.

gFID is that of the 2015 Inception between samples, as many of each class, and the held-out crops. Beside it stand what
it would be of the training crops themselves, and of those through the tokenizer: a generator cannot be asked for less.
FID of a few thousand samples is biased upwards: these figures compare with each other alone.

A second start goes on where the first stopped. Beside the JSON lie its pictures: the curve, and the same samples (a
class after class) over the steps, a row each.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import machine
from PIL import Image

from pipeline.report.plots import Series, curves
from pipeline.report.samples import grid_of, png_of
from pipeline.runs.clip_flags import InputFlags
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.sample import SampleConfig, sample
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import Store, open_store
from pipeline.training.checkpoint import read_curve
from pipeline.training.config import DataFlags, LossFlags, ModelFlags, OptimizerFlags, TrainConfig, WatchFlags
from pipeline.training.generator import train_generator
from pipeline.training.generator_recipes import laptop
from pipeline.training.tokenizer import train
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.metrics.features import frame_features
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.model.checkpoint import load_checkpoint
from vitok.networks.inception import InceptionV3
from vitok.pixels import from_uint8, to_uint8

SCALED, SIDE, PATCH, CHANNELS = 96, 64, 8, 8
HELD_OUT_EVERY = 5
GUIDANCE, SOLVER_STEPS = 2.0, 25


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs named after WordNet numbers")
    parser.add_argument("--work", type=Path, required=True, help="stores and trainings are kept here")
    parser.add_argument("--crops", type=int, default=40, help="of each photograph (default: %(default)s)")
    parser.add_argument("--tokenizer-steps", type=int, default=3000, help="of 64 clips (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10_000, help="of 64 latents (default: %(default)s)")
    parser.add_argument("--points", type=int, default=5, help="of the curve (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=400, help="samples scored (default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="results; pictures go beside it")
    arguments = parser.parse_args()
    work: Path = arguments.work
    clips = prepare_stores(arguments.images, work, num_crops=arguments.crops)
    tokenizer = train_tokenizer(clips["train"], work / "tokenizer", max_steps=arguments.tokenizer_steps)
    latents = work / "latents"
    encode(EncodeConfig(shards=str(clips["train"]), tokenizer=tokenizer, output=str(latents), batch_size=64))
    every = arguments.steps // arguments.points
    recipe = laptop(store=str(latents), output=str(work / "generator"))
    train_generator(
        replace(
            recipe,
            tokenizer=tokenizer,
            optimizer=replace(recipe.optimizer, max_steps=arguments.steps),
            watch=replace(recipe.watch, sample_every=every, samples=18, keep_generators=True),
        )
    )
    held_out = moments_of(clips_of(open_clips(clips["held-out"])))
    num_scored = 3 * arguments.per_class
    crops = first_clips(open_clips(clips["train"]), num_scored)
    quality = {
        "training crops": frechet_distance(moments_of(crops), held_out),
        "the same, reconstructed": frechet_distance(moments_of(reconstructed(tokenizer, crops)), held_out),
    }
    curve = {}
    for step in range(every, arguments.steps + 1, every):
        output = work / "samples" / f"step-{step:08d}"
        sample(
            SampleConfig(
                generator=str(work / "generator" / "generators" / f"step-{step:08d}"),
                tokenizer=tokenizer,
                output=str(output),
                per_class=arguments.per_class,
                guidance=GUIDANCE,
                steps=SOLVER_STEPS,
                codec="raw",
            )
        )
        curve[step] = frechet_distance(moments_of(clips_of(open_clips(output))), held_out)
        sys.stdout.write(f"step {step}: gFID {curve[step]:.1f}\n")
    losses = [point for point in read_curve(Folder(str(work / "generator"))) if "generator/total" in point.values]
    document = {
        "command": f"python benchmarks/generation.py --images FOLDER --work FOLDER --crops {arguments.crops} "
        f"--tokenizer-steps {arguments.tokenizer_steps} --steps {arguments.steps} --points {arguments.points} "
        f"--per-class {arguments.per_class}",
        "machine": machine(),
        "metric": f"FID, 2015 Inception, of {num_scored} clips against {held_out.count} held-out ones",
        "others": quality,
        "gfid_by_step": curve,
        "loss_by_step": {point.step: point.values["generator/total"] for point in losses},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(json.dumps({"others": quality, "gfid_by_step": curve}, indent=1) + "\n")
    draw(arguments.json, work, curve, quality)


def prepare_stores(images: Path, work: Path, *, num_crops: int) -> dict[str, Path]:
    """Clip stores of the crops of training and of held-out photographs, labelled."""
    generator = np.random.default_rng(0)
    for place, image in enumerate(sorted(path for path in images.rglob("n*") if path.is_file())):
        part = work / "media" / ("held-out" if place % HELD_OUT_EVERY == 0 else "train") / class_of(image.name)
        part.mkdir(parents=True, exist_ok=True)
        with Image.open(image) as opened:
            picture = opened.convert("RGB")
        scale = SCALED / min(picture.size)
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
        for number in range(num_crops):
            left, top = (int(generator.integers(side - SIDE + 1)) for side in small.size)
            path = part / f"{image.stem}-{number:03d}.png"
            if not path.exists():
                small.crop((left, top, left + SIDE, top + SIDE)).save(path)
    stores = {part: work / "clips" / part for part in ("train", "held-out")}
    for part, output in stores.items():
        prepare(
            PrepareConfig(
                input=(str(work / "media" / part),),
                output=str(output),
                resolution=SIDE,
                num_frames=1,
                tubelet=f"1x{PATCH}",
                codec="raw",
                shard_size=1024,
                inputs=InputFlags(labels_from_folders=True),
            )
        )
    return stores


def class_of(name: str) -> str:
    """Kind of thing by WordNet number."""
    return {"n01": "animal", "n02": "animal", "n03": "artefact", "n04": "artefact"}.get(name[:3], "other")


def train_tokenizer(clips: Path, output: Path, *, max_steps: int) -> str:
    """The tokenizer: squared error and the paper's KL, no LPIPS."""
    summary = train(
        TrainConfig(
            shards=(str(clips),),
            output=str(output),
            model=ModelFlags(variant=f"N-T/{PATCH}", latent_channels=CHANNELS),
            data=DataFlags(batch_size=64, augmentation="flip"),
            optimizer=OptimizerFlags(max_steps=max_steps, learning_rate=4 * 1.5e-3),
            loss=LossFlags(lpips_weight=0.0, kl_weight=1e-3),
            watch=WatchFlags(log_every=100, checkpoint_every=500),
        )
    )
    return summary.tokenizer


def open_clips(folder: Path) -> Store:
    """A clip store."""
    return open_store(Folder(str(folder)), format_name=CLIP_STORE_FORMAT)


def clips_of(store: Store) -> torch.Tensor:
    """All clips of a store of one size, uint8 [N, 1, H, W, 3], in its order."""
    clips = []
    for row in store.rows:
        if row.path is not None:
            with store.folder.open(row.path) as stream:
                clips += [clip.pixels for clip in read_clips(stream, where=row.path)]
    return torch.from_numpy(np.stack(clips))


def first_clips(store: Store, count: int) -> torch.Tensor:
    """So many clips, evenly spread over a store."""
    clips = clips_of(store)
    return clips[torch.linspace(0, len(clips) - 1, min(count, len(clips))).long()]


@torch.inference_mode()
def reconstructed(tokenizer: str, clips: torch.Tensor) -> torch.Tensor:
    """What the tokenizer gives back."""
    model = load_checkpoint(tokenizer)
    return to_uint8(torch.cat([model(from_uint8(part), sample=False).pixels for part in torch.split(clips, 64)]))


def moments_of(clips: torch.Tensor) -> FeatureMoments:
    """What FID compares of clips, by the 2015 Inception."""
    return FeatureMoments.of(frame_features(InceptionV3.load("2015"), clips).numpy())


def draw(results: Path, work: Path, curve: dict[int, float], others: dict[str, float]) -> None:
    """The curve, and six samples of each class at each of its points, a row each."""
    ends = (float(min(curve)), float(max(curve)))
    levels = [Series(name=name, x=ends, y=(value, value)) for name, value in others.items()]
    found = Series(name="samples", x=tuple(map(float, curve)), y=tuple(curve.values()))
    plotted = curves([found, *levels], x_label="optimizer steps of 64 latents", y_label="gFID (2015 Inception)")
    results.with_suffix(".curve.png").write_bytes(plotted.png)
    rows = []
    for step in curve:
        clips = clips_of(open_clips(work / "samples" / f"step-{step:08d}"))
        per_class = len(clips) // 3
        rows += [clip.numpy() for first in range(3) for clip in clips[first * per_class :][:6]]
    results.with_suffix(".samples.png").write_bytes(png_of(grid_of(rows, num_columns=18)[0]))


if __name__ == "__main__":
    main()
