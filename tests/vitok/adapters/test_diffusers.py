"""Models of diffusers give behind the adapter what they give alone; folders of them are read whole or not at all."""

import json
import sys

import fsspec
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from tests.vitok.adapters.models import CHANNELS, CLASSES, CONFIGS, VIDEO, make
from vitok.adapters.diffusers import KINDS, WEIGHTS_NAME, DiffusersAdapter
from vitok.adapters.load import MissingPackageError, load_adapter
from vitok.config import Grid, Tubelet
from vitok.model.checkpoint import ChannelStatistics

GRIDS = {
    ("AutoencoderKL", (1, 32, 48)): Grid(frames=1, height=4, width=6),
    ("AutoencoderKL", (5, 32, 48)): Grid(frames=5, height=4, width=6),
    ("AutoencoderDC", (1, 32, 48)): Grid(frames=1, height=16, width=24),
    ("AutoencoderDC", (5, 32, 48)): Grid(frames=5, height=16, width=24),
    ("AutoencoderKLWan", (1, 32, 48)): Grid(frames=1, height=8, width=12),
    ("AutoencoderKLWan", (5, 32, 48)): Grid(frames=2, height=8, width=12),
    ("AutoencoderKLWan", (9, 32, 48)): Grid(frames=3, height=8, width=12),
    ("AutoencoderKLCosmos", (1, 32, 48)): Grid(frames=1, height=4, width=6),
    ("AutoencoderKLCosmos", (9, 32, 48)): Grid(frames=2, height=4, width=6),
}


def clips(shape, seed=0, count=2):
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def saved(tmp_path):
    """Folder of a small model as its own class saves it."""

    def save(name, folder="model", **changes):
        make(name, **changes).save_pretrained(tmp_path / folder)
        return tmp_path / folder

    return save


def edited(folder, edit, name="config.json"):
    document = json.loads((folder / name).read_text())
    edit(document)
    (folder / name).write_text(json.dumps(document))


def own_moments(name, model, pixels):
    """Mean and log-variance [B, K, T', H', W'] by the class itself, frame after frame where it takes images."""
    if name in VIDEO:
        posterior = model.encode(pixels).latent_dist
        return posterior.mode(), getattr(posterior, "logvar", None)
    parts = [model.encode(pixels[:, :, frame]) for frame in range(pixels.shape[2])]
    if name == "AutoencoderDC":
        return torch.stack([part.latent for part in parts], 2), None
    posteriors = [part.latent_dist for part in parts]
    return torch.stack([part.mean for part in posteriors], 2), torch.stack([part.logvar for part in posteriors], 2)


@pytest.mark.parametrize(("name", "shape"), GRIDS)
@torch.inference_mode()
def test_a_loaded_model_gives_what_its_class_gives(name, shape, saved):
    model, adapter, pixels = make(name), load_adapter(str(saved(name))), clips(shape)
    mean, logvar = own_moments(name, model, pixels)
    posterior = adapter.encode(pixels)
    torch.testing.assert_close(posterior.mean, rearrange(mean, "b k t h w -> b t h w k"))
    assert (posterior.logvar is None) == (logvar is None) == (name in ("AutoencoderDC", "AutoencoderKLCosmos"))
    if logvar is not None:
        torch.testing.assert_close(posterior.logvar, rearrange(logvar, "b k t h w -> b t h w k"))

    decoded = adapter.decode(posterior.mode(), num_frames=shape[0])
    if name in VIDEO:
        expected = model.decode(mean).sample
    else:
        expected = torch.stack([model.decode(mean[:, :, frame]).sample for frame in range(shape[0])], 2)
    assert decoded.shape == pixels.shape
    torch.testing.assert_close(decoded, expected)


@pytest.mark.parametrize(("name", "shape"), GRIDS)
@torch.inference_mode()
def test_the_grid_is_known_before(name, shape):
    adapter = DiffusersAdapter(make(name))
    description = adapter.describe([shape])
    assert description.grid_of(shape) == GRIDS[name, shape]
    posterior = adapter.encode(clips(shape))
    grid = GRIDS[name, shape]
    assert posterior.mean.shape == (2, grid.frames, grid.height, grid.width, description.channels)
    assert posterior.mean.dtype == torch.float32
    assert description.channels == CHANNELS[name]
    assert description.learns_variance == (posterior.logvar is not None)
    assert adapter.tubelet == Tubelet(frames=1, patch=shape[1] // grid.height)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [("AutoencoderKL", 2), ("AutoencoderDC", 2), ("AutoencoderKLWan", 5), ("AutoencoderKLCosmos", 1)],
)
@torch.inference_mode()
def test_a_compiler_takes_the_networks_whole_and_as_they_are(name, num_frames):
    plain, compiled = DiffusersAdapter(make(name)), DiffusersAdapter(make(name))
    compiled.compile()
    pixels = clips((num_frames, 32, 32))
    posterior = plain.encode(pixels)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError):
        compiled.encode(pixels)  # so there is something to compile
    # All up to the kernels, which take minutes to write.
    with torch.compiler.set_stance(force_backend="aot_eager"):
        torch.testing.assert_close(compiled.encode(pixels).mean, posterior.mean)
        decoded = compiled.decode(posterior.mode(), num_frames=num_frames)
    torch.testing.assert_close(decoded, plain.decode(posterior.mode(), num_frames=num_frames))


