"""The posterior against torch.distributions; points, noise and masks."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vitok.model.posterior import Posterior


@pytest.fixture
def posterior():
    torch.manual_seed(0)
    return Posterior.from_moments(torch.randn(3, 2, 4, 5, 2 * 6))


def test_moments_are_means_then_log_variances():
    moments = torch.arange(6.0).reshape(1, 1, 1, 1, 6)
    posterior = Posterior.from_moments(moments)
    assert posterior.mean.flatten().tolist() == [0, 1, 2]
    assert posterior.logvar.flatten().tolist() == [3, 4, 5]


def test_log_variance_is_clamped_and_the_mean_is_not():
    posterior = Posterior.from_moments(torch.tensor([[[[[-100.0, 100.0, -100.0, 100.0]]]]]))
    assert posterior.mean.flatten().tolist() == [-100, 100]
    assert posterior.logvar.flatten().tolist() == [-30, 20]
    assert posterior.kl().isfinite().all()


def test_odd_moments_are_refused():
    with pytest.raises(ValueError, match="got 5 channels"):
        Posterior.from_moments(torch.zeros(1, 1, 1, 1, 5))


def test_half_precision_moments_become_float32():
    posterior = Posterior.from_moments(torch.zeros(1, 1, 1, 1, 4, dtype=torch.bfloat16))
    assert posterior.mean.dtype == posterior.logvar.dtype == posterior.sample().dtype == torch.float32


def test_kl_equals_torch_distributions(posterior):
    gaussian = Normal(posterior.mean, torch.exp(0.5 * posterior.logvar))
    expected = kl_divergence(gaussian, Normal(0.0, 1.0)).mean(dim=(1, 2, 3, 4))
    assert posterior.kl().shape == (3,)
    torch.testing.assert_close(posterior.kl(), expected)


def test_kl_of_the_prior_is_zero():
    assert Posterior.from_moments(torch.zeros(2, 1, 1, 1, 8)).kl().tolist() == [0, 0]


def test_sample_has_the_moments():
    moments = torch.tensor([3.0, -2.0, 0.0, 1.5]).expand(1, 1, 100, 200, 4)
    sample = Posterior.from_moments(moments).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample.mean(dim=(0, 1, 2, 3)), torch.tensor([3.0, -2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(sample.var(dim=(0, 1, 2, 3)).log(), torch.tensor([0.0, 1.5]), atol=0.05, rtol=0)


def test_sample_is_a_function_of_the_generator(posterior):
    draws = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_given_generator_leaves_the_global_one_alone(posterior):
    before = torch.get_rng_state()
    posterior.sample(torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    posterior.sample()
    assert not torch.equal(torch.get_rng_state(), before)


def test_mode_is_the_mean(posterior):
    assert torch.equal(posterior.mode(), posterior.mean)


def test_a_point_is_its_own_sample_and_costs_no_nats():
    mean = torch.randn(3, 2, 4, 5, 6, requires_grad=True)
    point = Posterior(mean=mean, logvar=None)
    assert point.sample() is point.mode() is mean
    assert point.kl().tolist() == [0, 0, 0]


def test_noise_about_a_point_has_its_size_and_the_generators_numbers():
    point = Posterior(mean=torch.full((1, 1, 100, 100, 4), 2.0), logvar=None, noise_std=0.25)
    gaussian = Posterior(mean=point.mean, logvar=torch.full_like(point.mean, 0.25).log() * 2)
    sample = point.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample, gaussian.sample(torch.Generator().manual_seed(0)))
    assert sample.std().item() == pytest.approx(0.25, rel=0.02)
    assert point.kl().tolist() == [0]


@pytest.fixture
def masked(posterior):
    mask = torch.zeros(3, 2, 4, 5, dtype=torch.bool)
    mask[0], mask[1, :1, :, :3], mask[2, 0, 0, 0] = True, True, True
    return Posterior(mean=posterior.mean, logvar=posterior.logvar, mask=mask)


def test_kl_is_the_mean_over_real_tokens(posterior, masked):
    for clip, own in enumerate(masked.mask):
        gaussian = Normal(posterior.mean[clip][own], torch.exp(0.5 * posterior.logvar[clip][own]))
        torch.testing.assert_close(masked.kl()[clip], kl_divergence(gaussian, Normal(0.0, 1.0)).mean())


def test_samples_are_zero_at_padding(posterior, masked):
    sample, whole = (each.sample(torch.Generator().manual_seed(0)) for each in (masked, posterior))
    assert torch.equal(sample[masked.mask], whole[masked.mask])
    assert not sample[~masked.mask].any()
