"""Checkpoints come back whole or not at all, those of before as well."""

import dataclasses
import json
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import (
    ChannelStatistics,
    fingerprint,
    from_tensors,
    load_checkpoint,
    read_latent_statistics,
    save_checkpoint,
)

VERSION_1 = Path(__file__).parents[2] / "golden" / "checkpoint_v1"
"""Written by the code of format version 1."""
VERSION_1_FINGERPRINT = "92dde4580e7ba0cccb1a692eab0ca48e25d290b7a5eff757536d58758449146f"
STATISTICS = {"latents_mean": [0.5, -1.0, 0.0], "latents_std": [1.0, 2.0, 0.25]}

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=12, depth=1, num_heads=1),
    decoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=3,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoEncoder(CONFIG)


@pytest.fixture
def folder(tmp_path, model):
    folder = tmp_path / "run" / "step-1"
    save_checkpoint(str(folder), model, {"step": 1})
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def assert_same(first, second):
    assert first.config == second.config
    assert fingerprint(first) == fingerprint(second)
    pixels = torch.rand(1, 3, 3, 8, 8)
    assert torch.equal(first(pixels, sample=False).pixels, second(pixels, sample=False).pixels)


def test_round_trip(model, folder):
    assert_same(load_checkpoint(str(folder)), model)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["training"] == {"step": 1}


def test_round_trip_on_another_file_system(model):
    save_checkpoint("memory://bucket/run", model)
    assert_same(load_checkpoint("memory://bucket/run"), model)
    description = json.loads(fsspec.filesystem("memory").cat_file("/bucket/run/config.json"))
    assert "training" not in description


def test_round_trip_keeps_half_precision(tmp_path, model):
    save_checkpoint(str(tmp_path), model.bfloat16())
    loaded = load_checkpoint(str(tmp_path))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert fingerprint(loaded) == fingerprint(model)


def test_a_loaded_model_can_be_trained(folder):
    loaded = load_checkpoint(str(folder))
    loaded(torch.rand(1, 3, 2, 8, 8)).pixels.sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_saving_again_replaces(model, folder):
    with torch.no_grad():
        model.encoder_to_code.bias.add_(1.0)
    save_checkpoint(str(folder), model, {"step": 2})
    assert_same(load_checkpoint(str(folder)), model)


def test_the_same_model_gives_the_same_bytes(tmp_path, model, folder):
    save_checkpoint(str(tmp_path / "again"), load_checkpoint(str(folder)), {"step": 1})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_fingerprint_sees_one_bit_of_any_tensor(model):
    seen = {fingerprint(model)}
    for tensor in model.state_dict().values():
        tensor.view(torch.int32).flatten()[-1] ^= 1
        seen.add(fingerprint(model))
    assert len(seen) == 1 + len(model.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "geglu"},
        {"rope_theta": 100.0},
        {"layer_norm_eps": 1e-6},
        {"positions": "rope1d"},
        {"positions": "sincos3d"},
        {"positions": "none"},
    ],
)
def test_fingerprint_sees_configs_that_share_every_tensor(model, change):
    other = AutoEncoder(dataclasses.replace(CONFIG, **change))
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) != fingerprint(model)


def test_fingerprint_sees_which_name_a_tensor_has(model):
    before = fingerprint(model)
    with torch.no_grad():
        mlp = model.encoder.blocks[0].mlp
        mlp.fc1.weight.data, mlp.fc2.weight.data = mlp.fc2.weight.data, mlp.fc1.weight.data
    assert fingerprint(model) != before


def test_a_folder_without_config_is_no_checkpoint(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_checkpoint(str(folder))


def test_a_record_that_is_no_json_costs_nothing(model, folder):
    before = fingerprint(load_checkpoint(str(folder)))
    with torch.no_grad():
        model.encoder_to_code.bias.add_(1.0)
    with pytest.raises(ValueError, match="JSON compliant"):
        save_checkpoint(str(folder), model, {"loss": float("nan")})
    assert fingerprint(load_checkpoint(str(folder))) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format is 'other', expected 'vitok-autoencoder'"),
        ({"format_version": 3}, "format_version is 3, expected 1 or 2"),
        ({"format_version": [2]}, r"format_version is \[2\], expected 1 or 2"),
        ({"format_version": 1, **STATISTICS}, r"unknown keys \['latents_mean', 'latents_std'\]"),
        ({"autoencoder": dataclasses.replace(CONFIG, positions="rope1d").to_json()}, "changed after saving"),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"fingerprint": None}, r"missing keys \['fingerprint'\]"),
        ({"autoencoder": 5}, "autoencoder is 5"),
        ({"autoencoder": {}}, "missing keys"),
        ({"autoencoder": dataclasses.replace(CONFIG, activation="geglu").to_json()}, "changed after saving"),
        (
            {"autoencoder": dataclasses.replace(CONFIG, latent_channels=4).to_json()},
            r"code_to_decoder.weight is \(24, 3\)",
        ),
    ],
)
def test_other_configs_are_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop("encoder.norm.bias"), r"missing tensors \['encoder.norm.bias'\]"),
        (lambda tensors: tensors.update(posemb=torch.zeros(1)), r"unknown tensors \['posemb'\]"),
        (lambda tensors: tensors.update({"encoder.norm.bias": torch.zeros(2)}), r"encoder.norm.bias is \(2,\)"),
        (lambda tensors: tensors["encoder.norm.bias"].add_(1e-6), "changed after saving"),
        (lambda tensors: tensors.update({"encoder.norm.bias": torch.zeros(12).half()}), "changed after saving"),
    ],
)
def test_other_tensors_are_refused(folder, edit, message):
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(folder))


