"""Clip shards become latent shards: the same bytes each time, no clip under another's influence, no NaN stored."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.stages.encode import EncodeShard, LatentFormat
from pipeline.stages.tokenizer import Inference
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger
from pipeline.store.moments import ChannelMoments
from pipeline.store.plan import PlannedShard
from vitok.latents.shards import read_rows
from vitok.pixels import from_uint8

GRID = (2, 2, 2)
CHANNELS = 4
CASES = [(form, dtype) for form in ("parquet", "webdataset") for dtype in ("float16", "bfloat16", "float32")]


@pytest.fixture
def encode(tmp_path, tokenizer_url):
    """Encodes clip shards as one shard: the report, the folder, and latents by key and column."""

    def encode(sources, num_clips, *, name="latents", tokenizer=tokenizer_url, batch_size=4, **latent):
        output = Folder(str(tmp_path / name))
        stage = EncodeShard(
            source=Folder(str(tmp_path / "clips")),
            output=output,
            tokenizer_url=tokenizer,
            inference=Inference(batch_size=batch_size),
            latent=LatentFormat(**latent),
        )
        shard = PlannedShard(index=0, bucket="grid=2x2x2", num_clips=num_clips, sources=tuple(sources))
        report = stage(shard)
        found = {}
        if report.record.file is not None:
            settings = LatentFormat(**latent)
            with output.open(report.record.file.path) as stream:
                for rows in read_rows(
                    stream,
                    path=report.record.file.path,
                    shape=(*GRID, CHANNELS),
                    dtype=settings.dtype,
                    latent_columns=settings.columns,
                ):
                    for row, key in enumerate(rows.columns["key"]):
                        found[key] = {column: values[row] for column, values in rows.latents.items()}
        return report, output, found

    return encode


def contents(folder):
    return {path: folder.read_bytes(path) for path in folder.find()}


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_a_shard_that_is_committed_twice_is_the_same_bytes(encode, write_clips, form, dtype):
    sources = [write_clips("a", [0, 1, 2]), write_clips("b", [3, 4, 5])]
    latent = {"format": form, "dtype": dtype, "columns": ("mean", "logvar")}
    report, output, _ = encode(sources, 6, **latent)
    before = contents(output)
    again, output, _ = encode(sources, 6, **latent)
    assert contents(output) == before
    assert read_ledger(output) == {0: again.record} == {0: report.record}


def test_latents_are_the_models_posterior_of_the_pixels(encode, write_clips, make_clip, make_model):
    _, _, found = encode([write_clips("a", range(6))], 6, dtype="float32", columns=("mean", "logvar"))
    assert list(found) == [f"clip-{number}" for number in range(6)]
    pixels = torch.from_numpy(np.stack([make_clip(number).pixels for number in range(6)]))
    with torch.inference_mode():
        posterior = make_model().eval().encode(from_uint8(pixels))
    for number in range(6):
        torch.testing.assert_close(found[f"clip-{number}"]["mean"], posterior.mean[number])
        torch.testing.assert_close(found[f"clip-{number}"]["logvar"], posterior.logvar[number])


def test_a_latent_does_not_depend_on_the_clips_that_fill_its_batch(encode, write_clips):
    _, _, first = encode([write_clips("a", [7, 0, 8])], 3, name="first", dtype="float32")
    _, _, other = encode([write_clips("b", [1, 0, 2, 3])], 4, name="other", dtype="float32")
    _, _, alone = encode([write_clips("c", [9, 0])], 2, name="alone", dtype="float32")
    assert torch.equal(first["clip-0"]["mean"], other["clip-0"]["mean"])
    assert torch.equal(first["clip-0"]["mean"], alone["clip-0"]["mean"])


def test_batches_run_across_the_clip_shards_of_a_shard(encode, write_clips):
    _, whole, _ = encode([write_clips("whole", range(6))], 6, name="whole")
    _, parts, _ = encode([write_clips("one", [0]), write_clips("two", range(1, 6))], 6, name="parts")
    assert contents(whole) == contents(parts)


def test_half_precision_is_the_rounding_of_the_float32_latent(encode, write_clips):
    source = write_clips("a", range(3))
    _, _, exact = encode([source], 3, name="exact", dtype="float32")
    for dtype in ("float16", "bfloat16"):
        _, _, rounded = encode([source], 3, name=dtype, dtype=dtype)
        for key, latents in exact.items():
            assert torch.equal(rounded[key]["mean"], latents["mean"].to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_moments_are_those_of_the_values_as_stored(encode, write_clips, dtype):
    report, _, found = encode([write_clips("a", range(7))], 7, dtype=dtype)
    values = torch.stack([latents["mean"] for latents in found.values()]).double().reshape(-1, CHANNELS).numpy()
    moments = ChannelMoments.from_json(report.record.sums["moments"])
    assert moments.count == 7 * 8
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_weights_that_are_not_finite_reject_every_clip_and_write_no_file(encode, write_clips, edited_tokenizer, form):
    def spoil(model):
        model.encoder_to_code.weight[0, 0] = float("nan")

    report, output, _ = encode([write_clips("a", range(5))], 5, tokenizer=edited_tokenizer(spoil), format=form)
    record = report.record
    assert (record.stored, record.rejected, record.file) == (0, 5, None)
    assert record.reasons == {"nonfinite_latent": 5}
    assert output.find() == ["ledger/00000/00000000.json", "outcomes/grid=2x2x2/shard-00000000.parquet"]
    rows = pq.read_table(output.open(record.outcomes.path)).to_pylist()
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in range(5)]
    assert {(row["stage"], row["reason"], row["transient"]) for row in rows} == {("encode", "nonfinite_latent", False)}
    moments = ChannelMoments.from_json(record.sums["moments"])
    assert (moments.count, moments.nan_count, moments.inf_count) == (0, 5 * 8, 0)


def overflow(model):
    model.encoder_to_code.weight.mul_(1e8)


def test_a_latent_beyond_float16_is_a_reject(encode, write_clips, edited_tokenizer):
    report, _, _ = encode([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(overflow), dtype="float16")
    assert (report.record.stored, report.record.rejected) == (0, 3)
    moments = ChannelMoments.from_json(report.record.sums["moments"])
    assert moments.inf_count > 0
    assert moments.nan_count == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_same_latent_is_stored_where_its_dtype_holds_it(encode, write_clips, edited_tokenizer, dtype):
    report, _, found = encode([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(overflow), dtype=dtype)
    assert report.record.stored == 3
    assert max(float(latents["mean"].abs().max()) for latents in found.values()) > 65504


def test_a_clip_that_overflows_is_rejected_and_its_batch_is_kept(encode, write_clips, edited_tokenizer):
    def spoil_some(model):
        model.encoder_to_code.weight.mul_(3e4)

    report, _, found = encode([write_clips("a", range(12))], 12, tokenizer=edited_tokenizer(spoil_some))
    exact, _, whole = encode(
        [write_clips("a", range(12))], 12, tokenizer=edited_tokenizer(spoil_some), dtype="float32", name="exact"
    )
    fits = [key for key, latents in whole.items() if latents["mean"].half().isfinite().all()]
    assert exact.record.stored == 12
    assert 0 < len(fits) < 12
    assert list(found) == fits
    assert report.record.rejected == 12 - len(fits)


def test_a_source_that_lost_a_clip_is_not_committed(encode, write_clips, tmp_path):
    with pytest.raises(ValueError, match="planned 4 != stored 3"):
        encode([write_clips("a", range(3))], 4)
    assert read_ledger(Folder(str(tmp_path / "latents"))) == {}


def test_a_report_says_where_the_time_went_and_counts_the_weights_once(tmp_path, tokenizer_url, write_clips):
    stage = EncodeShard(
        source=Folder(str(tmp_path / "clips")),
        output=Folder(str(tmp_path / "latents")),
        tokenizer_url=tokenizer_url,
        inference=Inference(),
        latent=LatentFormat(),
    )
    sources = (write_clips("a", range(2)),)
    first, second = (
        stage(PlannedShard(index=index, bucket="grid=2x2x2", num_clips=2, sources=sources)) for index in range(2)
    )
    assert set(first.seconds) == {"weights", "decode", "encode", "write", "commit"}
    assert set(second.seconds) == {"decode", "encode", "write", "commit"}


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"threads": 0}])
def test_inference_needs_at_least_one_of_each(setting):
    with pytest.raises(ValueError, match="must be at least 1"):
        Inference(**setting)
