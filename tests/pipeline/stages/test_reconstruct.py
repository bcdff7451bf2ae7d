"""Every clip is measured against its own reconstruction, the same bytes each time, whatever reconstructs it."""

import math
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.media.reject import RejectClip
from pipeline.stages.clip_source import StoredClips
from pipeline.stages.encode import EncodeShard, LatentFormat
from pipeline.stages.reconstruct import CONTENT_MODULUS, ReconstructShard, content_of
from pipeline.stages.reconstruct_codecs import Bicubic, ImageCodec, Originals, smaller_size
from pipeline.stages.reconstruct_latents import StoredReconstructor, TokenizerReconstructor
from pipeline.stages.tokenizer import Inference
from pipeline.store.files import Folder
from pipeline.store.index import Normalisation, close_store
from pipeline.store.ledger import read_ledger
from pipeline.store.plan import Plan, PlanCounts
from pipeline.store.planned_shards import PlannedShard
from schemas.metadata import LATENT_STORE_FORMAT
from schemas.outcome import Reason
from vitok.metrics.pixel import psnr, ssim
from vitok.pixels import from_uint8, to_uint8

METRICS = ("psnr", "ssim")
BUCKET = "grid=2x2x2"


@pytest.fixture
def audit(tmp_path, tokenizer_url):
    """Reconstructs clip shards as one shard: the report, the folder and the rows."""

    def audit(sources, num_clips, *, tokenizer=tokenizer_url, name="audit", make=None, batch_size=4, metrics=METRICS):
        output = Folder(str(tmp_path / name))
        stage = ReconstructShard(
            source=Folder(str(tmp_path / "clips")),
            output=output,
            make_reconstructor=make or partial(TokenizerReconstructor, tokenizer, Inference(batch_size=4)),
            inference=Inference(batch_size=batch_size),
            passed={},
            metrics=metrics,
        )
        shard = PlannedShard(index=0, bucket=BUCKET, num_clips=num_clips, sources=tuple(sources))
        report = stage(shard)
        path = report.record.file.path if report.record.file else None
        return report, output, pq.read_table(output.open(path)).to_pylist() if path else []

    return audit


def contents(folder):
    return {path: folder.read_bytes(path) for path in folder.find()}


def test_a_shard_that_is_committed_twice_is_the_same_bytes(audit, write_clips):
    source = write_clips("a", range(6))
    report, output, _ = audit([source], 6)
    before = contents(output)
    again, output, _ = audit([source], 6)
    assert contents(output) == before
    assert read_ledger(output) == {0: again.record} == {0: report.record}


def test_a_row_holds_the_metrics_of_the_models_reconstruction(audit, write_clips, make_clip, make_model):
    _, _, rows = audit([write_clips("a", range(5))], 5)
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in range(5)]
    model = make_model().eval()
    for number, row in enumerate(rows):
        pixels = torch.from_numpy(make_clip(number).pixels[np.newaxis])
        with torch.inference_mode():
            candidate = to_uint8(model.decode(model.encode(from_uint8(pixels)).mode()))
        assert row["psnr"] == pytest.approx(psnr(pixels, candidate).item(), abs=1e-3)
        assert row["ssim"] == pytest.approx(ssim(pixels, candidate).item(), abs=1e-4)
        assert row["media_uri"] == make_clip(number).metadata.media_uri


def test_the_sums_are_those_of_the_rows(audit, write_clips, make_clip):
    report, _, rows = audit([write_clips("a", range(6))], 6)
    sums = report.record.sums
    assert sums["metrics"] == {
        name: {
            "clips": 6,
            "sum": math.fsum(values := [row[name] for row in rows]),
            "min": min(values),
            "max": max(values),
        }
        for name in METRICS
    }
    assert sums["size_bytes"] == sum(row["size_bytes"] for row in rows) == 6 * 8 * 4 * 2  # float16
    content = sum(content_of(make_clip(number).pixels) for number in range(6)) % CONTENT_MODULUS
    assert sums["content"] == f"{content:064x}"


