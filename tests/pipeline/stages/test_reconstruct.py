"""Every clip is measured against its own reconstruction, the same bytes each time."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.media.reject import RejectClip
from pipeline.stages.reconstruct import ReconstructShard, reconstruct
from pipeline.stages.tokenizer import Inference, Tokenizer
from pipeline.store.files import Folder
from pipeline.store.ledger import read_ledger
from pipeline.store.plan import PlannedShard
from schemas.outcome import Reason
from vitok.metrics.pixel import psnr, ssim
from vitok.pixels import from_uint8, to_uint8

METRICS = ("psnr", "ssim")


@pytest.fixture
def audit(tmp_path, tokenizer_url):
    """Reconstructs clip shards as one shard: the report, the folder and the rows."""

    def audit(sources, num_clips, *, tokenizer=tokenizer_url, name="audit"):
        output = Folder(str(tmp_path / name))
        stage = ReconstructShard(
            source=Folder(str(tmp_path / "clips")),
            output=output,
            tokenizer_url=tokenizer,
            inference=Inference(batch_size=4),
            passed={},
            metrics=METRICS,
        )
        shard = PlannedShard(index=0, bucket="grid=2x2x2", num_clips=num_clips, sources=tuple(sources))
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


def test_the_sums_are_those_of_the_rows(audit, write_clips):
    report, _, rows = audit([write_clips("a", range(6))], 6)
    assert report.record.sums == {name: math.fsum(row[name] for row in rows) for name in METRICS}


def test_a_clip_does_not_depend_on_the_clips_that_fill_its_batch(audit, write_clips):
    _, _, first = audit([write_clips("a", [0, 1, 2, 3])], 4)
    _, _, other = audit([write_clips("b", [7, 1])], 2, name="other")
    assert first[1] == other[1]


@pytest.mark.parametrize("layer", ["encoder_to_code", "code_to_decoder"])
def test_weights_that_are_not_finite_reject_every_clip_and_write_no_file(audit, write_clips, edited_tokenizer, layer):
    def spoil(model):
        getattr(model, layer).weight[0, 0] = float("inf")

    report, output, rows = audit([write_clips("a", range(3))], 3, tokenizer=edited_tokenizer(spoil))
    assert rows == []
    assert report.record.file is None
    assert report.record.reasons == {"nonfinite_reconstruction": 3}
    assert report.record.sums == {"psnr": 0.0, "ssim": 0.0}
    (row, *_) = pq.read_table(output.open(report.record.outcomes.path)).to_pylist()
    assert (row["stage"], row["reason"]) == ("reconstruct", "nonfinite_reconstruction")


def test_a_reconstruction_has_the_shape_of_its_clip(make_clip, tokenizer_url):
    tokenizer = Tokenizer(tokenizer_url, Inference(batch_size=3))
    clips = [make_clip(0), make_clip(1)]
    for found in reconstruct(tokenizer, clips):
        assert found.shape == (4, 16, 16, 3)
        assert found.dtype == np.uint8


def test_a_nonfinite_reconstruction_is_a_reject_of_its_own(make_clip, edited_tokenizer):
    def spoil(model):
        for parameter in model.tubelet_decode.parameters():
            parameter.fill_(float("nan"))

    tokenizer = Tokenizer(edited_tokenizer(spoil), Inference())
    (result,) = reconstruct(tokenizer, [make_clip(0)])
    assert isinstance(result, RejectClip)
    assert result.reason is Reason.NONFINITE_RECONSTRUCTION