def test_damaged_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(str(folder))


def test_a_checkpoint_of_version_1_is_the_model_it_was():
    model = load_checkpoint(str(VERSION_1))
    assert json.loads((VERSION_1 / "config.json").read_text())["fingerprint"] == VERSION_1_FINGERPRINT
    assert fingerprint(model) == VERSION_1_FINGERPRINT
    assert (model.config.positions, model.config.bottleneck) == ("rope3d", "kl")
    pixels = torch.linspace(-1, 1, 3 * 4 * 4 * 6).reshape(1, 3, 4, 4, 6)
    with torch.no_grad():
        posterior = model.encode(pixels)
        reconstruction = model.decode(posterior.mode())
    golden = {
        posterior.mean[0, 1, 0, 2]: [1.0123205, -0.9789078],
        posterior.logvar[0, 1, 1, 0]: [-0.7372092, 1.9370865],
        reconstruction[0, :, 3, 1, 4]: [0.1168082, -0.0924812, 0.4728168],
    }
    for found, expected in golden.items():
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_checkpoint_of_version_1_saved_again_keeps_its_fingerprint(tmp_path):
    save_checkpoint(str(tmp_path), load_checkpoint(str(VERSION_1)))
    description = json.loads((tmp_path / "config.json").read_text())
    assert description["format_version"] == 2
    assert description["autoencoder"]["positions"] == "rope3d"
    assert description["fingerprint"] == VERSION_1_FINGERPRINT
    assert read_latent_statistics(str(VERSION_1)) is None


@pytest.mark.parametrize(
    "change", [{"positions": "none"}, {"bottleneck": "layer_norm"}, {"bottleneck": "tanh", "bottleneck_noise": 0.5}]
)
def test_round_trip_of_options(tmp_path, change):
    torch.manual_seed(0)
    model = AutoEncoder(dataclasses.replace(CONFIG, **change))
    save_checkpoint(str(tmp_path), model)
    assert_same(load_checkpoint(str(tmp_path)), model)


def test_fingerprint_tells_bottlenecks_with_the_same_tensors_apart():
    bottlenecks = [{"bottleneck": "layer_norm"}, {"bottleneck": "tanh"}, {"bottleneck": "none"}]
    changes = [*bottlenecks, {"bottleneck": "tanh", "bottleneck_noise": 0.2}]
    first = AutoEncoder(dataclasses.replace(CONFIG, **changes[0]))
    models = [from_tensors(dataclasses.replace(CONFIG, **c), first.state_dict(), where="here") for c in changes]
    assert len({fingerprint(model) for model in models}) == 4


def test_statistics_come_back_and_are_no_part_of_the_fingerprint(tmp_path, model):
    save_checkpoint(str(tmp_path), model, **STATISTICS)
    assert read_latent_statistics(str(tmp_path)) == ChannelStatistics(mean=(0.5, -1.0, 0.0), std=(1.0, 2.0, 0.25))
    description = json.loads((tmp_path / "config.json").read_text())
    assert {name: description[name] for name in STATISTICS} == STATISTICS
    assert_same(load_checkpoint(str(tmp_path)), model)


def test_a_checkpoint_without_statistics_has_none(folder):
    assert read_latent_statistics(str(folder)) is None


def test_statistics_of_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_latent_statistics(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_std": None}, "latents_mean has 3 channels, latents_std 0"),
        ({"latents_mean": None}, "latents_mean has 0 channels, latents_std 3"),
        ({"latents_std": [1.0, 1.0]}, "latents_mean has 3 channels, latents_std 2"),
        ({"latents_mean": [0.0], "latents_std": [1.0]}, "have 1 channels, the model has 3"),
        ({"latents_mean": [0.0, 0.0, float("nan")]}, "latents_mean: got .*nan.*, expected finite"),
        ({"latents_std": [1.0, 0.0, 1.0]}, "latents_std: got .*expected finite numbers above 0"),
        ({"latents_std": [1.0, float("inf"), 1.0]}, "latents_std: got .*inf"),
    ],
)
def test_statistics_that_cannot_be_are_neither_written_nor_read(folder, model, changes, message):
    statistics = {**STATISTICS, **changes}
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        save_checkpoint(str(folder), model, **statistics)
    assert (folder / "config.json").read_bytes() == before
    edit_config(folder, **statistics)
    with pytest.raises(ValueError, match=message):
        read_latent_statistics(str(folder))


@pytest.mark.parametrize("value", [1.0, "1 1 1", [1.0, "1", 1.0], [1.0, True, 1.0]])
def test_statistics_that_are_no_lists_of_numbers_are_refused(folder, value):
    edit_config(folder, latents_mean=value, latents_std=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"config\.json: latents_mean is .*, expected a list of numbers"):
        read_latent_statistics(str(folder))
