"""Diffusion: moments of noisy latents, the loss's minimum, and samplers that recover a Gaussian they know."""

import itertools
import math

import pytest
import torch

from vitok.generator.diffusion import (
    NUM_STEPS,
    ddim,
    ddpm,
    diffuse,
    diffusion_loss,
    signal_power,
    spaced_steps,
)

MEAN, STD = 1.5, 0.6


def knowing(latents, times):
    """The noise that is to be expected of latents, where clean ones are N(1.5, 0.6^2)."""
    power = signal_power()[times.long()].reshape(-1, 1, 1, 1, 1)
    variance = power * STD**2 + 1.0 - power
    return ((1.0 - power).sqrt() * (latents - power.sqrt() * MEAN) / variance).float()


def carried(num_steps):
    """What DDIM, here an affine map, makes of noise: its slope and its offset."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    offset, top = ddim(lambda latents, times: knowing(latents, times).double(), ends, num_steps=num_steps).flatten()
    return float(top - offset), float(offset)


def flow_map():
    """The probability flow's own slope and offset from t = 999 to 0 (Song et al., arXiv:2011.13456)."""
    first, last = float(signal_power()[0]), float(signal_power()[-1])
    slope = math.sqrt((first * STD**2 + 1 - first) / (last * STD**2 + 1 - last))
    # To the clean latent itself the last step takes the denoised mean.
    shrink = math.sqrt(first) * STD**2 / (first * STD**2 + 1 - first)
    return slope * shrink, MEAN - slope * shrink * math.sqrt(last) * MEAN


def test_the_schedule_is_adms():
    power = signal_power()
    assert power.shape == (NUM_STEPS,)
    assert float(power[0]) == pytest.approx(1 - 1e-4)
    assert float(power[-1] / power[-2]) == pytest.approx(1 - 0.02)
    assert float(power[-1]) == pytest.approx(4.036e-5, rel=1e-3)
    assert (power.diff() < 0).all()


@pytest.mark.parametrize("step", [0, 250, 999])
def test_noisy_latents_have_the_moments_of_q(step):
    generator = torch.Generator().manual_seed(step)
    clean = MEAN + STD * torch.randn(20_000, 1, 1, 1, 4, generator=generator)
    noisy = diffuse(clean, torch.randn(clean.shape, generator=generator), torch.full((20_000,), step))
    power = float(signal_power()[step])
    assert float(noisy.mean()) == pytest.approx(math.sqrt(power) * MEAN, abs=0.015)
    assert float(noisy.var()) == pytest.approx(power * STD**2 + 1 - power, rel=0.02)


def test_one_step_on_top_of_another_is_the_chain():
    """q(x_t | x_t-1) composed over all steps has the closed form's signal and noise."""
    betas = torch.linspace(1e-4, 0.02, NUM_STEPS, dtype=torch.float64)
    signal, noise = 1.0, 0.0
    for step, beta in enumerate(betas.tolist()):
        signal, noise = signal * math.sqrt(1 - beta), noise * (1 - beta) + beta
        if step in (0, 500, 999):
            assert signal == pytest.approx(math.sqrt(float(signal_power()[step])))
            assert noise == pytest.approx(1 - float(signal_power()[step]))


def test_steps_are_spaced_with_both_ends():
    assert spaced_steps(1000).tolist() == list(range(1000))
    steps = spaced_steps(250).tolist()
    assert (len(set(steps)), steps[0], steps[-1]) == (250, 0, 999)
    assert steps == sorted(steps)
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match=f"steps: got {wrong}, expected 1 to 1000"):
            spaced_steps(wrong)


def test_ddim_with_the_true_noise_of_a_gaussian_recovers_it():
    slope, offset = carried(NUM_STEPS)
    assert (slope, offset) == pytest.approx((STD, MEAN), rel=0.01)
    assert (slope, offset) == pytest.approx(flow_map(), rel=0.01)


def test_ddim_comes_nearer_with_more_steps():
    wrong = [abs(carried(num_steps)[0] - flow_map()[0]) for num_steps in (25, 50, 100, 200)]
    assert all(later < 0.7 * before for before, later in itertools.pairwise(wrong))


