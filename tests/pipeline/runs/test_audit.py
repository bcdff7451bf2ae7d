"""Audits on real media and real Ray: the numbers of a plain loop, whatever the workers, the batches and the kills."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.command import EXIT_FAILED
from pipeline.runs.audit import audit
from pipeline.runs.audit_compare import compare
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.audit_record import read_record
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.clipshard import read_clips
from pipeline.store.plan import RunRefusedError
from vitok.config import AutoEncoderConfig
from vitok.metrics.features import frame_features
from vitok.metrics.frechet import FeatureMoments, frechet_distance
from vitok.metrics.perceptual import lpips
from vitok.metrics.pixel import psnr, ssim
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import load_checkpoint, save_checkpoint
from vitok.networks.inception import InceptionV3
from vitok.networks.lpips import Lpips
from vitok.networks.weights import FOLDER_VARIABLE
from vitok.pixels import from_uint8, to_uint8

pytestmark = pytest.mark.cluster

CLIPS, SHARDS = 16, 4
"""Six photographs and ten clips."""
RUN_KEYS = ("clips_per_second", "store", "histograms")
"""Of a candidate's entry, what hangs on the run, on the plan's identity, and on the bins of all candidates."""


def prepared(media, output, **changes):
    flags = {"resolution": 32, "num_frames": 4, "fps": "4", "tubelet": "2x8", "shard_size": 4, "num_workers": 1}
    prepare(PrepareConfig(input=tuple(map(str, media)), output=str(output), **flags | changes))
    return output


def config_of(clips, output, **changes):
    flags = {"shard_size": 4, "batch_size": 4, "num_workers": 1, "num_examples": 2, "resamples": 100}
    return AuditConfig(shards=str(clips), output=str(output), **flags | changes)


def audited(clips, output, **changes):
    return audit(config_of(clips, output, **changes))


def every_clip(store):
    for path in sorted(store.glob("grid=*/shard-*.tar")):
        with path.open("rb") as stream:
            yield from read_clips(stream, where=path.name)


def entries(output):
    """Candidates of the record by name, without `RUN_KEYS`."""
    found = {entry["name"]: dict(entry) for entry in read_record(str(output))["candidates"]}
    for entry in found.values():
        for key in RUN_KEYS:
            del entry[key]
    return found


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    return prepared([corpus], tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def done(clips, tokenizer, tmp_path_factory):
    """An audit of a tokenizer beside JPEG, with one worker."""
    output = tmp_path_factory.mktemp("audit")
    audited(clips, output, tokenizer=(tokenizer,), codecs=("jpeg",), codec_qualities=(30,), slices=("bucket", "source"))
    return output


def test_the_record_says_what_was_measured(done, clips, tokenizer):
    record = read_record(str(done))
    assert record["protocol"]["clips"]["count"] == CLIPS
    found = entries(done)
    assert list(found) == [Path(tokenizer).name, "jpeg 30"]
    model = found[Path(tokenizer).name]
    assert model["counts"] == {"planned": CLIPS, "stored": CLIPS, "filtered": 0, "rejected": 0}
    floats = np.mean([clip.pixels.shape[0] // min(2, clip.pixels.shape[0]) * 16 * 4 for clip in every_clip(clips)])
    assert model["floats_per_clip"] == pytest.approx(floats)
    assert model["bytes_per_clip"] == pytest.approx(2 * floats)
    assert model["gmac_per_clip"] > 0
    assert record["candidates"][0]["clips_per_second"] > 0
    assert len(model["latents"]["std"]) == 4
    histograms = {entry["name"]: entry["histograms"] for entry in record["candidates"]}
    assert len(record["edges"]["psnr"]) == len(histograms["jpeg 30"]["psnr"]) + 1
    for entry in found.values():
        assert sum(histograms[entry["name"]]["psnr"]) == CLIPS
        assert entry["metrics"]["psnr"]["low"] < entry["metrics"]["psnr"]["value"] < entry["metrics"]["psnr"]["high"]
        for parts in entry["slices"].values():
            assert sum(part["clips"] for part in parts.values()) == CLIPS
    assert found["jpeg 30"]["latents"] is None
    assert "<html" in (done / "report.html").read_text()
    for store in done.glob("candidates/*"):
        assert verify(VerifyConfig(store=str(store))).problems == []


def test_more_workers_and_a_kill_change_no_digit(done, clips, tokenizer, tmp_path, start_job):
    name = Path(tokenizer).name
    audited(clips, tmp_path / "two", tokenizer=(tokenizer,), slices=("bucket", "source"), num_workers=2)
    assert entries(tmp_path / "two")[name] == entries(done)[name]

    output = tmp_path / "killed"
    flags = (
        "--shard-size",
        "4",
        "--batch-size",
        "4",
        "--num-workers",
        "1",
        "--num-examples",
        "2",
        "--resamples",
        "100",
    )
    places = ("--shards", str(clips), "--tokenizer", tokenizer, "--output", str(output))
    process = start_job("audit", *places, *flags, "--slices", "bucket", "source")
    while process.poll() is None and not list(output.glob("candidates/*/ledger/*/*.json")):
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read()
    process.kill()
    process.wait()
    assert not (output / "audit.json").exists()
    result = audited(clips, output, tokenizer=(tokenizer,), slices=("bucket", "source"))
    assert result.candidates[0].summary.resumed_shards >= 1
    assert entries(output)[name] == entries(done)[name]
    assert result.protocol_id == read_record(str(done))["protocol_id"]


def test_other_batches_change_no_digit_of_what_a_codec_gives(done, clips, tmp_path):
    flags = {"codecs": ("jpeg",), "codec_qualities": (30,), "slices": ("bucket", "source")}
    audited(clips, tmp_path, batch_size=3, shard_size=64, **flags)
    (found,), (expected,) = entries(tmp_path).values(), [entries(done)["jpeg 30"]]
    for name, estimate in found["metrics"].items():
        assert estimate["value"] == expected["metrics"][name]["value"]
    assert found["bytes_per_clip"] == expected["bytes_per_clip"]
    assert read_record(str(tmp_path))["protocol_id"] == read_record(str(done))["protocol_id"]


def test_the_job_measures_what_one_process_measures_over_all(corpus, ray_here, tokenizer, need_weights, tmp_path):
    need_weights("vgg16", "lpips_vgg", "inception_2015")
    photographs = sorted(path for path in corpus.iterdir() if path.name in ("chelsea.png", "coffee.png", "rocket.jpg"))
    store = prepared(photographs, tmp_path / "clips", shard_size=2)
    names = ("psnr", "ssim", "lpips", "fid_2015")
    result = audited(store, tmp_path / "audit", tokenizer=(tokenizer,), metrics=names, shard_size=2, num_workers=2)
    originals = torch.tensor(np.stack([clip.pixels for clip in every_clip(store)]))
    model = load_checkpoint(tokenizer).eval()
    with torch.inference_mode():
        copies = to_uint8(model.decode(model.encode(from_uint8(originals)).mode(), num_frames=1))
    network = InceptionV3.load("2015")
    moments = [FeatureMoments.of(frame_features(network, side).numpy()) for side in (originals, copies)]
    expected = {
        "psnr": psnr(originals, copies).mean().item(),
        "ssim": ssim(originals, copies).mean().item(),
        "lpips": lpips(Lpips.load(), originals, copies).mean().item(),
        "fid_2015": frechet_distance(*moments),
    }
    # Another batch shape is another kernel: a pixel in thousands may round to the other level.
    assert result.candidates[0].values == pytest.approx(expected, rel=1e-3)

    rows = [pq.read_table(path) for path in sorted(Path(result.candidates[0].store).glob("grid=*/*.parquet"))]
    cells = [cell for table in rows for cell in table["inception_2015"].to_pylist()]
    kept = np.frombuffer(b"".join(cells), np.float32).reshape(len(originals), 2048)
    reference = sorted((tmp_path / "audit" / "reference").glob("grid=*/*.parquet"))
    real = [cell for path in reference for cell in pq.read_table(path)["inception_2015"].to_pylist()]
    sets = (np.frombuffer(b"".join(real), np.float32).reshape(-1, 2048), kept)
    direct = frechet_distance(*map(FeatureMoments.of, sets))
    assert result.candidates[0].values["fid_2015"] == pytest.approx(direct, rel=1e-9)


def test_what_is_stored_is_audited_as_it_was_encoded(done, corpus, clips, tokenizer, tmp_path):
    latents = tmp_path / "latents"
    flags = {"shard_size": 8, "batch_size": 4, "num_workers": 1, "dtype": "float32"}
    encode(EncodeConfig(shards=str(clips), tokenizer=tokenizer, output=str(latents), **flags))
    audited(clips, tmp_path / "audit", tokenizer=(tokenizer,), latents=str(latents), slices=("bucket", "source"))
    (stored,), name = entries(tmp_path / "audit").values(), Path(tokenizer).name
    assert stored["metrics"] == entries(done)[name]["metrics"]
    assert stored["bytes_per_clip"] == 2 * entries(done)[name]["bytes_per_clip"]
    assert stored["detail"].endswith("latents as stored, float32")
    assert compare(str(done), str(tmp_path / "audit")).differences == []

    torch.manual_seed(1)
    other = str(tmp_path / "other")
    save_checkpoint(other, AutoEncoder(AutoEncoderConfig.from_name("N-N/2x8", latent_channels=4)))
    with pytest.raises(ValueError, match=r"--latents: those of .* are of the tokenizer"):
        audited(clips, tmp_path / "refused", tokenizer=(other,), latents=str(latents))
    larger = prepared([corpus / "coffee.png"], tmp_path / "larger", resolution=64)
    with pytest.raises(ValueError, match=r"sizes: \[\[64, 64\]\], now \[\[32, 32\]\]"):
        audited(larger, tmp_path / "refused", tokenizer=(tokenizer,), latents=str(latents))


def test_a_candidate_may_come_later_and_another_audit_not(done, clips, tokenizer, tmp_path):
    flags = {"codecs": ("jpeg",), "slices": ("bucket", "source")}
    first = audited(clips, tmp_path, codec_qualities=(30,), **flags)
    both = audited(clips, tmp_path, codec_qualities=(30, 80), **flags)
    assert [found.summary.worked_clips for found in both.candidates] == [0, CLIPS]
    assert both.protocol_id == first.protocol_id
    with pytest.raises(RunRefusedError, match=r"metrics\.ssim: .* now absent"):
        audited(clips, tmp_path, codec_qualities=(30,), metrics=("psnr",), **flags)

    alike = compare(str(done), str(tmp_path / "audit.json"))
    assert {(row.candidate, row.metric, row.change) for row in alike.rows} == {
        ("jpeg 30", "psnr", 0.0),
        ("jpeg 30", "ssim", 0.0),
    }
    assert alike.unmatched == [Path(tokenizer).name, "jpeg 80"]


def command(*argv):
    return subprocess.run([sys.executable, "-m", "jobs.command", *argv], capture_output=True, text=True)


def test_the_gate_fails_the_command_with_the_reason(done, clips, tokenizer):
    places = ("--shards", str(clips), "--tokenizer", tokenizer, "--output", str(done))
    flags = ("--shard-size", "4", "--batch-size", "4", "--num-workers", "1", "--num-examples", "2", "--fail-if")
    failed = command("audit", *places, *flags, "psnr<99", "ssim<-1")
    assert failed.returncode == EXIT_FAILED
    assert "and psnr<99.0 fails" in failed.stderr
    assert "ssim<" not in failed.stderr
    assert command("audit", *places, *flags, "psnr<0").returncode == 0


def test_audits_of_other_clips_do_not_compare_and_say_why(done, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(done)
    assert compare("audit.json", ".").differences == []
    other = json.loads((done / "audit.json").read_bytes())
    assert read_record(str(done / "audit.json"))["seal"] == other["seal"]
    (tmp_path / "audit.json").write_text(json.dumps(other | {"protocol_id": "0" * 64}))
    with pytest.raises(ValueError, match="is not what was written"):
        compare(str(done), str(tmp_path))
    audited(clips, tmp_path / "psnr", codecs=("jpeg",), codec_qualities=(30,), metrics=("psnr",))
    found = compare(str(done), str(tmp_path / "psnr"))
    assert found.rows == []
    (line,) = found.differences
    assert line.startswith("metrics.ssim: ")
    printed = command("compare", str(done), str(tmp_path / "psnr"))
    assert printed.returncode == EXIT_FAILED
    assert line in printed.stdout
    assert command("compare", str(done), str(done), "--output", str(tmp_path)).returncode == 0
    assert json.loads((tmp_path / "compare.json").read_bytes())["differences"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tokenizer": ()}, "--tokenizer and --codecs: got neither"),
        ({"fail_if": ("psnr~2",)}, "--fail-if: got 'psnr~2'"),
        ({"fail_if": ("lpips>2",)}, "none of the metrics that are measured"),
        ({"metrics": ("vmaf",)}, "metrics: got vmaf,"),
        ({"slices": ("genre",)}, "--slices: got genre, expected some of bucket, source, key"),
        ({"tokenizer": (), "codecs": ("bicubic",)}, "--codecs bicubic: at as many floats"),
        ({"codecs": ("jpeg",), "codec_qualities": (0,)}, "--codec-qualities: got 0"),
        ({"codecs": ("jpeg", "jpeg")}, "--codecs: got jpeg jpeg"),
        ({"protocol": "coco-256"}, "weights inception_torchvision"),
        ({"protocol": "coco-256", "metrics": ("psnr",)}, "--protocol coco-256 fixes them"),
        ({"tokenizer": "twice"}, "of which two are the same"),
        ({"latents": "no-such-store"}, "holds no store.json"),
    ],
)
def test_what_cannot_be_audited_is_one_error_before_work(flags, message, clips, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "no weights"))
    if flags.get("tokenizer") == "twice":
        flags = {"tokenizer": (tokenizer, tokenizer)}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        audited(clips, tmp_path / "audit", **{"tokenizer": (tokenizer,)} | flags)
    assert not (tmp_path / "audit").exists()
