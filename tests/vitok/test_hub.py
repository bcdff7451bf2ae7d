"""The diffusers-style face: shapes and names that trainers rely on, statistics, tiles, and folders that come back."""

import dataclasses
import json

import pytest
import torch

from vitok.card import Audit, model_card, variant_name
from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.hub import AutoencoderViTok
from vitok.model.autoencoder import AutoEncoder
from vitok.model.checkpoint import ChannelStatistics, fingerprint, load_checkpoint, save_checkpoint
from vitok.model.tiling import Tiling

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=12, depth=1, num_heads=1),
    decoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=3,
)
STATISTICS = ChannelStatistics(mean=(0.5, -1.0, 2.0), std=(0.25, 1.0, 3.0))
AUDIT = Audit(metrics={"psnr": 30.25, "ssim": 0.91}, protocol="7 clips of 8x64x64, posterior mean")


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return AutoencoderViTok(AutoEncoder(CONFIG), STATISTICS).eval().requires_grad_(False)


def of(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


IMAGES = of(1, 2, 3, 8, 12)
VIDEOS = of(2, 2, 3, 6, 8, 12)


def test_videos_are_those_of_the_model_with_channels_first(vae):
    posterior = vae.model.encode(VIDEOS)
    found = vae.encode(VIDEOS).latent_dist
    assert found.mode().shape == (2, 3, 3, 2, 3)
    assert torch.equal(found.mode().movedim(1, -1), posterior.mean)
    assert torch.equal(found.mean, found.mode())
    assert torch.equal(found.logvar.movedim(1, -1), posterior.logvar)
    assert torch.equal(vae.decode(found.mode()).sample, vae.model.decode(posterior.mean))


def test_images_are_stills_of_which_the_first_frame_comes_back(vae):
    posterior = vae.model.encode(IMAGES[:, :, None])
    z = vae.encode(IMAGES).latent_dist.mode()
    assert z.shape == (2, 3, 2, 3)
    assert torch.equal(z.movedim(1, -1), posterior.mean[:, 0])
    decoded = vae.decode(z).sample
    assert decoded.shape == IMAGES.shape
    assert torch.equal(decoded, vae.model.decode(posterior.mean)[:, :, 0])


def test_samples_are_those_of_the_posterior(vae):
    first, again, other = (
        vae.encode(VIDEOS).latent_dist.sample(generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    expected = vae.model.encode(VIDEOS).sample(torch.Generator().manual_seed(3))
    assert torch.equal(first.movedim(1, -1), expected)


def test_outputs_are_taken_as_tuples_too(vae):
    (distribution,) = vae.encode(IMAGES, return_dict=False)
    z = distribution.mode()
    assert torch.equal(vae.decode(z, return_dict=False, generator=None)[0], vae.decode(z).sample)


def test_forward_reconstructs_any_length(vae):
    assert torch.equal(vae(VIDEOS).sample, vae.model(VIDEOS, sample=False).pixels)
    assert vae(VIDEOS[:, :, :5]).sample.shape == (2, 3, 5, 8, 12)
    assert vae(IMAGES).sample.shape == IMAGES.shape
    sampled = vae(VIDEOS, sample_posterior=True, generator=torch.Generator().manual_seed(3)).sample
    assert torch.equal(sampled, vae.model(VIDEOS, generator=torch.Generator().manual_seed(3)).pixels)


def test_config_says_what_trainers_ask(vae):
    config = vae.config
    assert (config.latent_channels, config.z_dim, config.in_channels, config.out_channels) == (3, 3, 3, 3)
    assert (config.spatial_compression_ratio, config.scale_factor_spatial) == (4, 4)
    assert (config.temporal_compression_ratio, config.scale_factor_temporal) == (2, 2)
    assert config.latents_mean == STATISTICS.mean
    assert config.latents_std == STATISTICS.std


def test_normalize_takes_the_statistics_away(vae):
    noise = torch.randn(20000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    latents = noise * torch.tensor(STATISTICS.std).reshape(3, 1, 1) + torch.tensor(STATISTICS.mean).reshape(3, 1, 1)
    torch.testing.assert_close(vae.normalize(latents), noise, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.denormalize(vae.normalize(latents)), latents)
    assert vae.normalize(torch.zeros(1, 3, 2, 2, 2)).shape == (1, 3, 2, 2, 2)
    assert vae.normalize(latents.bfloat16()).dtype == torch.bfloat16
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert scaled.mean().abs() < 0.02
    assert abs(scaled.std() - 1) < 0.02


def test_without_statistics_nothing_is_made_up(vae):
    bare = AutoencoderViTok(vae.model)
    assert bare.config.latents_mean is None
    assert bare.config.latents_std is None
    assert (bare.config.shift_factor, bare.config.scaling_factor) == (0.0, 1.0)
    for method in (bare.normalize, bare.denormalize):
        with pytest.raises(ValueError, match="latents_mean and latents_std are not known"):
            method(torch.zeros(1, 3, 2, 2))


def test_a_deterministic_bottleneck_has_no_variance():
    torch.manual_seed(0)
    vae = AutoencoderViTok(AutoEncoder(dataclasses.replace(CONFIG, bottleneck="none")))
    found = vae.encode(IMAGES).latent_dist
    assert found.logvar is None
    assert torch.equal(found.sample(), found.mode())


def test_half_precision_in_and_out(vae):
    vae.to(torch.bfloat16)
    assert vae.dtype == torch.bfloat16
    z = vae.encode(IMAGES).latent_dist.sample()
    assert z.dtype == torch.bfloat16
    assert vae.decode(z.float()).sample.dtype == torch.bfloat16
    assert vae.device == torch.device("cpu")


def test_tiling_is_switched_on_and_off(vae):
    videos = of(5, 1, 3, 6, 16, 24)
    whole = vae(videos).sample
    vae.enable_tiling()
    assert torch.equal(vae(videos).sample, whole)  # one tile
    vae.enable_tiling(Tiling(frames=4, height=8, width=8, overlap_frames=2, overlap_height=4, overlap_width=4))
    assert vae(videos).sample.shape == whole.shape
    assert not torch.allclose(vae(videos).sample, whole, atol=1e-4)
    assert vae(of(6, 1, 3, 16, 24)).sample.shape == (1, 3, 16, 24)
    vae.disable_tiling()
    assert torch.equal(vae(videos).sample, whole)


def test_the_default_tiles_fit_any_tubelet():
    for tubelet in (Tubelet(frames=1, patch=14), Tubelet(frames=8, patch=8), Tubelet(frames=4, patch=16)):
        with torch.device("meta"):
            vae = AutoencoderViTok(AutoEncoder(dataclasses.replace(CONFIG, tubelet=tubelet)))
        vae.enable_tiling()
        assert vae.tiling.frames >= 16
        assert vae.tiling.height >= 256


def test_folders_come_back(vae, tmp_path):
    vae.save_pretrained(str(tmp_path / "vae"), audit=AUDIT, training={"step": 1})
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = AutoencoderViTok.from_pretrained(str(tmp_path), subfolder="vae")
    assert not loaded.training
    assert loaded.config == vae.config
    assert torch.equal(loaded(VIDEOS).sample, vae(VIDEOS).sample)
    assert fingerprint(load_checkpoint(str(tmp_path / "vae"))) == fingerprint(vae.model)
    description = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert description["latents_mean"] == list(STATISTICS.mean)
    assert description["latents_std"] == list(STATISTICS.std)
    assert description["training"] == {"step": 1}


def test_folders_on_other_file_systems_come_back(vae):
    vae.save_pretrained("memory://bucket/vae")
    loaded = AutoencoderViTok.from_pretrained("memory://bucket/vae", torch_dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.statistics == STATISTICS


def test_a_trained_tokenizer_is_read_as_it_is(vae, tmp_path):
    save_checkpoint(str(tmp_path), vae.model)
    loaded = AutoencoderViTok.from_pretrained(str(tmp_path))
    assert loaded.config.statistics is None
    assert torch.equal(loaded(IMAGES).sample, vae(IMAGES).sample)


def test_the_card_says_what_the_folder_is():
    config = AutoEncoderConfig.from_name("S-B/4x8", latent_channels=3)
    card = model_card(config, statistics=STATISTICS, audit=AUDIT)
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert front.splitlines() == [
        *("library_name: vitok", "tags:", "- vitok", "- autoencoder", "- video-tokenizer", "- latents")
    ]
    assert "# ViTok S-B/4x8, 3 channels" in text
    assert "128.83" in text
    assert "| 16 x 128 x 128 | 4x16x16 | 3072 | 256 | 53.79 | 106.96 |" in text
    assert "| 2 | 2 | 3 |" in text
    assert "| psnr | 30.25 |" in text
    assert AUDIT.protocol in text


def test_the_card_of_an_image_model_without_audit_says_so():
    card = model_card(CONFIG, statistics=None, audit=None)
    assert "Not audited." in card
    assert "not known" in card
    image = model_card(AutoEncoderConfig.from_name("N-N/16"), statistics=None, audit=None)
    assert "image-tokenizer" in image
    assert "| 16 x" not in image


def test_variants_have_the_papers_names():
    for name in ("S-B/16", "N-T/4x8"):
        assert variant_name(AutoEncoderConfig.from_name(name)) == name
    assert variant_name(CONFIG) == "custom-custom/2x4"


@pytest.mark.parametrize(
    ("metrics", "protocol", "message"),
    [({}, "x", "at least one"), ({"psnr": float("nan")}, "x", "finite"), ({"psnr": 1.0}, " ", "audit protocol")],
)
def test_audits_that_say_nothing_are_refused(metrics, protocol, message):
    with pytest.raises(ValueError, match=message):
        Audit(metrics=metrics, protocol=protocol)


def test_what_does_not_fit_is_refused(vae):
    with pytest.raises(ValueError, match=r"x: got shape \(3, 8, 12\)"):
        vae.encode(IMAGES[0])
    with pytest.raises(ValueError, match=r"z: got shape \(2, 2, 3, 3\), expected \[B, 3, H', W'\]"):
        vae.decode(torch.zeros(2, 2, 3, 3))
    with pytest.raises(ValueError, match="num_frames: got 2 for latents of images"):
        vae.decode(torch.zeros(2, 3, 2, 3), num_frames=2)
    with pytest.raises(ValueError, match="multiples of 2"):
        vae.enable_tiling(Tiling(frames=3, height=8, width=8, overlap_frames=0, overlap_height=4, overlap_width=4))
    with pytest.raises(ValueError, match="statistics: got 1 channels, the model has 3"):
        AutoencoderViTok(vae.model, ChannelStatistics(mean=(0.0,), std=(1.0,)))