@pytest.mark.parametrize("name", CLASSES)
@torch.inference_mode()
def test_half_precision_gives_a_posterior_of_float32(name):
    adapter = DiffusersAdapter(make(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = adapter.encode(clips((1, 32, 32)))
    assert posterior.mean.dtype == torch.float32
    assert posterior.mean.isfinite().all()


@pytest.mark.parametrize(
    ("name", "shape", "fits"),
    [
        ("AutoencoderKL", (4, 36, 32), "4x32x32"),
        ("AutoencoderDC", (4, 32, 33), "4x32x32"),
        ("AutoencoderKLWan", (16, 32, 32), "13x32x32"),
        ("AutoencoderKLWan", (3, 32, 34), "1x32x32"),
        ("AutoencoderKLCosmos", (16, 3, 32), "9x8x32"),
    ],
)
def test_clips_that_do_not_fit_are_refused_by_name_with_what_does(name, shape, fits):
    adapter = DiffusersAdapter(make(name))
    with pytest.raises(ValueError, match=rf"{name} takes clips of .*{'x'.join(map(str, shape))} \(fits: {fits}\)"):
        adapter.describe([shape, (1, 32, 32)])
    with pytest.raises(ValueError, match=rf"fits: {fits}"):
        adapter.describe([]).grid_of(shape)
    with pytest.raises(ValueError, match=rf"fits: {fits}"):
        adapter.encode(clips(shape))


@pytest.mark.parametrize(("name", "latents", "frames"), [("AutoencoderKL", 2, 3), ("AutoencoderKLWan", 2, 4)])
def test_decoding_refuses_another_length(name, latents, frames):
    with pytest.raises(ValueError, match=rf"num_frames: got {frames}, expected"):
        DiffusersAdapter(make(name)).decode(torch.zeros(1, latents, 2, 2, CHANNELS[name]), num_frames=frames)


def test_a_config_that_its_class_cannot_keep_is_found_in_encoding():
    model = make("AutoencoderKLWan")
    model.register_to_config(temperal_downsample=[True, False])
    with pytest.raises(ValueError, match="became 2x8x8 latents, by its config 3x8x8"):
        DiffusersAdapter(model).encode(clips((5, 32, 32)))


@pytest.mark.parametrize("name", CLASSES)
def test_the_fingerprint_stays_through_saving_and_loading(name, saved, tmp_path):
    expected = DiffusersAdapter(make(name)).fingerprint
    assert load_adapter(str(saved(name))).fingerprint == expected
    CLASSES[name].from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert load_adapter(str(tmp_path / "again")).fingerprint == expected


def test_every_class_has_a_fingerprint_of_its_own():
    assert len({DiffusersAdapter(make(name)).fingerprint for name in KINDS}) == len(KINDS)


@pytest.mark.parametrize("name", CLASSES)
def test_one_weight_or_one_key_makes_another_fingerprint(name):
    expected = DiffusersAdapter(make(name)).fingerprint
    model = make(name)
    with torch.no_grad():
        next(model.decoder.parameters()).view(-1)[0] += 1e-3
    assert DiffusersAdapter(model).fingerprint != expected
    key = "latents_mean" if name in VIDEO else "scaling_factor"
    changed = [0.0] * 4 if name in VIDEO else 0.5
    assert DiffusersAdapter(make(name, **{key: changed})).fingerprint != expected


def test_what_the_file_says_of_its_writer_is_no_part_of_the_fingerprint(saved):
    folder = saved("AutoencoderKL")
    expected = load_adapter(str(folder)).fingerprint

    def of_another_version(config):
        config["_diffusers_version"] = "0.30.0"
        config["_name_or_path"] = "somewhere/else"
        config["key_of_the_future"] = 1
        del config["mid_block_add_attention"]  # unknown to older versions, which had what is now the default

    edited(folder, of_another_version)
    assert load_adapter(str(folder)).fingerprint == expected


def test_a_model_says_its_class_and_config_as_json_and_states_its_rule(saved):
    description = load_adapter(str(saved("AutoencoderKL"))).describe([])
    assert json.loads(json.dumps(description.config)) == description.config
    assert description.config["adapter"] == "diffusers"
    assert description.config["class"] == "AutoencoderKL"
    assert description.config["config"]["block_out_channels"] == [8, 8, 16, 16]
    assert not [key for key in description.config["config"] if key.startswith("_")]
    assert description.rule == ChannelStatistics(mean=(0.1159,) * 4, std=(1 / 0.3611,) * 4)


@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_a_folder_is_read_through_any_file_system(saved, max_shard_size, tmp_path):
    model = make("AutoencoderKL")
    model.save_pretrained(tmp_path / "model", max_shard_size=max_shard_size)
    assert (tmp_path / "model" / WEIGHTS_NAME).exists() == (max_shard_size == "10GB")
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "model").iterdir():
        memory.pipe_file(f"/vae-{max_shard_size}/{path.name}", path.read_bytes())
    adapter = load_adapter(f"memory://vae-{max_shard_size}")
    assert adapter.fingerprint == DiffusersAdapter(model).fingerprint


def test_an_unknown_class_is_refused_with_the_known_ones(saved):
    folder = saved("AutoencoderKL")
    edited(folder, lambda config: config.update(_class_name="VQModel"))
    with pytest.raises(ValueError, match="'VQModel', expected one of AutoencoderKL, AutoencoderDC, AutoencoderKLWan, "):
        load_adapter(str(folder))


def test_a_pickle_is_not_read(saved, tmp_path):
    folder = saved("AutoencoderKL")
    torch.save(load_file(folder / WEIGHTS_NAME), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="never from a pickle: save the model with save_pretrained"):
        load_adapter(str(folder))


def rename(tensors):
    tensors["stranger"] = tensors.pop("encoder.conv_in.weight")


def reshape(tensors):
    tensors["encoder.conv_in.bias"] = torch.zeros(3)


@pytest.mark.parametrize(("spoil", "named"), [(rename, "encoder.conv_in.weight"), (reshape, "encoder.conv_in.bias")])
def test_weights_that_do_not_fit_are_never_filled_up(saved, spoil, named):
    folder = saved("AutoencoderKL")
    tensors = load_file(folder / WEIGHTS_NAME)
    spoil(tensors)
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=named):
        load_adapter(str(folder))


