"""Our own checkpoint through the adapter is the model itself, to the bit."""

import pytest
import torch

from vitok.adapters.load import load_adapter
from vitok.adapters.own import OwnAdapter
from vitok.config import AutoEncoderConfig, Grid, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import fingerprint, load_checkpoint, save_checkpoint


@torch.inference_mode()
def test_it_is_the_model(tokenizer):
    adapter, model = load_adapter(tokenizer), load_checkpoint(tokenizer).eval()
    pixels = torch.rand(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = model.encode(pixels)
    posterior = adapter.encode(pixels)
    assert torch.equal(posterior.mean, expected.mean)
    assert torch.equal(posterior.logvar, expected.logvar)
    assert torch.equal(adapter.decode(expected.mean, num_frames=3), model.decode(expected.mean, num_frames=3))
    assert adapter.fingerprint == fingerprint(model)


def test_it_is_described_by_its_config(tokenizer):
    adapter = load_adapter(tokenizer)
    assert isinstance(adapter, OwnAdapter)
    description = adapter.describe({(4, 16, 24)})
    assert AutoEncoderConfig.from_json(description.config) == AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)
    assert (description.channels, description.learns_variance) == (4, True)
    assert adapter.tubelet == Tubelet(frames=2, patch=8)
    assert description.grid_of((4, 16, 24)) == Grid(frames=2, height=2, width=3)
    assert description.grid_of((1, 16, 16)) == Grid(frames=1, height=2, width=2)
    with pytest.raises(ValueError, match="multiples of 8"):
        adapter.describe({(4, 16, 20)})


def test_statistics_of_its_training_are_no_rule(tmp_path):
    model = AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=2))
    save_checkpoint(str(tmp_path), model, latents_mean=[0.0, 1.0], latents_std=[1.0, 2.0])
    assert load_adapter(str(tmp_path)).describe([]).rule is None


def test_a_folder_with_nothing_in_it_is_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        load_adapter(str(tmp_path))
