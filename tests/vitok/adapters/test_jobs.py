"""Any auto-encoder through the jobs: clips to a latent store of its own grids, as the class alone gives them."""

import json
from functools import cache

import pyarrow.parquet as pq
import pytest
import torch
from einops import rearrange

from pipeline.runs.audit import audit
from pipeline.runs.audit_config import AuditConfig
from pipeline.runs.clip_flags import ClipFlags
from pipeline.runs.encode import EncodeConfig, encode
from pipeline.runs.prepare import prepare
from pipeline.runs.prepare_config import PrepareConfig
from pipeline.runs.verify import VerifyConfig, verify
from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.plan import Plan
from tests.vitok.adapters.models import Average, make
from vitok.latents.store import LatentStore
from vitok.pixels import from_uint8

pytestmark = pytest.mark.cluster

AVERAGE = "tests.vitok.adapters.models:average"
POOLED = "tests.vitok.adapters.models:pooled"
PHOTOGRAPHS = 6
VIDEO_CLIPS = 16  # ten seconds at 8 frames a second, five frames a clip
CLIPS = PHOTOGRAPHS + VIDEO_CLIPS


@pytest.fixture(scope="module")
def prepared(corpus, ray_here, tmp_path_factory):
    """The corpus as a clip store, by the frames of a clip; each made once."""

    @cache
    def clips(num_frames):
        output = tmp_path_factory.mktemp("clips")
        prepare(
            PrepareConfig(
                input=(str(corpus),),
                output=str(output),
                resolution=32,
                num_frames=num_frames,
                fps="8",
                tubelet="1x8",
                codec="png",
                shard_size=4,
                num_workers=1,
            )
        )
        return output

    return clips


@pytest.fixture(scope="module")
def clips(prepared):
    return prepared(5)


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    def folder(name, **changes):
        path = tmp_path_factory.mktemp(name)
        make(name, **changes).save_pretrained(path)
        return str(path)

    return folder


def encoded(tokenizer, output, **changes):
    flags = {"shard_size": 8, "batch_size": 4, "num_workers": 1, "dtype": "float32"}
    return encode(EncodeConfig(tokenizer=tokenizer, output=str(output), **flags | changes))


def every_clip(store):
    for path in sorted(store.glob("grid=*/shard-*.tar")):
        with path.open("rb") as stream:
            for clip in read_clips(stream, where=path.name):
                yield clip.metadata.key, from_uint8(torch.from_numpy(clip.pixels[None]))


def stored(output):
    store = LatentStore(str(output))
    return {
        key: {name: latents[row] for name, latents in batch.latents.items()}
        for batch in store.batches(8)
        for row, key in enumerate(batch.columns["key"])
    }


def document(output):
    return json.loads((output / "store.json").read_bytes())


def plan(output):
    found = Plan.load(Folder(str(output)))
    assert found is not None
    return found


@torch.inference_mode()
def test_autoencoder_kl_of_diffusers(corpus, clips, save, tmp_path):
    tokenizer = save("AutoencoderKL")
    summary = encoded(tokenizer, tmp_path / "latents", shards=str(clips), logvar=True)
    assert summary.stored == CLIPS
    assert LatentStore(str(tmp_path / "latents")).buckets == {(1, 4, 4): PHOTOGRAPHS, (5, 4, 4): VIDEO_CLIPS}

    model, found = make("AutoencoderKL"), stored(tmp_path / "latents")
    for key, pixels in every_clip(clips):
        posterior = model.encode(rearrange(pixels, "1 c t h w -> t c h w")).latent_dist
        for name, expected in (("mean", posterior.mean), ("logvar", posterior.logvar)):
            torch.testing.assert_close(found[key][name], rearrange(expected, "t k h w -> t h w k"))

    one_pass = {"input": (str(corpus / "coffee.png"),), "clips": ClipFlags(resolution=32, num_frames=5)}
    encoded(tokenizer, tmp_path / "one-pass", logvar=True, **one_pass)
    ((key, latents),) = stored(tmp_path / "one-pass").items()
    for name, latent in latents.items():
        assert torch.equal(latent, found[key][name])

    store = document(tmp_path / "latents")
    assert store["tokenizer"]["config"]["class"] == "AutoencoderKL"
    assert store["tokenizer"]["config"]["config"]["scaling_factor"] == 0.3611
    assert store["normalisation"]["tokenizer"] == {"mean": [0.1159] * 4, "std": [1 / 0.3611] * 4}
    z = found[key]["mean"]
    normalised = LatentStore(str(tmp_path / "latents")).normalise(z, by="tokenizer")
    torch.testing.assert_close(normalised, (z - 0.1159) * 0.3611)
    assert verify(VerifyConfig(store=str(tmp_path / "latents"))).problems == []


@torch.inference_mode()
def test_a_causal_video_model_has_a_grid_of_its_own(clips, save, tmp_path):
    encoded(save("AutoencoderKLWan"), tmp_path, shards=str(clips))
    assert LatentStore(str(tmp_path)).buckets == {(1, 8, 8): PHOTOGRAPHS, (2, 8, 8): VIDEO_CLIPS}
    model, found = make("AutoencoderKLWan"), stored(tmp_path)
    for key, pixels in every_clip(clips):
        mean = model.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(found[key]["mean"], rearrange(mean, "1 k t h w -> t h w k"))
    for path in tmp_path.glob("grid=2x8x8/*.parquet"):
        metadata = pq.read_schema(path).field("mean").metadata
        assert json.loads(metadata[b"shape"]) == [2, 8, 8, 4]
    assert verify(VerifyConfig(store=str(tmp_path))).problems == []


