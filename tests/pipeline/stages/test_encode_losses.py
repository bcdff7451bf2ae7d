"""A clip that is lost, before its latent or by it, is an outcome on disk and costs no other clip a bit."""

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.media.reject import RejectClip
from pipeline.stages.stage import reject_clip
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger
from pipeline.store.moments import ChannelMoments
from schemas.outcome import Reason, Stage
from tests.pipeline.stages.latent_shards import CHANNELS, MIRRORED, assert_columns_equal, read_outcomes_of
from vitok.config import AutoEncoderConfig
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import save_checkpoint


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


def losing(numbers):
    """Makes a source of one that loses some of its clips."""

    def make(source):
        def clips(shard):
            for number, clip in enumerate(source(shard)):
                error = RejectClip(Reason.CORRUPT, "cut off")
                yield reject_clip(error, clip.metadata, Stage.DECODE) if number in numbers else clip

        return clips

    return make


@pytest.fixture(scope="module")
def placed_tokenizer(tmp_path_factory):
    """Folder of a model large enough for its kernels to treat the places of a batch of three unlike, by a last bit."""
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("placed"))
    save_checkpoint(folder, AutoEncoder(AutoEncoderConfig.from_name("S-N/2x8", latent_channels=CHANNELS)))
    return folder


@pytest.mark.parametrize("lost", [{0}, {2, 3}, {3, 4, 5}, {8}, {1, 2, 3, 4, 5, 6, 8}], ids=str)
def test_clips_that_are_lost_leave_the_others_their_bits(encode, write_clips, placed_tokenizer, lost):
    source = write_clips("a", range(9))
    settings = {"tokenizer": placed_tokenizer, "batch_size": 3, "dtype": "float32", "columns": MIRRORED}
    _, _, whole = encode([source], 9, name="whole", **settings)
    report, output, found = encode([source], 9, through=losing(lost), **settings)
    assert list(found) == [f"clip-{number}" for number in range(9) if number not in lost]
    assert_columns_equal((found, MIRRORED), ({key: whole[key] for key in found}, MIRRORED))
    assert (report.record.stored, report.record.rejected) == (9 - len(lost), len(lost))
    rows = read_outcomes_of(output, report)
    assert [(row["key"], row["stage"]) for row in rows] == [(f"clip-{number}", "decode") for number in sorted(lost)]
    assert ChannelMoments.from_json(report.record.sums["moments"]).count == 8 * len(found)


def test_a_shard_of_which_all_is_lost_has_no_file(encode, write_clips):
    report, _, found = encode([write_clips("a", range(5))], 5, through=losing(range(5)))
    assert (report.record.stored, report.record.rejected, report.record.file, found) == (0, 5, None, {})


def test_outcomes_stand_in_the_order_of_the_plan_wherever_their_clips_ended(encode, write_clips, edited_tokenizer):
    def spoil(model):
        model.encoder_to_code.weight[0, 0] = float("nan")

    report, output, _ = encode(
        [write_clips("a", range(5))], 5, tokenizer=edited_tokenizer(spoil), through=losing({1, 4})
    )
    rows = read_outcomes_of(output, report)
    assert [row["key"] for row in rows] == [f"clip-{number}" for number in range(5)]
    assert [row["stage"] for row in rows] == ["encode", "decode", "encode", "encode", "decode"]


def test_a_source_that_lost_a_clip_is_not_committed(encode, write_clips, tmp_path):
    with pytest.raises(ValueError, match="planned 4 != stored 3"):
        encode([write_clips("a", range(3))], 4)
    assert read_ledger(Folder(str(tmp_path / "latents"))) == {}
