"""Generators as folders: what was saved comes back, and nothing else does."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitok.config import Grid
from vitok.generator.checkpoint import Generator, load_generator, save_generator
from vitok.generator.config import DitConfig, GeneratorConfig
from vitok.generator.dit import Dit
from vitok.model.checkpoint import load_checkpoint

CONFIG = GeneratorConfig(
    dit=DitConfig.from_name("N", latent_channels=4, num_classes=2),
    process="diffusion",
    classes=("cat", "dog"),
    grids=(Grid(frames=1, height=2, width=2),),
    num_frames=(1,),
    latents_mean=(0.0,) * 4,
    latents_std=(1.0,) * 4,
    tokenizer_fingerprint="f" * 64,
)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(config=CONFIG, network=Dit(CONFIG.dit))


@pytest.fixture
def folder(tmp_path, generator):
    save_generator(str(tmp_path), generator, {"steps": 1})
    return tmp_path


@pytest.mark.parametrize("url", ["{}", "memory://bucket/generator"])
def test_round_trip(generator, tmp_path, url):
    save_generator(url.format(tmp_path), generator)
    loaded = load_generator(url.format(tmp_path))
    assert loaded.config == generator.config
    assert loaded.fingerprint == generator.fingerprint
    state = loaded.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in generator.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())


def test_the_same_generator_gives_the_same_bytes(generator, folder, tmp_path):
    save_generator(str(tmp_path / "again"), load_generator(str(folder)), {"steps": 1})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_fingerprint_sees_the_config(generator):
    others = [
        dataclasses.replace(CONFIG, classes=("dog", "cat")),
        dataclasses.replace(CONFIG, latents_mean=(0.0, 0.0, 0.0, 1e-9)),
        dataclasses.replace(CONFIG, dit=dataclasses.replace(CONFIG.dit, rope_theta=100.0)),
    ]
    found = {Generator(config=config, network=generator.network).fingerprint for config in (CONFIG, *others)}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: value.update(format="vitok-autoencoder"), "expected 'vitok-generator'"),
        (lambda value: value.update(format_version=2), "format_version is 2, expected 1"),
        (lambda value: value.update(generator=5), "generator is 5, expected an object"),
        (lambda value: value["generator"].update(classes=["dog", "cat"]), "changed after saving"),
        (lambda value: value["generator"]["dit"].update(num_classes=3), "classes: got 2 labels"),
        (lambda value: value.update(surprise=1), r"unknown keys \['surprise'\]"),
    ],
)
def test_other_configs_are_refused(folder, edit, message):
    path = folder / "config.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        load_generator(str(folder))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors["head.proj.bias"].add_(1e-6), "changed after saving"),
        (lambda tensors: tensors.pop("head.proj.bias"), r"missing tensors \['head.proj.bias'\]"),
    ],
)
def test_other_weights_are_refused(folder, edit, message):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message):
        load_generator(str(folder))


def test_a_generator_is_no_tokenizer(folder, tmp_path):
    with pytest.raises(ValueError, match="format is 'vitok-generator', expected 'vitok-autoencoder'"):
        load_checkpoint(str(folder))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_generator(str(tmp_path / "nothing"))