def test_a_users_own_and_clips_of_two_lengths_on_one_grid(clips, tmp_path):
    encoded(AVERAGE, tmp_path, shards=str(clips), format="webdataset", shard_size=100)
    assert LatentStore(str(tmp_path)).buckets == {(1, 4, 4): CLIPS}
    # One folder, and yet no shard of clips of both lengths: a batch is of one shape.
    assert [(shard.bucket, shard.num_clips) for shard in plan(tmp_path).shards] == [
        ("grid=1x4x4", PHOTOGRAPHS),
        ("grid=1x4x4", VIDEO_CLIPS),
    ]
    found, average = stored(tmp_path), Average()
    for key, pixels in every_clip(clips):
        torch.testing.assert_close(found[key]["mean"], average.encode(pixels).mean[0])
    store = document(tmp_path)
    assert store["tokenizer"] == {
        "fingerprint": "average-1",
        "config": {"adapter": "python", "function": AVERAGE},
    }
    assert "tokenizer" not in store["normalisation"]
    assert store["normalisation"]["all"]["count"] == CLIPS * 16
    assert verify(VerifyConfig(store=str(tmp_path))).problems == []


def test_the_audit_takes_any(clips, save, tmp_path):
    tokenizer = save("AutoencoderKLWan")
    result = audit(
        AuditConfig(shards=str(clips), tokenizer=(tokenizer,), output=str(tmp_path), shard_size=8, num_examples=2)
    )
    (found,) = result.candidates
    assert found.summary.stored == CLIPS
    assert found.values["psnr"] > 0


def test_clips_of_a_length_that_does_not_fit_are_refused_before_work(clips, save, tmp_path):
    tokenizer = save("AutoencoderKLCosmos")
    with pytest.raises(ValueError, match=r"1 \+ 8 k frames .* got 5x32x32 \(fits: 1x32x32\)"):
        encoded(tokenizer, tmp_path / "latents", shards=str(clips))
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize("tokenizer", ["AutoencoderDC", AVERAGE])
def test_a_variance_that_is_not_learned_is_not_stored(tokenizer, clips, save, tmp_path):
    name = tokenizer if tokenizer == AVERAGE else save(tokenizer)
    with pytest.raises(ValueError, match=r"--logvar: the posteriors of the tokenizer .* have no variance"):
        encoded(name, tmp_path / "latents", shards=str(clips), logvar=True)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("tokenizer", "num_frames"), [("AutoencoderKLWan", 5), ("AutoencoderKLCosmos", 9), (AVERAGE, 5)]
)
def test_one_pass_gives_the_latents_of_the_same_clips_and_grows(
    tokenizer, num_frames, corpus, prepared, save, tmp_path
):
    name = tokenizer if tokenizer == AVERAGE else save(tokenizer)
    flags = {"clips": ClipFlags(resolution=32, num_frames=num_frames)}
    encoded(name, tmp_path / "one", input=(str(corpus / "coffee.png"),), **flags)
    encoded(name, tmp_path / "one", input=(str(corpus),), append=True, **flags)
    encoded(name, tmp_path / "two", shards=str(prepared(num_frames)))
    assert LatentStore(str(tmp_path / "one")).buckets == LatentStore(str(tmp_path / "two")).buckets
    found, expected = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert found.keys() == expected.keys()
    for key, latents in found.items():
        # Not to the bit: a clip has another place in its batch, which kernels may treat unlike by a last bit.
        torch.testing.assert_close(latents, expected[key])
    assert verify(VerifyConfig(store=str(tmp_path / "one"))).problems == []


def test_one_pass_keeps_clips_of_two_sizes_apart_on_one_grid(corpus, ray_here, tmp_path):
    pictures = tuple(str(corpus / name) for name in ("coffee.png", "astronaut.png"))
    flags = ClipFlags(sizes="32x32,32x48", num_frames=1)
    encoded(POOLED, tmp_path, input=pictures, clips=flags)
    assert LatentStore(str(tmp_path)).buckets == {(1, 2, 2): 2}
    assert [(shard.bucket, shard.clip_bucket, shard.num_clips) for shard in plan(tmp_path).shards] == [
        ("grid=1x2x2", "grid=1x32x32", 1),
        ("grid=1x2x2", "grid=1x32x48", 1),
    ]
    assert verify(VerifyConfig(store=str(tmp_path))).problems == []


@pytest.mark.parametrize(
    ("tokenizer", "clips", "changes", "message"),
    [
        (
            "AutoencoderKLWan",
            {"resolution": 32, "num_frames": 4},
            {},
            r"takes clips of 1 \+ 4 k frames .* \(fits: 1x32x32\)",
        ),
        (AVERAGE, {"bucket_tokens": 64}, {}, "--bucket-tokens: .*:average does not tell its tubelet"),
        (AVERAGE, {"resolution": 32}, {"compile": True}, ":average: cannot be compiled from outside"),
    ],
)
def test_media_and_flags_that_do_not_go_with_a_tokenizer_are_refused_before_work(
    tokenizer, clips, changes, message, corpus, save, tmp_path
):
    name = tokenizer if tokenizer == AVERAGE else save(tokenizer)
    with pytest.raises(ValueError, match=message):
        encoded(name, tmp_path / "latents", input=(str(corpus),), clips=ClipFlags(**clips), **changes)
    assert not (tmp_path / "latents").exists()
