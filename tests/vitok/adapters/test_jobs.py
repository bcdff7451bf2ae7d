"""Any auto-encoder through the jobs: clips to a latent store of its own grids, as the class alone gives them."""

import json

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
PHOTOGRAPHS = 6
VIDEO_CLIPS = 16  # ten seconds at 8 frames a second, five frames a clip
CLIPS = PHOTOGRAPHS + VIDEO_CLIPS


@pytest.fixture(scope="module")
def clips(corpus, ray_here, tmp_path_factory):
    output = tmp_path_factory.mktemp("clips")
    prepare(
        PrepareConfig(
            input=(str(corpus),),
            output=str(output),
            resolution=32,
            num_frames=5,
            fps="8",
            tubelet="1x8",
            codec="png",
            shard_size=4,
            num_workers=1,
        )
    )
    return output


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
    ("tokenizer", "num_frames", "message"),
    [
        ("AutoencoderKLWan", 5, "have the grid 2x8x8 where the clips' is 5x8x8: prepare the media with --tubelet 1x4 "),
        ("AutoencoderKLWan", 4, r"takes clips of 1 \+ 4 k frames .* \(fits: 1x32x32\)"),
        (AVERAGE, 5, "for media that are no clips yet: .* there is no clip"),
    ],
)
def test_media_whose_latents_lie_on_a_grid_of_their_own_go_through_clips(
    tokenizer, num_frames, message, corpus, save, tmp_path
):
    name = tokenizer if tokenizer == AVERAGE else save(tokenizer)
    flags = ClipFlags(resolution=32, num_frames=num_frames)
    with pytest.raises(ValueError, match=message):
        encoded(name, tmp_path / "latents", input=(str(corpus),), clips=flags)
    assert not (tmp_path / "latents").exists()
