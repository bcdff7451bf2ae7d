"""Laws of the four bottlenecks."""

import dataclasses

import pytest
import torch

from vitok.config import AutoEncoderConfig, Grid, TransformerConfig, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.bottleneck import code_channels, posterior_of
from vitok.model.padding import Padding

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=6,
)
BOTTLENECKS = ["kl", "layer_norm", "tanh", "none"]


def config_of(bottleneck):
    return dataclasses.replace(CONFIG, bottleneck=bottleneck)


def code_of(bottleneck, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    channels = code_channels(config_of(bottleneck))
    return (3.0 * torch.randn(2, 2, 3, 4, channels, generator=generator) + 1.0).to(dtype)


def posterior(bottleneck, dtype=torch.float32):
    return posterior_of(code_of(bottleneck, dtype), config_of(bottleneck), None)


@pytest.mark.parametrize(("bottleneck", "channels"), [("kl", 12), ("layer_norm", 6), ("tanh", 6), ("none", 6)])
def test_the_encoder_puts_out_what_the_bottleneck_takes(bottleneck, channels):
    model = AutoEncoder(config_of(bottleneck))
    assert model.encoder_to_code.out_features == channels
    found = model(torch.zeros(1, 3, 2, 8, 8))
    assert found.posterior.mean.shape == (1, 1, 2, 2, 6)
    assert found.pixels.shape == (1, 3, 2, 8, 8)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_only_the_gaussian_learns_a_variance(bottleneck):
    found = posterior(bottleneck)
    assert (found.logvar is not None) == (bottleneck == "kl")
    assert found.kl().shape == (2,)
    assert (found.kl() > 0).all() == (bottleneck == "kl")
    assert found.mode() is found.mean


def test_layer_norm_leaves_zero_mean_and_unit_variance_a_token():
    mean = posterior("layer_norm").mean
    torch.testing.assert_close(mean.mean(dim=-1), torch.zeros(2, 2, 3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean.var(dim=-1, correction=0), torch.ones(2, 2, 3, 4), atol=1e-4, rtol=0)


def test_layer_norm_forgets_scale_and_shift_of_a_token():
    config = dataclasses.replace(config_of("layer_norm"), layer_norm_eps=0.0)
    code = code_of("layer_norm").double()
    torch.testing.assert_close(posterior_of(7.0 * code - 2.0, config, None).mean, posterior_of(code, config, None).mean)


def test_tanh_stays_within_one_and_keeps_the_order():
    code = code_of("tanh", torch.float64)  # float32 rounds the far ones to 1
    mean = posterior("tanh", torch.float64).mean
    assert 0.9 < mean.abs().max() < 1
    assert torch.equal(mean.flatten().argsort(), code.flatten().argsort())
    torch.testing.assert_close(mean.atanh(), code)


def test_nothing_is_the_code():
    assert torch.equal(posterior("none").mean, code_of("none"))


@pytest.mark.parametrize("bottleneck", ["layer_norm", "none"])
def test_samples_of_a_point_are_the_point_and_draw_nothing(bottleneck):
    before = torch.get_rng_state()
    found = posterior(bottleneck)
    assert torch.equal(found.sample(), found.mean)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_samples_of_tanh_carry_noise_of_the_configs_size(noise):
    config = dataclasses.replace(config_of("tanh"), bottleneck_noise=noise)
    found = posterior_of(torch.zeros(1, 1, 100, 100, 6), config, None)
    sample = found.sample(torch.Generator().manual_seed(0))
    assert sample.std().item() == pytest.approx(noise, rel=0.02)
    assert not found.mean.any()


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_half_precision_is_left_before_the_bottleneck(bottleneck):
    found = posterior(bottleneck, torch.bfloat16)
    exact = posterior_of(code_of(bottleneck, torch.bfloat16).float(), config_of(bottleneck), None)
    assert found.mean.dtype == torch.float32
    assert torch.equal(found.mean, exact.mean)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_padding_comes_out_as_zero_and_leaves_the_rest_alone(bottleneck):
    grids = [Grid(frames=1, height=3, width=2), Grid(frames=2, height=3, width=4)]
    padding = Padding.of_grids(grids, num_clips=2, grid=Grid(frames=2, height=3, width=4), device=torch.device("cpu"))
    code = code_of(bottleneck)
    code[~padding.mask] = float("nan")
    found = posterior_of(code, config_of(bottleneck), padding)
    for values in (found.mean, found.sample()) if found.logvar is None else (found.mean, found.logvar, found.sample()):
        assert not values[~padding.mask].any()
    whole = posterior(bottleneck)
    assert torch.equal(found.mean[padding.mask], whole.mean[padding.mask])
    torch.testing.assert_close(found.kl()[1], whole.kl()[1])
    alone = posterior_of(code_of(bottleneck)[:1, :1, :, :2], config_of(bottleneck), None)
    torch.testing.assert_close(found.kl()[:1], alone.kl())


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_every_bottleneck_trains_both_sides(bottleneck):
    torch.manual_seed(0)
    model = AutoEncoder(config_of(bottleneck))
    found = model(torch.rand(1, 3, 2, 8, 8))
    (found.pixels.square().mean() + found.posterior.kl().mean()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert model.tubelet_embed.proj.weight.grad.any()