@pytest.mark.parametrize("learned", [False, True])
def test_ddpm_with_the_true_noise_of_a_gaussian_recovers_it(learned):
    """The best variance of a step backwards is known too; told as a share between its bounds, it leaves no bias."""
    generator = torch.Generator().manual_seed(0)

    def predict(latents, times):
        noise = knowing(latents, times)
        if not learned:
            return noise
        step = int(times[0])
        power, before = float(signal_power()[step]), float(signal_power()[step - 1]) if step else 1.0
        beta = 1 - power / before
        if not step:
            return torch.cat([noise, noise], dim=-1)
        smallest = beta * (1 - before) / (1 - power)
        about_clean = STD**2 * (1 - power) / (power * STD**2 + 1 - power)
        true = smallest + before * beta**2 / (1 - power) ** 2 * about_clean
        share = (math.log(true) - math.log(smallest)) / (math.log(beta) - math.log(smallest))
        return torch.cat([noise, torch.full_like(noise, 2 * share - 1)], dim=-1)

    shape = (4000, 1, 1, 1, 2)
    found = ddpm(
        predict,
        torch.randn(shape, generator=generator),
        num_steps=NUM_STEPS,
        learned_variance=learned,
        draw=lambda: torch.randn(shape, generator=generator),
    )
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(found.std()) == pytest.approx(STD, rel=0.02)


def test_the_loss_of_the_true_noise_is_the_least():
    clean = MEAN + STD * torch.randn(8000, 1, 1, 1, 2, generator=torch.Generator().manual_seed(1))

    def loss(predict):
        terms = diffusion_loss(predict, clean, learned_variance=False, generator=torch.Generator().manual_seed(2))
        return float(terms.parts["noise"])

    least = loss(knowing)
    # What is left is the variance of the noise given the latents, averaged over steps.
    power = signal_power()
    assert least == pytest.approx(float((power * STD**2 / (power * STD**2 + 1 - power)).mean()), rel=0.05)
    assert least < loss(lambda latents, times: 1.05 * knowing(latents, times))
    assert loss(lambda latents, _: torch.zeros_like(latents)) == pytest.approx(1.0, rel=0.03)


def test_the_bound_teaches_the_variance_alone_and_is_least_at_the_true_one():
    """Where the noise is known exactly, so that the mean is exact, the smaller variance is the true one."""
    clean = torch.randn(64, 1, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    told = torch.full((1,), -1.0, requires_grad=True)
    share = torch.full((1,), 1.0, requires_grad=True)

    def predict(latents, times):
        power = signal_power()[times].reshape(-1, 1, 1, 1, 1)
        noise = ((latents - power.sqrt() * clean) / (1 - power).sqrt()).float() * share
        return torch.cat([noise, told.expand_as(noise)], dim=-1)

    terms = diffusion_loss(predict, clean, learned_variance=True, generator=torch.Generator().manual_seed(0))
    assert float(terms.parts["bound"]) == pytest.approx(0.0, abs=1e-6)
    (terms.total - terms.parts["noise"]).backward()
    assert abs(float(told.grad)) < 1e-3
    # All of the gradient of the noise is that of its own error: it was exact, so there is none.
    assert abs(float(share.grad)) < 1e-2
    for other in (-3.0, 1.0):
        with torch.no_grad():
            told.fill_(other)
        larger = diffusion_loss(predict, clean, learned_variance=True, generator=torch.Generator().manual_seed(0))
        assert float(larger.parts["bound"]) > 1e-5


def test_the_bound_is_the_divergence_of_the_gaussians():
    """Against torch's own KL of the two steps backwards, at steps beyond the first."""
    clean = torch.randn(256, 1, 1, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    seen = {}

    def predict(latents, times):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3)).to(latents)
        seen.update(latents=latents, times=times, noise=noise)
        return torch.cat([noise, torch.full_like(noise, 0.3)], dim=-1)

    # In float64 the loss's noise is drawn in float32 all the same.
    terms = diffusion_loss(predict, clean.float(), learned_variance=True, generator=torch.Generator().manual_seed(5))
    steps = seen["times"]
    power = signal_power()[steps].reshape(-1, 1, 1, 1, 1)
    before = torch.where(steps > 0, signal_power()[steps - 1], 1.0).reshape(-1, 1, 1, 1, 1)
    beta = 1 - power / before
    smallest = beta * (1 - before) / (1 - power)
    first = signal_power()
    floor = (1 - first[1] / first[0]) * (1 - first[0]) / (1 - first[1])
    smallest = torch.where(before == 1.0, floor, smallest)

    def mean(about):
        alpha = power / before
        return (before.sqrt() * (1 - alpha) * about + alpha.sqrt() * (1 - before) * seen["latents"]) / (1 - power)

    implied = (seen["latents"] - (1 - power).sqrt() * seen["noise"]) / power.sqrt()
    told = torch.exp(0.65 * beta.log() + 0.35 * smallest.log())
    true = torch.distributions.Normal(mean(clean), smallest.sqrt())
    divergence = torch.distributions.kl_divergence(true, torch.distributions.Normal(mean(implied), told.sqrt()))
    assert float(terms.parts["bound"]) == pytest.approx(float(divergence.mean()) / math.log(2), rel=1e-3)
