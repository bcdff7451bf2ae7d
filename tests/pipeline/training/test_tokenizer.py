"""Training through Ray Train: it learns, goes on after a kill with the same losses, and refuses to go on as another."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.store.plan import RunRefusedError
from pipeline.training.config import (
    DataFlags,
    GanFlags,
    LossFlags,
    ModelFlags,
    OptimizerFlags,
    ParallelFlags,
    TrainConfig,
    WatchFlags,
)
from pipeline.training.fit import NonFiniteLossError
from pipeline.training.tokenizer import train
from vitok.model.checkpoint import load_checkpoint, read_latent_statistics

pytestmark = pytest.mark.cluster

FLAGS = {
    "variant": "N-N/2x8",
    "latent-channels": "4",
    "batch-size": "4",
    "learning-rate": "2.4e-2",
    "lpips-weight": "0",
    "precision": "float32",
    "log-every": "1",
    "checkpoint-every": "5",
}


def config(clips, output, *, max_steps, **others):
    """What `FLAGS` say."""
    return TrainConfig(
        shards=(str(clips),),
        output=str(output),
        model=ModelFlags(variant="N-N/2x8", latent_channels=4),
        data=others.pop("data", DataFlags(batch_size=4)),
        optimizer=OptimizerFlags(
            max_steps=max_steps, learning_rate=2.4e-2, precision="float32", **others.pop("optimizer", {})
        ),
        loss=LossFlags(lpips_weight=0.0, **others.pop("loss", {})),
        watch=WatchFlags(log_every=1, checkpoint_every=5, **others.pop("watch", {})),
        **others,
    )


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    prepare(
        PrepareConfig(
            input=(str(corpus),), output=str(output), resolution=32, num_frames=4, tubelet="2x8", shard_size=8
        )
    )
    return output


def curve(output, name="tokenizer/total"):
    (state,) = output.glob("checkpoints/*/state.json")
    points = json.loads(state.read_bytes())["curve"]
    return {point["step"]: point["values"][name] for point in points if name in point["values"]}


def scalars(output):
    """Steps by name of every scalar in TensorBoard's files (records: length, checksum, data, checksum)."""
    found = {}
    for file in sorted((output / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def start_and_wait_for_a_checkpoint(start_job, clips, output, *more):
    flags = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
    process = start_job("train", "--shards", str(clips), "--output", str(output), "--max-steps", "45", *flags, *more)
    while not list(output.glob("checkpoints/*/state.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


def test_it_learns_and_shows_how(clips, tmp_path):
    asked = config(clips, tmp_path, max_steps=30, watch={"validation": str(clips), "validate_every": 10})
    summary = train(asked)
    assert (summary.steps, summary.resumed_steps, summary.clips) == (30, 0, 120)
    losses = list(curve(tmp_path).values())
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000030"]

    held_out = curve(tmp_path, "validation/psnr")
    assert list(held_out) == [10, 20, 30]
    assert held_out[30] > held_out[10]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "step-00000030.png"))
    assert picture.shape == (2 * 32, 8 * 32, 3)
    assert "Held-out clips: PSNR" in (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = scalars(tmp_path)
    assert seen["tokenizer/pixel"] == list(range(1, 31))
    assert {"tokenizer/kl", "tokenizer/gradient_norm", "tokenizer/learning_rate", "rate/clips_per_second"} <= set(seen)
    assert {"validation/ssim", "validation/active_channels", "rate/mfu"} <= set(seen)

    assert read_latent_statistics(summary.tokenizer) is not None
    again = train(asked)
    assert (again.steps, again.resumed_steps, again.seconds) == (0, 30, 0.0)


def test_a_killed_training_goes_on_with_the_losses_of_one_that_was_not(clips, start_job, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(config(clips, undisturbed, max_steps=45))

    process = start_and_wait_for_a_checkpoint(start_job, clips, killed)
    process.kill()
    process.wait()
    assert not (killed / "tokenizer" / "config.json").exists(), "it ended before the kill, which then proves nothing"

    with pytest.raises(RunRefusedError, match=r"recipe\.kl_weight: 0\.001, now 0\.1"):
        train(config(clips, killed, max_steps=45, loss={"kl_weight": 0.1}))
    summary = train(config(clips, killed, max_steps=45))
    assert summary.resumed_steps >= 5
    assert summary.steps >= 20, "too few steps after the kill to prove anything"
    assert summary.steps + summary.resumed_steps == 45
    assert curve(killed) == curve(undisturbed)  # to the last bit
    whole, resumed = (load_checkpoint(str(folder / "tokenizer")).state_dict() for folder in (undisturbed, killed))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_killed_worker_is_started_again(clips, start_job, tmp_path):
    process = start_and_wait_for_a_checkpoint(start_job, clips, tmp_path, "--num-workers", "2")
    os.kill(training_workers(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "goes on after step" in output
    losses = list(curve(tmp_path).values())
    assert len(losses) == 45
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_what_two_workers_began_in_parts_one_goes_on_with(clips, start_job, tmp_path):
    process = start_and_wait_for_a_checkpoint(start_job, clips, tmp_path, "--num-workers", "2", "--strategy", "fsdp")
    process.kill()
    process.wait()
    (state,) = tmp_path.glob("checkpoints/*/state.json")
    assert json.loads(state.read_bytes())["num_parts"] == 2
    summary = train(config(clips, tmp_path, max_steps=45))
    assert 5 <= summary.resumed_steps < 45
    losses = list(curve(tmp_path).values())
    assert len(losses) == 45
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def training_workers(driver):
    """Process ids of the training workers below a driver."""
    rows = [
        row.split(None, 2)
        for row in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[
            1:
        ]
    ]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def below(pid):
        while pid in parents:
            if pid == driver:
                return True
            pid = parents[pid]
        return False

    return [int(pid) for pid, _, name in rows if "RayTrainWorker" in name and below(int(pid))]


def test_stage_two_goes_on_from_a_tokenizer_and_leaves_its_encoder(clips, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(tokenizer).parent)  # workers run elsewhere, and a relative path must hold for them too
    gan = GanFlags(gan_start_step=1, gan_ramp_steps=2, discriminator_warmup_steps=0, discriminator_channels=8)
    summary = train(
        config(
            clips,
            tmp_path,
            max_steps=6,
            optimizer={"ema_decay": 0.5},
            stage=2,
            tokenizer=Path(tokenizer).name,
            gan=gan,
            parallel=ParallelFlags(num_workers=2, strategy="fsdp"),
        )
    )
    assert {"tokenizer/gan", "discriminator/real", "discriminator/gradient_norm"} <= set(scalars(tmp_path))
    before, after = (load_checkpoint(folder).state_dict() for folder in (tokenizer, summary.tokenizer))
    frozen = ("tubelet_embed", "encoder.", "encoder_to_code")
    assert all(torch.equal(before[name], after[name]) == name.startswith(frozen) for name in before)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_keys_on_disk(clips, tmp_path):
    with pytest.raises(NonFiniteLossError, match="stopped/step-0000"):
        train(config(clips, tmp_path, max_steps=20, loss={"kl_weight": 1e38}))
    (record,) = (tmp_path / "stopped").iterdir()
    keys = json.loads(record.read_bytes())["keys"]
    assert len(keys) == 4
    assert not (tmp_path / "tokenizer").exists()
