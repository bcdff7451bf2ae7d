"""Training checkpoints: what is put in comes out, bit for bit, and a half-written one is none."""

import pytest
import torch

from pipeline.store.files import Folder
from pipeline.training.checkpoint import CurvePoint, Progressed, latest_step, load_training, save_training
from pipeline.training.parallel import Parallel
from pipeline.training.player import Player, Schedule
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder

ALONE = Parallel(rank=0, world_size=1, device=torch.device("cpu"), strategy="ddp")
SCHEDULE = Schedule(peak=1e-3, warmup_steps=2, max_steps=10)


def player(*, seed=0, latent_channels=4):
    torch.manual_seed(seed)
    model = AutoEncoder(AutoEncoderConfig.from_name("N-N/1x8", latent_channels=latent_channels))
    return Player("tokenizer", model, model, schedule=SCHEDULE, weight_decay=1e-4, max_grad_norm=1.0, ema_decay=0.9)


def take(player, steps):
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 1, 16, 16)
    for step in steps:
        player.module(pixels, sample=False).pixels.square().mean().backward()
        player.step(step)


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    folder = Folder(str(tmp_path))
    straight, stopped, resumed = player(), player(), player(seed=1)
    take(straight, range(3))
    take(stopped, range(2))
    progressed = Progressed(step=2, used={"0/grid=1x2x2": 8}, curve=(CurvePoint(step=2, values={"loss": 0.1}),))
    save_training(folder, [stopped], progressed, ALONE)

    assert latest_step(folder) == 2
    assert load_training(folder, 2, [resumed]) == progressed
    take(resumed, [2])
    found = dict(resumed.tensors())
    for name, value in straight.tensors():
        assert torch.equal(value, found[name]), name
    assert {name.partition("/")[0] for name in found} == {"weights", "ema", "adamw"}


def test_a_newer_checkpoint_replaces_an_older_one_and_a_partial_one_does_not_count(tmp_path):
    folder, trained = Folder(str(tmp_path)), player()
    take(trained, [0])
    for step in (1, 2):
        save_training(folder, [trained], Progressed(step=step, used={}), ALONE)
    assert latest_step(folder) == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]

    save_training(folder, [trained], Progressed(step=3, used={}), ALONE)
    (tmp_path / "checkpoints" / "step-00000003" / "state.json").unlink()
    assert latest_step(folder) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    folder, trained = Folder(str(tmp_path)), player()
    take(trained, [0])
    save_training(folder, [trained], Progressed(step=1, used={}), ALONE)
    with pytest.raises(
        ValueError, match=r"of another shape, the first 'tokenizer/adamw/code_to_decoder\.weight/exp_avg'"
    ):
        load_training(folder, 1, [player(latent_channels=8)])


def test_the_learning_rate_warms_up_and_falls():
    rates = [SCHEDULE.at(step) for step in range(11)]
    assert rates[:3] == [5e-4, 1e-3, 1e-3]
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[10] == pytest.approx(0.0, abs=1e-12)
    assert Schedule(peak=2e-5, warmup_steps=0, max_steps=None).at(10**6) == 2e-5
