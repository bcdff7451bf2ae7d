"""Clip shards become latent shards: the same bytes each time, and no clip under another's influence."""

import numpy as np
import pytest
import torch

from pipeline.stages.clip_source import StoredClips
from pipeline.stages.encode import EncodeShard, LatentFormat, one_behind
from pipeline.stages.tokenizer import Inference
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger
from pipeline.store.moments import ChannelMoments
from pipeline.store.planned_shards import PlannedShard
from tests.pipeline.stages.latent_shards import CHANNELS, MIRRORED, contents
from vitok.pixels import from_uint8

CASES = [(form, dtype) for form in ("parquet", "webdataset") for dtype in ("float16", "bfloat16", "float32")]


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_a_shard_that_is_committed_twice_is_the_same_bytes(encode, write_clips, form, dtype):
    sources = [write_clips("a", [0, 1, 2]), write_clips("b", [3, 4, 5])]
    latent = {"format": form, "dtype": dtype, "columns": MIRRORED}
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


def test_a_report_says_where_the_time_went_and_counts_the_weights_once(tmp_path, tokenizer_url, write_clips):
    stage = EncodeShard(
        source=StoredClips(Folder(str(tmp_path / "clips"))),
        output=Folder(str(tmp_path / "latents")),
        tokenizer_url=tokenizer_url,
        inference=Inference(),
        channels=CHANNELS,
        latent=LatentFormat(),
    )
    sources = (write_clips("a", range(2)),)
    first, second = (
        stage(PlannedShard(index=index, bucket="grid=2x2x2", num_clips=2, sources=sources)) for index in range(2)
    )
    assert set(first.seconds) == {"weights", "decode", "encode", "write", "commit"}
    assert set(second.seconds) == {"decode", "encode", "write", "commit"}


@pytest.mark.parametrize("count", range(4))
def test_an_item_is_given_when_the_next_one_is_there(count):
    taken = []

    def items():
        for number in range(count):
            taken.append(number)
            yield number

    given = [(number, len(taken)) for number in one_behind(items())]
    assert given == [(number, min(number + 2, count)) for number in range(count)]
