"""Training checkpoints: what is put in comes out, bit for bit, and a half-written one is none."""

import pytest
import torch

from pipeline.store.files import Folder
from pipeline.training.checkpoint import CurvePoint, Progressed, latest_step, load_training, save_training
from vitok.config import AutoEncoderConfig
from vitok.losses.reconstruction import stage_one_loss
from vitok.model.autoencoder import AutoEncoder

CONFIG = AutoEncoderConfig.from_name("N-N/1x8", latent_channels=4)


def trained(steps):
    torch.manual_seed(0)
    model = AutoEncoder(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    take_steps(model, optimizer, steps)
    return model, optimizer


def take_steps(model, optimizer, steps):
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 1, 16, 16)
    for _ in range(steps):
        optimizer.zero_grad()
        stage_one_loss(model(pixels, sample=False), pixels).total.backward()
        optimizer.step()


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    folder = Folder(str(tmp_path))
    straight, straight_optimizer = trained(3)
    stopped, stopped_optimizer = trained(2)
    curve = (CurvePoint(step=2, loss=0.25, reconstruction=0.2, kl=0.1),)
    save_training(folder, stopped, stopped_optimizer, Progressed(step=2, curve=curve))

    torch.manual_seed(1)
    resumed = AutoEncoder(CONFIG)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
    assert latest_step(folder) == 2
    assert load_training(folder, 2, resumed, optimizer) == Progressed(step=2, curve=curve)
    take_steps(resumed, optimizer, 1)
    take_steps(straight, straight_optimizer, 0)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_newer_checkpoint_replaces_an_older_one_and_a_partial_one_does_not_count(tmp_path):
    folder = Folder(str(tmp_path))
    model, optimizer = trained(1)
    for step in (1, 2):
        save_training(folder, model, optimizer, Progressed(step=step, curve=()))
    assert latest_step(folder) == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]

    save_training(folder, model, optimizer, Progressed(step=3, curve=()))
    (tmp_path / "checkpoints" / "step-00000003" / "state.json").unlink()
    assert latest_step(folder) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    folder = Folder(str(tmp_path))
    model, optimizer = trained(1)
    save_training(folder, model, optimizer, Progressed(step=1, curve=()))
    other = AutoEncoder(AutoEncoderConfig.from_name("N-N/1x8", latent_channels=8))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_training(folder, 1, other, torch.optim.AdamW(other.parameters()))