def test_the_latents_moments_are_those_of_all_tokens(audit, write_clips, make_clip, make_model):
    report, _, _ = audit([write_clips("a", range(6))], 6)
    model = make_model().eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([make_clip(number).pixels for number in range(6)]))
        posterior = model.encode(from_uint8(pixels))
    tokens, logvar = (part.flatten(0, 3).double().numpy() for part in (posterior.mean, posterior.logvar))
    found = report.record.sums["latents"]
    assert found["count"] == len(tokens) == 48
    np.testing.assert_allclose(found["mean"], tokens.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.array(found["scatter"]) / 48, np.cov(tokens.T, bias=True), rtol=1e-3, atol=1e-6)
    kl = 0.5 * (tokens**2 + np.exp(logvar) - 1 - logvar)
    np.testing.assert_allclose(found["kl"], kl.sum(0), rtol=1e-4, atol=1e-5)
    assert (found["nan_count"], found["inf_count"]) == (0, 0)


def test_measuring_adds_nothing_that_hangs_on_the_batches(audit, write_clips):
    source = write_clips("a", range(6))
    by_batch = []
    for size in (1, 2, 5):
        _, output, rows = audit([source], 6, make=Originals, batch_size=size, name=f"of-{size}")
        by_batch.append(contents(output))
        assert {row["psnr"] for row in rows} == {100.0}
    assert by_batch[0] == by_batch[1] == by_batch[2]


def test_a_clip_does_not_depend_on_the_clips_that_fill_its_batch(audit, write_clips):
    _, _, first = audit([write_clips("a", [0, 1, 2, 3])], 4)
    _, _, other = audit([write_clips("b", [7, 1])], 2, name="other")
    assert first[1] == other[1]


