"""What differs between what made a latent store and what is given now is said line by line."""

import json
import shutil

import pytest
import torch

from jobs.explain_staleness import explain_staleness
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.record import StartClock
from pipeline.runs.stale import StaleConfig, why_stale
from pipeline.store.clipshard import ClipShardWriter, read_coded
from pipeline.store.files import Folder
from pipeline.store.index import close_store, open_store
from pipeline.store.ledger import OutcomeRow, commit_shard, read_ledger
from pipeline.store.plan import Plan, RunRefusedError
from schemas.metadata import CLIP_STORE_FORMAT
from schemas.outcome import Outcome, Reason, Stage
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint

pytestmark = pytest.mark.cluster

NAMES = ("astronaut.png", "chelsea.png", "coffee.png")


def prepared(media, output, **changes):
    flags = {"resolution": 32, "num_frames": 4, "tubelet": "2x8", "shard_size": 2, "num_workers": 1}
    return prepare(PrepareConfig(input=tuple(map(str, media)), output=str(output), **flags | changes))


def encoded(clips, tokenizer, output, **changes):
    flags = {"shard_size": 2, "batch_size": 2, "num_workers": 1}
    return encode(EncodeConfig(shards=str(clips), tokenizer=tokenizer, output=str(output), **flags | changes))


def why(store, **given):
    return why_stale(StaleConfig(store=str(store), **{name: str(value) for name, value in given.items()}))


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    prepared([corpus / name for name in NAMES], output)
    return output


@pytest.fixture(scope="module")
def latents(clips, tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("latents")
    encoded(clips, tokenizer, output)
    return output


def other_tokenizer(folder, seed, **config):
    torch.manual_seed(seed)
    model = AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", **{"latent_channels": 4} | config))
    save_checkpoint(str(folder), model)
    return str(folder)


def lose_a_clip(store):
    """Make the first shard of a clip store again, with one clip less, as if it had been rejected."""
    folder = Folder(str(store))
    details = {
        name: open_store(folder, format_name=CLIP_STORE_FORMAT).document[name] for name in ("preprocessing", "columns")
    }
    plan = Plan.load(folder)
    shard = plan.shards[0]
    path = f"{shard.name}.tar"
    with folder.open(path) as stream:
        *kept, lost = read_coded(stream, where=path)
    with folder.stage(path) as staged:
        writer = ClipShardWriter(staged.stream)
        for clip in kept:
            writer.write(clip)
        writer.close()
        file = staged.commit()
    row = OutcomeRow(
        key=lost.key,
        media_uri=json.loads(lost.members["json"])["media_uri"],
        start_seconds=None,
        end_seconds=None,
        outcome=Outcome.REJECTED,
        stage=Stage.DECODE,
        reason=Reason.CORRUPT,
        transient=False,
        attempts=1,
        message="",
    )
    commit_shard(folder, shard, file=file, stored=len(kept), outcomes=[row], sums={})
    close_store(folder, plan, read_ledger(folder).values(), format_name=CLIP_STORE_FORMAT, details=details)


def test_what_is_as_it_was_is_not_stale(clips, latents, tokenizer, tmp_path, capsys):
    assert why(latents, tokenizer=tokenizer, shards=clips) == []
    moved = tmp_path / "moved"
    shutil.copytree(clips, moved)
    assert why(latents, shards=moved) == []
    config = StaleConfig(store=str(latents), tokenizer=tokenizer)
    assert explain_staleness(config, StartClock()) == 0
    assert capsys.readouterr().out == f"{latents}: nothing differs\n"


def test_other_weights_and_another_config_are_told_apart(latents, clips, tmp_path, capsys):
    weights = other_tokenizer(tmp_path / "weights", 7)
    (line,) = why(latents, tokenizer=weights)
    assert line.startswith("tokenizer: the same config with other weights: ")
    config = other_tokenizer(tmp_path / "config", 0, latent_channels=8)
    assert why(latents, tokenizer=config) == ["tokenizer.config.latent_channels: 4, now 8"]
    for name, lines in ((weights, [line]), (config, ["tokenizer.config.latent_channels: 4, now 8"])):
        with pytest.raises(RunRefusedError) as refused:
            encoded(clips, name, latents)
        assert "\n  " + "\n  ".join(lines) + "\nGive another --output" in str(refused.value)
        with pytest.raises(RunRefusedError, match=r"the same config|latent_channels: 4, now 8"):
            encoded(clips, name, latents, append=True)
    assert explain_staleness(StaleConfig(store=str(latents), tokenizer=config), StartClock()) == 1
    assert capsys.readouterr().out == "tokenizer.config.latent_channels: 4, now 8\n"


def test_a_clip_store_that_grew_is_told_with_what_is_new(corpus, clips, latents, tokenizer, tmp_path):
    grown = tmp_path / "clips"
    shutil.copytree(clips, grown)
    prepared([corpus / "camera.png", corpus / "bikes.mp4"], grown, append=True)
    # One photograph, and ten seconds of video in twenty clips of four frames.
    line = f"clips: 11 clip shards (21 clips) of {grown} are new; --append adds them"
    assert why(latents, shards=grown) == [line]
    with pytest.raises(RunRefusedError) as refused:
        encoded(grown, tokenizer, latents)
    assert line in str(refused.value)


def test_a_clip_store_that_changed_is_told_with_how_many_shards(clips, latents, tokenizer, tmp_path):
    changed = tmp_path / "clips"
    shutil.copytree(clips, changed)
    lose_a_clip(changed)
    (line,) = why(latents, shards=changed)
    assert f"{changed} has changed: 0 clip shards are new, 0 missing, 1 latent shards are of another number" in line
    for append in (False, True):
        with pytest.raises(RunRefusedError, match="0 clip shards are new, 0 missing, 1 latent shards"):
            encoded(changed, tokenizer, latents, append=append)


def test_another_clip_store_and_other_preprocessing_are_told(corpus, latents, tmp_path):
    prepared([corpus / "camera.png"], tmp_path / "clips", quality=90)
    lines = why(latents, shards=tmp_path / "clips")
    assert lines[0] == "preprocessing.codec.quality: 98, now 90"
    assert [line.partition(":")[0] for line in lines[1:]] == ["clips.fingerprint", "clips.index_sha256"]


def test_nothing_to_compare_with_and_no_latent_store_are_refused(clips, tokenizer):
    with pytest.raises(ValueError, match="got neither"):
        StaleConfig(store="x")
    with pytest.raises(ValueError, match="expected 'vitok-latents'"):
        why(clips, tokenizer=tokenizer)
