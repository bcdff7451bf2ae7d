"""A generator's training on a real latent store: it learns, shows samples, and goes on after a kill to the last bit."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.runs.clip_flags import InputFlags
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.plan import RunRefusedError
from pipeline.training.config import ParallelFlags
from pipeline.training.generator import describe_generator, train_generator
from pipeline.training.generator_config import (
    DitFlags,
    GeneratorOptimizerFlags,
    GeneratorTrainConfig,
    LatentFlags,
    SampleWatchFlags,
)
from pipeline.training.generator_data import LatentBatches
from pipeline.training.generator_recipes import GENERATOR_RECIPES
from vitok.config import Grid
from vitok.generator.checkpoint import load_generator
from vitok.latents.store import LatentStore

pytestmark = pytest.mark.cluster

FLAGS = {
    "variant": "N",
    "process": "flow",
    "batch-size": "4",
    "learning-rate": "6.4e-2",
    "ema-decay": "0.5",
    "precision": "float32",
    "log-every": "1",
    "checkpoint-every": "5",
}


def config(store, output, *, max_steps, **others):
    """What `FLAGS` say."""
    return GeneratorTrainConfig(
        store=str(store),
        output=str(output),
        model=DitFlags(**{"variant": "N", "process": "flow", **others.pop("model", {})}),
        latents=LatentFlags(**{"batch_size": 4, **others.pop("latents", {})}),
        optimizer=GeneratorOptimizerFlags(
            max_steps=max_steps, learning_rate=6.4e-2, ema_decay=0.5, precision="float32", **others.pop("optimizer", {})
        ),
        watch=SampleWatchFlags(log_every=1, checkpoint_every=5, **others.pop("watch", {})),
        **others,
    )


@pytest.fixture(scope="module")
def store(corpus, tokenizer, ray_here, tmp_path_factory):
    """Latents of six photographs under two labels, and of the clips of a video without one: grids 1x4x4 and 2x4x4."""
    folder = tmp_path_factory.mktemp("media")
    for number, name in enumerate(sorted(path.name for path in corpus.iterdir() if path.suffix in (".png", ".jpg"))):
        part = folder / ("round" if number % 2 else "angular")
        part.mkdir(exist_ok=True)
        shutil.copy2(corpus / name, part)
    shutil.copy2(corpus / "bikes.mp4", folder)
    clips, output = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("latents")
    prepare(
        PrepareConfig(
            input=(str(folder),),
            output=str(clips),
            resolution=32,
            num_frames=4,
            tubelet="2x8",
            shard_size=8,
            inputs=InputFlags(labels_from_folders=True),
        )
    )
    encode(EncodeConfig(shards=str(clips), tokenizer=tokenizer, output=str(output), logvar=True, flip=True))
    return output


def curve(output, name="generator/total"):
    (state,) = output.glob("checkpoints/*/state.json")
    points = json.loads(state.read_bytes())["curve"]
    return {point["step"]: point["values"][name] for point in points if name in point["values"]}


def test_it_learns_and_shows_samples(store, tokenizer, tmp_path):
    asked = config(
        store,
        tmp_path,
        max_steps=40,
        tokenizer=tokenizer,
        watch={"sample_every": 20, "samples": 4, "sample_steps": 3, "keep_generators": True},
    )
    summary = train_generator(asked)
    assert (summary.steps, summary.resumed_steps) == (40, 0)
    losses = list(curve(tmp_path).values())
    assert len(losses) == 40
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])

    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"step-00000020.png", "step-00000040.png"} == pictures
    assert "Samples, class after class" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert np.asarray(Image.open(tmp_path / "pictures" / "step-00000040.png")).shape == (64, 64, 3)
    assert list((tmp_path / "tensorboard").iterdir())

    generator = load_generator(summary.url)
    opened = LatentStore(str(store))
    assert generator.config.tokenizer_fingerprint == opened.tokenizer_fingerprint
    assert set(generator.config.grids) == {Grid(frames=t, height=h, width=w) for t, h, w in opened.buckets}
    assert dict(zip(generator.config.grids, generator.config.num_frames, strict=True)) == {
        Grid(frames=1, height=4, width=4): 1,
        Grid(frames=2, height=4, width=4): 4,
    }
    assert generator.config.latents_std == tuple(opened.statistics().std.tolist())
    kept = load_generator(str(tmp_path / "generators" / "step-00000040"))
    assert kept.fingerprint == generator.fingerprint
    assert load_generator(str(tmp_path / "generators" / "step-00000020")).fingerprint != generator.fingerprint
    again = train_generator(asked)
    assert (again.steps, again.resumed_steps, again.seconds) == (0, 40, 0.0)


def test_one_grid_alone_can_be_learned(store):
    asked = config(store, "/out", max_steps=1, latents={"grid": "1x4x4"}, model={"positions": "learned_rope1d"})
    opened = LatentStore(str(store))
    described = describe_generator(asked, opened)
    assert (described.grids, described.num_frames) == ((Grid(frames=1, height=4, width=4),), (1,))
    batches = LatentBatches(
        opened, asked.latents, classes=described.classes, seed=0, rank=0, world_size=1, num_parts=1, used={}
    )
    epoch = [next(batches), next(batches)]
    assert {tuple(batch.inputs.latents.shape[1:]) for batch in epoch} == {(1, 4, 4, 4)}
    images = [batch for batch in opened.batches(64) if batch.latents["mean"].shape[1] == 1]
    assert sorted(key for batch in epoch for key in batch.keys) == sorted(
        key for batch in images for key in batch.columns["key"]
    )
    with pytest.raises(ValueError, match=r"--grid: got 1x8x8, .* has latents of 1x4x4, 2x4x4"):
        describe_generator(config(store, "/out", max_steps=1, latents={"grid": "1x8x8"}), opened)


def test_a_killed_training_goes_on_with_the_losses_of_one_that_was_not(store, start_job, tmp_path):
    """Posterior draws, mirrored views and ragged last steps among them."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    latents = {"latent": "posterior", "flip": True}
    train_generator(config(store, undisturbed, max_steps=60, latents=latents))

    flags = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
    process = start_job(
        *("train-generator", "--store", str(store), "--output", str(killed), "--max-steps", "60"),
        *("--latent", "posterior", "--flip", *flags),
    )
    while not list(killed.glob("checkpoints/*/state.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "generator" / "config.json").exists(), "it ended before the kill, which then proves nothing"

    with pytest.raises(RunRefusedError, match=r"recipe\.class_dropout: 0\.1, now 0\.5"):
        train_generator(config(store, killed, max_steps=60, latents={**latents, "class_dropout": 0.5}))
    summary = train_generator(config(store, killed, max_steps=60, latents=latents))
    assert 5 <= summary.resumed_steps <= 55
    assert curve(killed) == curve(undisturbed)  # to the last bit
    whole, resumed = (
        load_generator(str(folder / "generator")).network.state_dict() for folder in (undisturbed, killed)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_workers_share_the_store_and_its_parts(store, tokenizer, tmp_path):
    summary = train_generator(
        config(
            store,
            tmp_path,
            max_steps=6,
            tokenizer=tokenizer,
            model={"process": "diffusion"},
            optimizer={"accumulation": 2},
            parallel=ParallelFlags(num_workers=2, strategy="fsdp"),
            watch={"samples": 2, "sample_steps": 2},
        )
    )
    generator = load_generator(summary.url)
    assert generator.network.head.proj.weight.any()
    assert (generator.config.process, generator.config.dit.learned_variance) == ("diffusion", True)
    assert len(curve(tmp_path, "generator/bound")) == 6
    assert (tmp_path / "pictures" / "step-00000006.png").exists()


def test_classes_are_the_stores_labels_sorted(store):
    described = describe_generator(config(store, "out", max_steps=1), LatentStore(str(store)))
    assert {"angular", "round"} <= set(described.classes)
    assert list(described.classes) == sorted(described.classes)
    assert described.dit.num_classes == len(described.classes)


def test_every_step_has_a_latent_for_every_part_and_a_class_for_every_latent(store):
    opened = LatentStore(str(store))
    batches = LatentBatches(
        opened,
        LatentFlags(batch_size=64),
        classes=("angular",),
        seed=0,
        rank=0,
        world_size=1,
        num_parts=100,
        used={},
    )
    labels = {
        key: label
        for batch in opened.batches(8)
        for key, label in zip(batch.columns["key"], batch.columns["label"], strict=True)
    }
    steps = [next(batches) for _ in range(2)]  # an epoch: one step a grid
    assert sorted(key for step in steps for key in step.keys) == sorted(labels)
    for step in steps:
        inputs, count = step.to(torch.device("cpu")), len(step.keys)
        assert len(inputs) == 100
        assert torch.equal(inputs.latents[count : 2 * count], inputs.latents[:count])
        assert inputs.classes[:count].tolist() == [int(labels[key] != "angular") for key in step.keys]
        assert [len(part) for part in inputs.chunk(7)] == [15, 15, 14, 14, 14, 14, 14]
        assert [len(part) for part in inputs.chunk(100)] == [1] * 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"positions": "learned_rope1d"}}, "learned positions are of one grid"),
        ({"parallel": ParallelFlags(num_workers=4), "latents": {"batch_size": 64}}, None),
        (
            {"parallel": ParallelFlags(num_workers=64), "latents": {"batch_size": 128}},
            "--num-workers: got 64, more than",
        ),
    ],
)
def test_what_the_store_cannot_give_is_refused_before_work_begins(store, change, message):
    asked = config(store, "out", max_steps=1, **change)
    if message is None:
        describe_generator(asked, LatentStore(str(store)))
        return
    with pytest.raises(ValueError, match=message):
        describe_generator(asked, LatentStore(str(store)))


