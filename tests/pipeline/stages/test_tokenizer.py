"""An auto-encoder at work: batches of one shape, whichever it is, and no clip under another's influence."""

import pytest
import torch

from pipeline.stages.tokenizer import Inference, Tokenizer
from tests.vitok.adapters.models import make


@pytest.fixture(params=["ours", "AutoencoderKL", "AutoencoderDC", "function"])
def url(request, tmp_path, tokenizer_url):
    if request.param == "ours":
        return tokenizer_url
    if request.param == "function":
        return "tests.vitok.adapters.models:average"
    make(request.param).save_pretrained(tmp_path / "foreign")
    return str(tmp_path / "foreign")


def test_a_clip_has_the_same_bits_whatever_fills_its_batch(url, make_clip):
    tokenizer = Tokenizer(url, Inference(batch_size=3))
    alone = tokenizer.encode([make_clip(0)])
    among = tokenizer.encode([make_clip(0), make_clip(1), make_clip(2)])
    assert len(alone.mean) == 1
    assert torch.equal(alone.mean[0], among.mean[0])
    assert (alone.logvar is None) == (among.logvar is None)
    one, three = (tokenizer.decode(posterior.mode(), num_frames=4) for posterior in (alone, among))
    assert one.shape == (1, 3, 4, 16, 16)
    assert torch.equal(one[0], three[0])


def test_latents_are_float32_on_the_cpu_in_either_precision(url, make_clip):
    exact, rough = (
        Tokenizer(url, Inference(batch_size=2, precision=precision)).encode([make_clip(0)]).mean
        for precision in ("float32", "bfloat16")
    )
    assert exact.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.1)
