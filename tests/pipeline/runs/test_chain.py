"""The chain on real media and real Ray: exactly once, byte for byte, whatever the workers and the kills."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.runs.audit import audit
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.claim import claim
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.plan import RunRefusedError
from vitok.latents.store import LatentStore
from vitok.metrics.pixel import psnr
from vitok.model.checkpoint import load_checkpoint
from vitok.pixels import from_uint8, to_uint8

pytestmark = pytest.mark.cluster

PHOTOGRAPHS = 6
VIDEO_CLIPS = 20  # ten seconds at 8 frames a second, four frames a clip
CLIPS = PHOTOGRAPHS + VIDEO_CLIPS
SHARDS = 7  # of four: two of photographs and five of video


def prepared(corpus, output, **changes):
    flags = {"resolution": 32, "num_frames": 4, "fps": "8", "tubelet": "2x8", "shard_size": 4, "num_workers": 1}
    return prepare(PrepareConfig(input=(str(corpus),), output=str(output), **flags | changes))


def encoded(clips, tokenizer, output, **changes):
    flags = {"shard_size": 4, "batch_size": 4, "num_workers": 1}
    return encode(EncodeConfig(shards=str(clips), tokenizer=tokenizer, output=str(output), **flags | changes))


def every_clip(store):
    for path in sorted(store.glob("grid=*/shard-*.tar")):
        with path.open("rb") as stream:
            yield from read_clips(stream, where=path.name)


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    prepared(corpus, output)
    return output


@pytest.fixture(scope="module")
def latents(clips, tokenizer, tmp_path_factory):
    outputs = {}
    for name in ("parquet", "webdataset"):
        outputs[name] = tmp_path_factory.mktemp(name)
        encoded(clips, tokenizer, outputs[name], format=name)
    return outputs


def test_every_media_is_accounted_for(clips):
    store = json.loads((clips / "store.json").read_bytes())
    assert store["counts"] == {"planned": CLIPS + 3, "stored": CLIPS, "filtered": 0, "rejected": 3}
    assert {name: bucket["clips"] for name, bucket in store["buckets"].items()} == {
        "grid=1x4x4": PHOTOGRAPHS,
        "grid=2x4x4": VIDEO_CLIPS,
    }
    tables = [clips / "plan" / "outcomes.parquet", *clips.glob("outcomes/*/*.parquet")]
    rows = [row for path in tables for row in pq.ParquetFile(path).read().to_pylist()]
    found = {Path(row["media_uri"]).name: row["reason"] for row in rows}
    assert found == {"truncated.jpg": "corrupt", "notes.mp4": "unknown_format", "empty.png": "empty_file"}
    assert all(row["outcome"] == "rejected" and row["message"] and not row["transient"] for row in rows)


def test_prepare_makes_the_same_bytes_with_any_number_of_workers(corpus, clips, digests, tmp_path):
    summary = prepared(corpus, tmp_path, num_workers=2)
    assert summary.stored == CLIPS
    assert digests(tmp_path) == digests(clips)


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_encode_makes_the_same_bytes_with_any_number_of_workers(name, clips, tokenizer, latents, digests, tmp_path):
    encoded(clips, tokenizer, tmp_path, format=name, num_workers=2)
    assert digests(tmp_path) == digests(latents[name])


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_encode_killed_in_the_middle_ends_with_the_same_bytes(
    name, clips, tokenizer, latents, digests, start_job, tmp_path
):
    process = start_job(
        *("encode", "--shards", str(clips), "--tokenizer", tokenizer, "--output", str(tmp_path), "--format", name),
        *("--shard-size", "4", "--batch-size", "4", "--num-workers", "1"),
    )
    while not list(tmp_path.glob("ledger/*/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "store.json").exists(), "the job ended before the kill, which then proves nothing"

    summary = encoded(clips, tokenizer, tmp_path, format=name)
    assert 0 < summary.resumed_shards < summary.shards == SHARDS
    assert digests(tmp_path) == digests(latents[name])


def test_a_second_start_finds_everything_done(clips, tokenizer, latents, digests):
    before = digests(latents["parquet"])
    summary = encoded(clips, tokenizer, latents["parquet"])
    assert (summary.resumed_shards, summary.worked_clips, summary.clips_per_second) == (SHARDS, 0, None)
    assert digests(latents["parquet"]) == before


def test_another_plan_on_the_same_folder_is_refused_with_what_differs(corpus, clips, tokenizer, latents):
    with pytest.raises(RunRefusedError, match=r"preprocessing\.sizes: \[\[32, 32\]\], now \[\[64, 64\]\]"):
        prepared(corpus, clips, resolution=64)
    with pytest.raises(RunRefusedError, match=r"latent\.dtype: 'float16', now 'bfloat16'"):
        encoded(clips, tokenizer, latents["parquet"], dtype="bfloat16")


def test_a_changed_media_is_another_corpus(corpus, ray_here, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    (media / "one.png").write_bytes((corpus / "coffee.png").read_bytes())
    prepared(media, tmp_path / "clips")
    (media / "one.png").write_bytes((corpus / "camera.png").read_bytes())
    with pytest.raises(RunRefusedError, match=r"media\.sha256"):
        prepared(media, tmp_path / "clips")


def test_a_held_folder_is_refused(clips, tokenizer, start_job, tmp_path):
    with claim(Folder(str(tmp_path))):
        process = start_job("encode", "--shards", str(clips), "--tokenizer", tokenizer, "--output", str(tmp_path))
        output, _ = process.communicate()
    assert process.returncode == 3
    assert "is held by another run" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["clips", "parquet", "webdataset"])
def test_verify_passes_what_was_written_and_finds_a_flipped_byte(name, clips, latents, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(clips if name == "clips" else latents[name], store)
    report = verify(VerifyConfig(store=str(store)))
    assert report.problems == []
    assert report.planned == report.stored + report.filtered + report.rejected

    shard = min(store.glob("grid=*/shard-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (problem,) = verify(VerifyConfig(store=str(store))).problems
    assert str(shard.relative_to(store)) in problem


def test_a_repaired_store_is_made_whole_again_by_its_job(clips, tokenizer, latents, digests, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(latents["parquet"], store)
    shards = sorted(store.glob("grid=*/shard-*"))
    for shard, place in ((shards[1], 100), (shards[4], -100)):
        data = bytearray(shard.read_bytes())
        data[place] ^= 1
        shard.write_bytes(data)
    report = verify(VerifyConfig(store=str(store), repair=True))
    assert (len(report.problems), report.dropped) == (2, 2)
    summary = encoded(clips, tokenizer, store)
    assert summary.resumed_shards == SHARDS - 2
    assert digests(store) == digests(latents["parquet"])


def test_stored_latents_are_the_models_posterior_means(clips, tokenizer, latents):
    model = load_checkpoint(tokenizer).eval()
    expected = {}
    for clip in every_clip(clips):
        with torch.inference_mode():
            posterior = model.encode(from_uint8(torch.from_numpy(clip.pixels[None])))
        expected[clip.metadata.key] = posterior.mean[0]
    for name, output in latents.items():
        store = LatentStore(str(output))
        assert len(store) == len(expected) == CLIPS
        for batch in store.batches(5):
            for key, mean in zip(batch.columns["key"], batch.latents["mean"], strict=True):
                assert torch.allclose(mean.float(), expected[key], atol=2e-3, rtol=2e-3), (name, key)


def test_the_stores_normalisation_is_that_of_what_it_holds(latents):
    store = LatentStore(str(latents["parquet"]))
    values = torch.cat([batch.latents["mean"].double().reshape(-1, 4) for batch in store.batches(64)])
    statistics = store.statistics()
    assert statistics.count == len(values)
    assert torch.allclose(statistics.mean, values.mean(0), rtol=1e-12, atol=1e-15)
    assert torch.allclose(statistics.std, values.std(0, correction=0), rtol=1e-12)


def test_audit_measures_what_a_plain_loop_measures(clips, tokenizer, tmp_path):
    result = audit(
        AuditConfig(
            shards=str(clips), tokenizer=(tokenizer,), output=str(tmp_path), shard_size=4, batch_size=4, num_examples=4
        )
    )
    (found,) = result.candidates
    model = load_checkpoint(tokenizer).eval()
    values = []
    for clip in every_clip(clips):
        pixels = torch.from_numpy(clip.pixels[None])
        with torch.inference_mode():
            decoded = model.decode(model.encode(from_uint8(pixels)).mode(), num_frames=pixels.shape[1])
        values.append(psnr(pixels, to_uint8(decoded)).item())
    assert found.summary.stored == len(values) == CLIPS
    assert found.values["psnr"] == pytest.approx(np.mean(values), rel=1e-4)
    assert Path(result.report).exists()
    assert verify(VerifyConfig(store=found.store)).problems == []


def test_clips_of_another_tubelet_are_refused(corpus, tokenizer, ray_here, tmp_path):
    prepared(corpus, tmp_path / "clips", tubelet="3x8", num_frames=6)
    with pytest.raises(ValueError, match=r"prepared for tubelets 3x8, the tokenizer .* has 2x8"):
        encoded(tmp_path / "clips", tokenizer, tmp_path / "latents")


def test_clips_of_a_coarser_tubelet_have_the_latents_of_the_tokenizer_s_own(corpus, tokenizer, latents, tmp_path):
    prepared(corpus, tmp_path / "clips", tubelet="2x16")
    encoded(tmp_path / "clips", tokenizer, tmp_path / "latents")
    means = []
    for folder in (latents["parquet"], tmp_path / "latents"):
        store = LatentStore(str(folder))
        assert store.buckets == {(1, 4, 4): PHOTOGRAPHS, (2, 4, 4): VIDEO_CLIPS}
        means.append(
            {
                key: mean
                for batch in store.batches(64)
                for key, mean in zip(batch.columns["key"], batch.latents["mean"], strict=True)
            }
        )
    assert means[0].keys() == means[1].keys()
    assert all(torch.equal(mean, means[1][key]) for key, mean in means[0].items())


def test_the_plain_image_case(corpus, ray_here, tmp_path):
    summary = prepared(corpus, tmp_path, tubelet="1x16", num_frames=1, fps="1")
    assert summary.stored == PHOTOGRAPHS + 10  # ten seconds at one frame a second
    assert [path.name for path in tmp_path.glob("grid=*")] == ["grid=1x2x2"]


def test_a_video_shorter_than_a_clip_is_filtered_not_lost(corpus, ray_here, tmp_path):
    summary = prepared(corpus, tmp_path, num_frames=100)
    assert (summary.stored, summary.filtered, summary.rejected) == (PHOTOGRAPHS, 1, 3)
    assert summary.reasons["too_short"] == 1
    assert verify(VerifyConfig(store=str(tmp_path))).problems == []


def test_a_corpus_of_nothing_but_broken_files_goes_through_the_chain(corpus, tokenizer, ray_here, tmp_path):
    broken = tmp_path / "media"
    broken.mkdir()
    for name in ("truncated.jpg", "notes.mp4", "empty.png"):
        shutil.copy2(corpus / name, broken)
    clips, latents, audited = tmp_path / "clips", tmp_path / "latents", tmp_path / "audit"
    summary = prepared(broken, clips)
    assert (summary.planned, summary.stored, summary.rejected) == (3, 0, 3)
    assert encoded(clips, tokenizer, latents).planned == 0
    (found,) = audit(AuditConfig(shards=str(clips), tokenizer=(tokenizer,), output=str(audited))).candidates
    assert found.values == {}
    assert found.skipped == dict.fromkeys(("psnr", "ssim"), "no clip was measured")
    assert len(LatentStore(str(latents))) == 0
    assert list(LatentStore(str(latents)).batches(4)) == []
    for store in (clips, latents, found.store):
        assert verify(VerifyConfig(store=str(store))).problems == []


def test_a_damaged_clip_shard_stops_the_run_by_name_and_commits_nothing_of_it(clips, tokenizer, tmp_path):
    from ray.exceptions import RayTaskError  # here: the embedded Ray must be set up before its first import

    damaged = tmp_path / "clips"
    shutil.copytree(clips, damaged)
    shard = min(damaged.glob("grid=*/shard-*.tar"))
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(RayTaskError, match=shard.name) as error:
        encoded(damaged, tokenizer, tmp_path / "latents")
    assert any("its record is" in note for note in error.value.__notes__)
    assert not (tmp_path / "latents" / "store.json").exists()

    shutil.copy2(clips / shard.relative_to(damaged), shard)
    assert encoded(damaged, tokenizer, tmp_path / "latents").stored == CLIPS
