"""Samples of a generator: a clip store whose bytes neither workers nor a kill change, its pictures and its scores."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.runs.clips import clip_shapes
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.sample import SampleConfig, sample
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from pipeline.store.plan import RunRefusedError
from schemas.metadata import CLIP_STORE_FORMAT
from tests.vitok.adapters.models import make
from vitok.adapters.load import load_adapter
from vitok.config import Grid
from vitok.generator.checkpoint import Generator, load_generator, save_generator
from vitok.generator.config import DitConfig, GeneratorConfig
from vitok.generator.dit import Dit
from vitok.generator.sampler import SampleSettings, sample_latents
from vitok.model.checkpoint import fingerprint, load_checkpoint
from vitok.networks.weights import FOLDER_VARIABLE, MissingWeightsError
from vitok.pixels import to_uint8

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def generator(tokenizer, tmp_path_factory):
    """A transformer with random weights that makes images and clips of the tokenizer."""
    config = GeneratorConfig(
        dit=DitConfig.from_name("N", latent_channels=4, num_classes=3, learned_variance=False),
        process="flow",
        classes=("cat", "dog", "owl"),
        grids=(Grid(frames=1, height=4, width=4), Grid(frames=2, height=4, width=4)),
        num_frames=(1, 4),
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
        tokenizer_fingerprint=fingerprint(load_checkpoint(tokenizer)),
    )
    torch.manual_seed(0)
    network = Dit(config.dit)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = str(tmp_path_factory.mktemp("generator"))
    save_generator(folder, Generator(config=config, network=network))
    return folder


@pytest.fixture
def asked(generator, tokenizer, ray_here, tmp_path):
    return SampleConfig(
        generator=generator,
        tokenizer=tokenizer,
        output=str(tmp_path / "samples"),
        per_class=3,
        steps=2,
        shard_size=4,
        batch_size=4,
        guidance=2.0,
    )


def clips_of(folder):
    store = open_store(Folder(str(folder)), format_name=CLIP_STORE_FORMAT)
    clips = []
    for row in store.rows:
        with store.folder.open(row.path) as stream:
            clips += read_clips(stream, where=row.path)
    return clips


def test_samples_are_what_the_sampler_gives_decoded(asked, generator, tokenizer):
    result = sample(asked)
    assert (result.summary.stored, result.summary.shards, result.scores) == (9, 3, {})
    clips = clips_of(asked.output)
    assert [clip.metadata.label for clip in clips] == ["cat"] * 3 + ["dog"] * 3 + ["owl"] * 3
    loaded, model = load_generator(generator), load_checkpoint(tokenizer)
    seeds = [int(np.random.SeedSequence([0, number]).generate_state(1, np.uint64)[0]) for number in range(9)]
    latents = sample_latents(
        loaded.config,
        loaded.network,
        classes=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        seeds=seeds,
        settings=SampleSettings(num_steps=2, guidance=2.0, batch_size=9),
    )
    with torch.no_grad():
        expected = to_uint8(model.decode(latents, num_frames=1)).numpy()
    found = np.stack([clip.pixels for clip in clips])
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert np.asarray(Image.open(result.picture)).shape == (3 * 32, 3 * 32, 3)
    assert not verify(VerifyConfig(store=asked.output)).problems


def test_clips_move(asked):
    sample(replace(asked, grid="2x4x4", classes=("owl",), solver="heun"))
    clips = clips_of(asked.output)
    assert {clip.pixels.shape for clip in clips} == {(4, 32, 32, 3)}
    with Image.open(Path(asked.output) / "samples.webp") as moving:
        assert (moving.n_frames, moving.size) == (4, (3 * 32, 32))


def test_the_same_bytes_with_any_number_of_workers_and_through_a_kill(asked, start_job, digests, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        sample(replace(asked, output=str(tmp_path / name), num_workers=workers))
    killed = tmp_path / "killed"
    flags = {"per-class": "3", "steps": "2", "shard-size": "4", "batch-size": "4", "guidance": "2.0"}
    process = start_job(
        *("sample", "--generator", asked.generator, "--tokenizer", asked.tokenizer, "--output", str(killed)),
        *("--num-workers", "1", *(part for name, value in flags.items() for part in (f"--{name}", value))),
    )
    while not list(killed.glob("ledger/*/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert sample(replace(asked, output=str(killed))).summary.resumed_shards >= 1
    first = digests(tmp_path / "one")
    assert digests(tmp_path / "two") == first
    assert digests(killed) == first
    with pytest.raises(RunRefusedError, match=r"sampling\.guidance: 2\.0, now 3\.0"):
        sample(replace(asked, output=str(killed), guidance=3.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("cow",)}, r"knows no \['cow'\], only \['cat', 'dog', 'owl'\]"),
        ({"grid": "1x8x8"}, "--grid: got 1x8x8, the generator was trained on 1x4x4, 2x4x4"),
        ({"solver": "ddim"}, "got ddim for a flow"),
        ({"metrics": ("psnr",)}, "expected different names, with spaces between, out of fid_2015"),
        ({"guidance": float("inf")}, "guidance: got inf"),
        ({"seed": -1}, "--seed: got -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_work_begins(asked, change, message):
    with pytest.raises(ValueError, match=message):
        sample(replace(asked, **change))
    assert not (Path(asked.output) / "plan").exists()


def edited(generator, folder, *, spoilt_classes=(), **changes):
    """A generator with another config, and NaN of some classes, in a folder of its own."""
    found = load_generator(generator)
    found.network.class_embed.weight.data[list(spoilt_classes)] = float("nan")
    save_generator(str(folder), Generator(config=replace(found.config, **changes), network=found.network))
    return str(folder)


def test_a_class_that_is_rejected_leaves_its_row_empty(asked, generator, tmp_path):
    result = sample(replace(asked, generator=edited(generator, tmp_path / "spoilt", spoilt_classes=[1])))
    assert (result.summary.stored, result.summary.reasons) == (6, {"nonfinite_reconstruction": 3})
    clips = {clip.metadata.key: clip.pixels[0] for clip in clips_of(asked.output)}
    with Image.open(result.picture) as picture:
        rows = np.split(np.asarray(picture), 3)
    assert not rows[1].any()
    for place, keys in ((0, (0, 1, 2)), (2, (6, 7, 8))):
        expected = np.concatenate([clips[f"sample-{key:09d}"] for key in keys], axis=1)
        np.testing.assert_array_equal(rows[place], expected)


def test_samples_stand_under_the_grid_of_their_clips(ray_here, generator, tmp_path):
    """Wan makes two latent frames of five frames of a clip."""
    tokenizer = str(tmp_path / "wan")
    make("AutoencoderKLWan").save_pretrained(tokenizer)
    changes = {
        "grids": (Grid(frames=2, height=4, width=4),),
        "num_frames": (5,),
        "tokenizer_fingerprint": load_adapter(tokenizer).fingerprint,
    }
    config = SampleConfig(
        generator=edited(generator, tmp_path / "generator", **changes),
        tokenizer=tokenizer,
        output=str(tmp_path / "samples"),
        per_class=1,
        steps=1,
        batch_size=3,
    )
    sample(config)
    store = open_store(Folder(config.output), format_name=CLIP_STORE_FORMAT)
    assert clip_shapes(store) == {clip.pixels.shape[:3] for clip in clips_of(config.output)} == {(5, 16, 16)}
    assert not verify(VerifyConfig(store=config.output)).problems


def test_a_metric_that_does_not_fit_the_clips_is_refused_before_work_begins(
    asked, corpus, generator, need_weights, tmp_path
):
    need_weights("i3d_kinetics400")
    real = str(tmp_path / "real")
    prepare(PrepareConfig(input=(str(corpus),), output=real, resolution=32, num_frames=1, tubelet="1x8"))
    scored = replace(asked, metrics=("fvd",), reference=real)
    with pytest.raises(ValueError, match="fvd needs clips of at least 9 frames, and the samples are clips of 1x32x32"):
        sample(scored)
    longer = edited(generator, tmp_path / "longer", grids=(Grid(frames=5, height=4, width=4),), num_frames=(10,))
    with pytest.raises(ValueError, match=r"fvd needs .*, and --reference \S+ holds clips of 1x32x32"):
        sample(replace(scored, generator=longer))
    assert not Path(asked.output).exists()


def test_another_tokenizer_is_refused(asked, tmp_path):
    from vitok.config import AutoEncoderConfig
    from vitok.model.autoencoder import AutoEncoder
    from vitok.model.checkpoint import save_checkpoint

    torch.manual_seed(1)
    other = str(tmp_path / "other")
    save_checkpoint(other, AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)))
    with pytest.raises(ValueError, match="the generator makes latents of"):
        sample(replace(asked, tokenizer=other))


def test_a_metric_without_weights_says_which(asked, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(MissingWeightsError, match="weights inception_torchvision: not in"):
        sample(replace(asked, metrics=("fid_torchvision",), reference="anything"))


def test_scores_compare_with_real_clips(asked, corpus, need_weights, tmp_path):
    need_weights("inception_2015")
    with pytest.raises(ValueError, match="--reference: got none, and fid_2015 compares with real clips"):
        sample(replace(asked, metrics=("fid_2015",)))
    real = str(tmp_path / "real")
    prepare(PrepareConfig(input=(str(corpus),), output=real, resolution=32, num_frames=1, tubelet="1x8"))
    result = sample(replace(asked, metrics=("fid_2015",), reference=real))
    assert result.scores["fid_2015"] > 100
    document = json.loads((Path(asked.output) / "scores.json").read_text())
    assert document["scores"] == result.scores
    assert (document["samples"]["clips"], document["reference"]["clips"]) == (9, len(clips_of(real)))
    assert document["metrics"]["fid_2015"]["weights"]["inception_2015"]["sha256"]
    # Scored against themselves, the same clips are at no distance.
    assert sample(replace(asked, metrics=("fid_2015",), reference=asked.output)).scores["fid_2015"] < 1e-3
