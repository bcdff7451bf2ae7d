"""An auto-encoder at work: batches of one shape, whichever it is, and no clip under another's influence."""

import shutil
from dataclasses import replace

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


def posteriors_equal(found, expected):
    logvars = [posterior.logvar for posterior in (found, expected)]
    same = logvars == [None, None] or torch.equal(*logvars)
    return same and torch.equal(found.mean, expected.mean)


def test_batches_may_be_begun_together_and_taken_in_any_order(url, make_clip):
    tokenizer = Tokenizer(url, Inference(batch_size=3))
    batches = [[make_clip(0), make_clip(1)], [make_clip(2), make_clip(3), make_clip(4)], [make_clip(5)]]
    expected = [tokenizer.encode(batch) for batch in batches]
    pending = [tokenizer.submit(batch) for batch in batches]
    for place in (1, 0, 2, 0):
        assert posteriors_equal(pending[place].result(), expected[place])


def test_a_batch_that_is_begun_needs_its_clips_no_more(url, make_clip):
    tokenizer = Tokenizer(url, Inference(batch_size=1))
    clip = make_clip(0)
    changed = replace(clip, pixels=clip.pixels.copy())
    pending = tokenizer.submit([changed])
    changed.pixels[:] = 0
    tokenizer.encode([make_clip(1)])
    assert posteriors_equal(pending.result(), tokenizer.encode([clip]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_results_arrive_in_page_locked_memory_and_are_those_of_the_cpu(url, make_clip):
    on_cpu, on_gpu = (Tokenizer(url, Inference(batch_size=2, device=device)) for device in ("cpu", "cuda"))
    batches = [[make_clip(number), make_clip(number + 1)] for number in range(8)]
    pending = [on_gpu.submit(batch) for batch in batches]
    for batch, begun in zip(batches, pending, strict=True):
        found = begun.result().mean
        assert found.is_pinned()
        torch.testing.assert_close(found, on_cpu.encode(batch).mean, atol=1e-2, rtol=1e-2)


def test_latents_are_float32_on_the_cpu_in_either_precision(url, make_clip):
    exact, rough = (
        Tokenizer(url, Inference(batch_size=2, precision=precision)).encode([make_clip(0)]).mean
        for precision in ("float32", "bfloat16")
    )
    assert exact.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.1)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_networks_give_what_they_give_uncompiled(tokenizer_url, make_clip):
    plain, compiled = (Tokenizer(tokenizer_url, Inference(batch_size=2, compile=flag)) for flag in (False, True))
    clips = [make_clip(0), make_clip(1)]
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError):
        compiled.encode(clips)  # so there is something to compile
    expected, found = plain.encode(clips), compiled.encode(clips)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-4, rtol=1e-4)
    assert torch.equal(compiled.encode(clips[:1]).mean[0], found.mean[0])
    one, other = (tokenizer.decode(expected.mode(), num_frames=4) for tokenizer in (plain, compiled))
    torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"threads": 0}])
def test_inference_needs_at_least_one_of_each(setting):
    with pytest.raises(ValueError, match="must be at least 1"):
        Inference(**setting)


def test_a_fingerprint_tells_of_compilation_only_where_there_is_one():
    plain = {"batch_size": 8, "precision": "float32", "device": "cpu", "threads": 1}
    assert Inference().to_json() == plain
    assert Inference(compile=True).to_json() == plain | {"compile": True}