def test_a_damaged_file_of_weights_is_one_error(saved):
    folder = saved("AutoencoderKL")
    (folder / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes()[:1000])
    with pytest.raises(ValueError, match=WEIGHTS_NAME):
        load_adapter(str(folder))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("AutoencoderKL", {"in_channels": 4}),
        ("AutoencoderKL", {"out_channels": 1}),
        ("AutoencoderKLWan", {"in_channels": 12, "out_channels": 12}),
    ],
)
def test_pixels_of_other_channels_are_refused(name, changes):
    with pytest.raises(ValueError, match=r"_channels: got \d+, expected 3"):
        DiffusersAdapter(make(name, **changes))


@torch.inference_mode()
def test_wan_with_folded_pixels_has_twice_the_patch():
    adapter = DiffusersAdapter(make("AutoencoderKLWan", in_channels=12, out_channels=12, patch_size=2))
    posterior = adapter.encode(clips((5, 32, 32)))
    assert posterior.mean.shape == (2, 2, 4, 4, 4)
    assert adapter.decode(posterior.mean, num_frames=5).shape == (2, 3, 5, 32, 32)


def test_a_whole_pipeline_is_refused_with_the_way_to_its_auto_encoder(saved, tmp_path):
    saved("AutoencoderKL", "vae")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="give the folder of its auto-encoder, vae"):
        load_adapter(str(tmp_path))


@pytest.mark.parametrize(("text", "message"), [("{]", "no JSON"), ("{}", "neither one of ours"), ("[]", "neither one")])
def test_a_config_of_nothing_known_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_adapter(str(tmp_path))


def test_without_diffusers_the_way_to_install_it_is_said(saved, monkeypatch):
    folder = saved("AutoencoderKL")
    monkeypatch.setitem(sys.modules, "diffusers", None)  # what Python itself takes for absent
    with pytest.raises(MissingPackageError, match=r"pip install 'vitok-latents\[diffusers\]'") as error:
        load_adapter(str(folder))
    assert isinstance(error.value, ImportError)


def test_every_class_that_is_told_as_known_is_tested():
    assert set(KINDS) == set(CONFIGS)
