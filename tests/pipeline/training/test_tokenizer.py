"""Training through Ray Train: it learns, goes on after a kill, and refuses to go on as something else."""

import json
import time

import pytest
import torch

from pipeline.runs.prepare import PrepareConfig, prepare
from pipeline.store.plan import RunRefusedError
from pipeline.training.tokenizer import TrainConfig, train
from vitok.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.cluster

FLAGS = {
    "variant": "N-N/2x8",
    "latent_channels": 4,
    "batch_size": 4,
    "learning_rate": 2.4e-2,
    "precision": "float32",
    "checkpoint_every": 5,
}


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    config = PrepareConfig(
        input=(str(corpus),), output=str(output), resolution=32, num_frames=4, tubelet="2x8", shard_size=8
    )
    prepare(config)
    return output


def curve(output):
    (state,) = output.glob("checkpoints/*/state.json")
    return json.loads(state.read_bytes())["curve"]


def test_two_workers_learn_and_a_second_start_has_nothing_to_do(clips, tmp_path):
    config = TrainConfig(shards=str(clips), output=str(tmp_path), max_steps=30, num_workers=2, **FLAGS)
    summary = train(config)
    assert (summary.steps, summary.resumed_steps) == (30, 0)
    losses = [loss for _, loss, _, _ in curve(tmp_path)]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000030"]
    weights = load_checkpoint(summary.tokenizer).state_dict()
    last = load_checkpoint(str(tmp_path / "checkpoints" / "step-00000030")).state_dict()
    assert all(torch.equal(weights[name], last[name]) for name in weights)

    again = train(config)
    assert (again.steps, again.resumed_steps, again.seconds) == (0, 30, 0.0)


def test_a_killed_training_goes_on_from_its_newest_checkpoint(clips, start_job, tmp_path):
    flags = {name: str(value) for name, value in FLAGS.items()}
    argv = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
    process = start_job("train", "--shards", str(clips), "--output", str(tmp_path), "--max-steps", "40", *argv)
    while not list(tmp_path.glob("checkpoints/*/state.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "tokenizer" / "config.json").exists(), "it ended before the kill, which then proves nothing"

    with pytest.raises(RunRefusedError, match=r"recipe\.kl_weight: 0\.001, now 0\.1"):
        train(TrainConfig(shards=str(clips), output=str(tmp_path), max_steps=40, kl_weight=0.1, **FLAGS))
    summary = train(TrainConfig(shards=str(clips), output=str(tmp_path), max_steps=40, **FLAGS))
    assert summary.resumed_steps >= 5
    assert summary.steps + summary.resumed_steps == 40
    assert [step for step, *_ in curve(tmp_path)] == list(range(1, 41))
