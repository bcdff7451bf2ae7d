"""Flow matching: samplers against paths that are known exactly, the loss's minimum, the law of times."""

import itertools
import math

import pytest
import torch

from vitok.generator.flow import draw_times, euler, flow_loss, heun

MEAN, STD = 1.5, 0.6
NOISE = torch.randn(6, 1, 2, 2, 3, generator=torch.Generator().manual_seed(0))


def knowing(latents, times):
    """The velocity that is to be expected of latents, where clean ones are N(1.5, 0.6^2)."""
    time = times.reshape(-1, 1, 1, 1, 1) / 1000.0
    variance = (1 - time) ** 2 * STD**2 + time**2
    off = (latents - (1 - time) * MEAN) / variance
    return time * off - (MEAN + (1 - time) * STD**2 * off)


def to_a_point(latents, times):
    """The same where all clean latents are one: paths are straight."""
    return (latents - MEAN) / (times.reshape(-1, 1, 1, 1, 1) / 1000.0)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_straight_paths_are_exact_in_any_number_of_steps(num_steps):
    torch.testing.assert_close(euler(to_a_point, NOISE, num_steps=num_steps), torch.full_like(NOISE, MEAN))


@pytest.mark.parametrize(("solve", "order"), [(euler, 1), (heun, 2)])
def test_a_gaussian_is_carried_to_a_gaussian(solve, order):
    """The exact path is x_0 = mean + std * x_1; halving the step divides the error by two to the order."""
    exact = MEAN + STD * NOISE.double()
    wrong = [
        float((solve(knowing, NOISE.double(), num_steps=num_steps) - exact).abs().max()) for num_steps in (20, 40, 80)
    ]
    assert wrong[-1] < 0.05 / order**4
    for before, later in itertools.pairwise(wrong):
        assert math.log2(before / later) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
def test_the_loss_of_the_true_velocity_is_the_least(law):
    clean = MEAN + STD * torch.randn(8000, 1, 1, 1, 2, generator=torch.Generator().manual_seed(1))

    def loss(predict):
        return float(flow_loss(predict, clean, time_law=law, generator=torch.Generator().manual_seed(2)).total)

    assert loss(knowing) < loss(lambda latents, times: 1.02 * knowing(latents, times))
    assert loss(knowing) < loss(lambda latents, times: knowing(latents, times) + 0.05)
    zero = loss(lambda latents, _: torch.zeros_like(latents))
    assert zero == pytest.approx(1 + STD**2 + MEAN**2, rel=0.03)


def test_times_follow_their_law():
    generator = torch.Generator().manual_seed(0)
    uniform, normal = (draw_times(50_000, law, generator) for law in ("uniform", "logit_normal"))
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.01)
    assert float(normal.logit().mean()) == pytest.approx(0.0, abs=0.02)
    assert float(normal.logit().std()) == pytest.approx(1.0, abs=0.02)