def test_another_tokenizer_is_refused(store, tmp_path):
    from vitok.config import AutoEncoderConfig
    from vitok.model.autoencoder import AutoEncoder
    from vitok.model.checkpoint import save_checkpoint

    torch.manual_seed(1)
    save_checkpoint(str(tmp_path), AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)))
    with pytest.raises(ValueError, match=r"--tokenizer: .* has the fingerprint .*, the latents of"):
        train_generator(config(store, tmp_path / "out", max_steps=1, tokenizer=str(tmp_path)))


def test_samples_that_cannot_be_drawn_are_refused_before_work_begins(store, tokenizer, tmp_path):
    asked = config(
        store, tmp_path, max_steps=1, tokenizer=tokenizer, model={"process": "diffusion"}, watch={"sample_steps": 1001}
    )
    with pytest.raises(ValueError, match="num_steps: got 1001, a diffusion has 1000"):
        train_generator(asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": {"batch_size": 3}, "parallel": ParallelFlags(num_workers=2)}, "--batch-size: got 3"),
        ({"latents": {"batch_size": 2}, "parallel": ParallelFlags(num_workers=2)}, "expected two latents a worker"),
        ({"latents": {"class_dropout": 2.0}}, "--class-dropout: got 2.0, expected 0 to 1"),
        ({"watch": {"samples": 0}}, "--samples: got 0"),
        ({"optimizer": {"seed": -1}}, "--seed: got -1"),
    ],
)
def test_flags_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config("store", "out", max_steps=1, **change)


def test_recipes_are_the_papers():
    sweep, image, video = (
        GENERATOR_RECIPES[name](store="store", output="out")
        for name in ("paper_sweep", "paper_image_256", "paper_video_128")
    )
    for recipe, variant, max_steps in ((sweep, "L", 500_000), (image, "XL", 4_000_000), (video, "L", 500_000)):
        assert (recipe.model.variant, recipe.optimizer.max_steps) == (variant, max_steps)
        assert (recipe.latents.batch_size, recipe.peak_learning_rate) == (256, 1e-4)
        assert (recipe.model.process, recipe.model.positions) == ("diffusion", "rope3d")
        assert (recipe.optimizer.ema_decay, recipe.latents.class_dropout) == (0.9999, 0.1)
    assert replace(GENERATOR_RECIPES["laptop"](store="a", output="b"), store="c").store == "c"
