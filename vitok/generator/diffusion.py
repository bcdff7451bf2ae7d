"""Diffusion: noise prediction under ADM's linear schedule, its loss, and DDIM and DDPM sampling.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels, t = 0..999 the step of noise.

q(x_t | x_0) = N(sqrt(a_t) x_0, 1 - a_t), a_t the product of 1 - beta over the steps up to t (Ho et al., DDPM,
arXiv:2006.11239, equation 4). ViTok's generator predicts noise (arXiv:2501.09755, appendix); the schedule, 1000 betas
from 1e-4 to 0.02, and the learned variance are those of its v1 code, which has them from ADM (arXiv:2105.05233).
"""

import functools
import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from vitok.losses.reconstruction import Terms

NUM_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02

Predict = Callable[[Tensor, Tensor], Tensor]
"""Latents [B, T', H', W', K] and times [B] in [0, 1000] to a network's outputs."""


@functools.cache
def signal_power() -> Tensor:
    """a_t of every step: float64 [1000], from nearly 1 down to 4e-5."""
    betas = torch.linspace(BETA_FIRST, BETA_LAST, NUM_STEPS, dtype=torch.float64)
    return torch.cumprod(1.0 - betas, dim=0)


def diffuse(clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """x_t of clean latents and noise [B, T', H', W', K] at steps [B] (arXiv:2006.11239, equation 4)."""
    power = signal_power().to(steps.device)[steps]
    return _per_sample(power.sqrt(), clean) * clean + _per_sample((1.0 - power).sqrt(), clean) * noise


def diffusion_loss(predict: Predict, clean: Tensor, *, learned_variance: bool, generator: torch.Generator) -> Terms:
    """Squared error of the noise predicted at random steps; and, where a variance is learned, its bound.

    The bound (Nichol & Dhariwal, arXiv:2102.09672, section 3.1) is KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)) in bits
    for each number, with the mean held fixed so that it teaches the variance alone. At t = 0 ADM has the likelihood of
    8-bit pixels there; latents have no levels, so the KL stays, with the variance of t = 1 as the clipped one of t = 0.

    Args:
        predict: The network, under its classes.
        clean: Float [B, T', H', W', K], normalised.
        learned_variance: Whether there are 2K outputs.
        generator: Of steps and noise.

    Returns:
        Terms with the part noise, and bound where there is one.
    """
    steps = torch.randint(NUM_STEPS, (len(clean),), generator=generator, device=generator.device).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean.device)
    noisy = diffuse(clean, noise, steps)
    predicted = predict(noisy, steps).float()
    error = (predicted[..., : clean.shape[-1]] - noise).square().mean()
    if not learned_variance:
        return Terms(total=error, parts={"noise": error.detach()})
    bound = _bound(predicted, noise, steps)
    return Terms(total=error + bound, parts={"noise": error.detach(), "bound": bound.detach()})


def spaced_steps(num_steps: int) -> Tensor:
    """Steps that sampling visits, evenly spaced with both ends, as ADM spaces them: int64 [num_steps], rising.

    >>> spaced_steps(3)
    tensor([  0, 500, 999])

    Raises:
        ValueError: Not 1 to 1000.
    """
    if not 1 <= num_steps <= NUM_STEPS:
        raise ValueError(f"steps: got {num_steps}, expected 1 to {NUM_STEPS}")
    if num_steps == 1:
        return torch.tensor([NUM_STEPS - 1])
    return torch.linspace(0, NUM_STEPS - 1, num_steps, dtype=torch.float64).round().long()


def ddim(predict: Predict, noise: Tensor, *, num_steps: int) -> Tensor:
    """Latents of noise, both [B, T', H', W', K], deterministic (Song et al., arXiv:2010.02502, equation 12, eta 0)."""
    latents = noise
    for step, power, before in _descent(num_steps):
        predicted = _predict_noise(predict, latents, step)
        latents = math.sqrt(before) * _clean_of(latents, predicted, power) + math.sqrt(1.0 - before) * predicted
    return latents