@pytest.mark.parametrize(("layer", "spoils_latents"), [("encoder_to_code", True), ("code_to_decoder", False)])
def test_weights_that_are_not_finite_reject_every_clip_and_write_no_file(
    audit, write_clips, edited_tokenizer, layer, spoils_latents
):
    def spoil(model):
        getattr(model, layer).weight[0, 0] = float("inf")

    report, output, rows = audit([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(spoil))
    assert rows == []
    assert report.record.file is None
    assert report.record.reasons == {"nonfinite_reconstruction": 3}
    assert report.record.sums["metrics"] == {}
    health = report.record.sums["latents"]
    assert (health["count"], health["nan_count"] + health["inf_count"] > 0) == (
        (0, True) if spoils_latents else (24, False)
    )
    (row, *_) = pq.read_table(output.open(report.record.outcomes.path)).to_pylist()
    assert (row["stage"], row["reason"]) == ("reconstruct", "nonfinite_reconstruction")


def test_clips_too_small_for_a_metric_have_no_column_of_it(audit, write_clips, need_weights):
    need_weights("i3d_kinetics400")
    _, _, rows = audit([write_clips("a", range(2))], 2, make=Originals, metrics=("psnr", "fvd"))
    assert "psnr" in rows[0]
    assert "fvd" not in rows[0]


def test_a_reconstruction_has_the_shape_of_its_clip(make_clip, tokenizer_url):
    reconstructor = TokenizerReconstructor(tokenizer_url, Inference(batch_size=3))
    for found in reconstructor([make_clip(0), make_clip(1)]).results:
        assert found.pixels.shape == (4, 16, 16, 3)
        assert found.pixels.dtype == np.uint8


def test_a_nonfinite_reconstruction_is_a_reject_of_its_own(make_clip, edited_tokenizer):
    def spoil(model):
        for parameter in model.tubelet_decode.parameters():
            parameter.fill_(float("nan"))

    (result,) = TokenizerReconstructor(edited_tokenizer(spoil), Inference())([make_clip(0)]).results
    assert isinstance(result, RejectClip)
    assert result.reason is Reason.NONFINITE_RECONSTRUCTION


@pytest.fixture
def latents(tmp_path, tokenizer_url):
    """Encodes clip shards into a finished latent store of one shard each."""

    def encode(sources, dtype="float32", latent_format="parquet"):
        folder = Folder(str(tmp_path / "latents"))
        stage = EncodeShard(
            source=StoredClips(Folder(str(tmp_path / "clips"))),
            output=folder,
            tokenizer_url=tokenizer_url,
            inference=Inference(batch_size=4),
            channels=4,
            latent=LatentFormat(format=latent_format, dtype=dtype),
        )
        shards = [
            PlannedShard(index=index, bucket=BUCKET, num_clips=count, sources=(path,))
            for index, (path, count) in enumerate(sources)
        ]
        counts = PlanCounts(media=0, clips=sum(count for _, count in sources))
        plan = Plan.save(folder, job="encode", identity={}, counts=counts, shards=shards)
        records = [stage(shard).record for shard in shards]
        latent = {"format": latent_format, "dtype": dtype, "channels": 4, "columns": ["mean"]}
        sums = Normalisation(4)
        close_store(folder, plan, records, format_name=LATENT_STORE_FORMAT, details={"latent": latent}, sums=sums)
        return folder

    return encode


@pytest.mark.parametrize("latent_format", ["parquet", "webdataset"])
def test_stored_latents_in_float32_give_what_encoding_gives(audit, write_clips, latents, tokenizer_url, latent_format):
    first, second = write_clips("a", range(4)), write_clips("b", range(4, 7))
    store = latents([(first, 4), (second, 3)], latent_format=latent_format)
    make = partial(StoredReconstructor, tokenizer_url, Inference(batch_size=4), store)
    _, _, encoded = audit([first, second], 7)
    _, _, stored = audit([first, second], 7, make=make, name="stored")
    assert [row.pop("size_bytes") for row in stored] == [2 * row.pop("size_bytes") for row in encoded]  # of float16
    assert stored == encoded


def test_latents_are_found_by_key_in_any_order_and_missing_ones_are_rejects(audit, write_clips, latents, tokenizer_url):
    store = latents([(write_clips("a", [3, 1, 0]), 3), (write_clips("b", [5, 2]), 2)], dtype="float16")
    make = partial(StoredReconstructor, tokenizer_url, Inference(batch_size=4), store)
    clips = write_clips("c", [0, 9, 1, 2, 3, 4, 5])
    report, output, rows = audit([clips], 7, make=make, name="stored")
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in (0, 1, 2, 3, 5)]
    assert report.record.reasons == {"missing_latent": 2}
    ended = pq.read_table(output.open(report.record.outcomes.path)).to_pylist()
    assert [row["key"] for row in ended] == ["clip-9", "clip-4"]
    _, _, encoded = audit([clips], 7)
    by_key = {row["key"]: row for row in encoded}
    for row in rows:
        assert row["psnr"] == pytest.approx(by_key[row["key"]]["psnr"], abs=0.05)  # rounded to float16


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a_codec_gives_more_for_more_bytes(audit, write_clips, name):
    source = write_clips("a", range(4))
    found = []
    for quality in (10, 50, 95):
        make = partial(ImageCodec, name=name, quality=quality)
        report, _, rows = audit([source], 4, make=make, name=f"{name}-{quality}")
        assert report.record.sums["latents"] is None
        found.append((report.record.sums["size_bytes"], math.fsum(row["psnr"] for row in rows)))
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_bicubic_keeps_no_more_numbers_than_it_may(audit, write_clips):
    make = partial(Bicubic, floats={(4, 16, 16): 4 * 5 * 5 * 3 + 11})
    report, _, rows = audit([write_clips("a", range(3))], 3, make=make)
    assert {row["size_bytes"] for row in rows} == {300}
    _, _, whole = audit([write_clips("b", range(3))], 3, make=partial(Bicubic, floats={(4, 16, 16): 10**6}), name="all")
    assert {row["psnr"] for row in whole} == {100.0}
    assert report.record.sums["metrics"]["psnr"]["max"] < 60


@pytest.mark.parametrize("shape", [(1, 256, 256), (16, 128, 192), (1, 8, 4096), (4, 16, 16)])
@pytest.mark.parametrize("floats", [1, 3, 1000, 4096, 10**9])
def test_smaller_frames_stay_within_their_numbers_and_their_clip(shape, floats):
    frames, height, width = shape
    rows, columns = smaller_size(shape, floats)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert 3 * frames * rows * columns <= max(floats, 3 * frames)
