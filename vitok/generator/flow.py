"""Flow matching: velocity prediction on straight paths from latents to noise, its loss, and Euler and Heun sampling.

Axes: B batch, T' x H' x W' the grid of tubelets, K latent channels; times t in [0, 1], 0 clean, 1 noise.

x_t = (1 - t) x_0 + t e, dx/dt = e - x_0: rectified flow (Liu et al., arXiv:2209.03003), the linear path of flow
matching (Lipman et al., arXiv:2210.02747). The paper's generator is a diffusion; ViTok-v2's (arXiv:2605.05331) a flow.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from vitok.generator.diffusion import Predict
from vitok.generator.dit import TIME_SCALE
from vitok.losses.reconstruction import Terms

TimeLaw = Literal["uniform", "logit_normal"]


def draw_times(num_samples: int, law: TimeLaw, generator: torch.Generator) -> Tensor:
    """Times of training, float32 [num_samples] in [0, 1].

    logit_normal: sigmoid of a standard normal, which dwells on the middle (arXiv:2403.03206, section 3.1).
    """
    if law == "uniform":
        return torch.rand(num_samples, generator=generator, device=generator.device)
    return torch.randn(num_samples, generator=generator, device=generator.device).sigmoid()


def flow_loss(predict: Predict, clean: Tensor, *, time_law: TimeLaw, generator: torch.Generator) -> Terms:
    """Squared error of the velocity predicted at random times (arXiv:2210.02747, equation 14).

    Args:
        predict: The network, under its classes.
        clean: Float [B, T', H', W', K], normalised.
        time_law: How times are drawn.
        generator: Of times and noise.

    Returns:
        Terms with the part velocity.
    """
    times = draw_times(len(clean), time_law, generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean.device)
    share = rearrange(times, "b -> b 1 1 1 1")
    predicted = predict((1.0 - share) * clean + share * noise, times * TIME_SCALE).float()
    error = (predicted - (noise - clean)).square().mean()
    return Terms(total=error, parts={"velocity": error.detach()})


def euler(predict: Predict, noise: Tensor, *, num_steps: int) -> Tensor:
    """Latents of noise, both [B, T', H', W', K], along the velocity in equal steps."""
    latents = noise
    for index in range(num_steps, 0, -1):
        latents = latents - _velocity(predict, latents, index / num_steps) / num_steps
    return latents


def heun(predict: Predict, noise: Tensor, *, num_steps: int) -> Tensor:
    """As `euler`, along the mean of the velocities at both ends of a step: two passes a step, error of second order.

    (Heun's method, as in Karras et al., arXiv:2206.00364, algorithm 1.) The last step, whose end is t = 0, takes the
    velocity there too.
    """
    latents = noise
    for index in range(num_steps, 0, -1):
        first = _velocity(predict, latents, index / num_steps)
        second = _velocity(predict, latents - first / num_steps, (index - 1) / num_steps)
        latents = latents - (first + second) / (2 * num_steps)
    return latents


def _velocity(predict: Predict, latents: Tensor, time: float) -> Tensor:
    return predict(latents, torch.full((len(latents),), time * TIME_SCALE, device=latents.device)).float()