def ddpm(
    predict: Predict, noise: Tensor, *, num_steps: int, learned_variance: bool, draw: Callable[[], Tensor]
) -> Tensor:
    """Latents of noise, both [B, T', H', W', K], noise added at every step (arXiv:2006.11239, algorithm 2).

    Args:
        predict: The network, under its classes.
        noise: Where it begins.
        num_steps: Steps out of the 1000; the chain between them is that of their own betas (arXiv:2102.09672, 4).
        learned_variance: Whether the network tells the variance; else it is beta, which suits x_0 of variance 1.
        draw: Standard noise of the latents' shape, new at each call.
    """
    latents = noise
    for step, power, before in _descent(num_steps):
        outputs = predict(latents, _times(latents, step)).float()
        predicted, told = outputs[..., : latents.shape[-1]], outputs[..., latents.shape[-1] :]
        mean = _posterior_mean(_clean_of(latents, predicted, power), latents, power, before)
        if before == 1.0:
            return mean  # the last step adds nothing
        beta = 1.0 - power / before
        smallest = beta * (1.0 - before) / (1.0 - power)
        std = (
            torch.exp(0.5 * _between(told, math.log(smallest), math.log(beta))) if learned_variance else math.sqrt(beta)
        )
        latents = mean + std * draw()
    raise AssertionError("the last of the steps returns")


def _descent(num_steps: int) -> list[tuple[int, float, float]]:
    """From the noisiest down: step, a_t, and a of the step that comes next (1 at the end)."""
    steps = spaced_steps(num_steps).tolist()
    powers = [float(signal_power()[step]) for step in steps]
    return list(zip(steps, powers, [1.0, *powers[:-1]], strict=True))[::-1]


def _times(latents: Tensor, step: int) -> Tensor:
    return torch.full((len(latents),), step, device=latents.device)


def _predict_noise(predict: Predict, latents: Tensor, step: int) -> Tensor:
    return predict(latents, _times(latents, step)).float()[..., : latents.shape[-1]]


def _clean_of(latents: Tensor, predicted: Tensor, power: float) -> Tensor:
    """x_0 that the predicted noise implies (arXiv:2006.11239, equation 15)."""
    return (latents - math.sqrt(1.0 - power) * predicted) / math.sqrt(power)


def _posterior_mean(clean: Tensor, latents: Tensor, power: float, before: float) -> Tensor:
    """Mean of q(x_before | x_t, x_0) (arXiv:2006.11239, equation 7)."""
    alpha = power / before
    shares = math.sqrt(before) * (1.0 - alpha), math.sqrt(alpha) * (1.0 - before)
    return (shares[0] * clean + shares[1] * latents) / (1.0 - power)


def _between(told: Tensor, smallest: float | Tensor, largest: float | Tensor) -> Tensor:
    """Log-variance that was told: -1 and 1 are its bounds' logarithms (arXiv:2102.09672, equation 15)."""
    share = (told + 1.0) / 2.0
    return share * largest + (1.0 - share) * smallest


def _bound(predicted: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """KL of two Gaussians in bits, averaged; the means differ by what the predicted noise is off, weighted."""
    powers = signal_power().to(steps.device)
    befores = torch.cat([powers.new_ones(1), powers[:-1]])
    betas = 1.0 - powers / befores
    variances = betas * (1.0 - befores) / (1.0 - powers)
    variances[0] = variances[1]
    weights = betas * befores.sqrt() / ((1.0 - powers) * powers).sqrt()
    weight, smallest, largest = (_per_sample(table[steps], noise) for table in (weights, variances.log(), betas.log()))
    channels = noise.shape[-1]
    told = _between(predicted[..., channels:], smallest, largest)
    difference = weight * (noise - predicted[..., :channels].detach())
    divergence = told - smallest + torch.exp(smallest - told) - 1.0 + difference.square() * torch.exp(-told)
    return 0.5 * divergence.mean() / math.log(2.0)


def _per_sample(values: Tensor, latents: Tensor) -> Tensor:
    """[B], computed in float64, as float32 that goes with latents [B, T', H', W', K]."""
    return rearrange(values, "b -> b 1 1 1 1").to(latents.dtype)
