"""The loss of stage one: its terms, its target, its gradient."""

import math

import pytest
import torch

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.losses.reconstruction import StageOne, pixel_loss, stage_one_loss
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.model.posterior import Posterior

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=2, num_heads=2),
    decoder=TransformerConfig(embed_dim=24, depth=2, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=4,
)
PIXELS_ONLY = StageOne(lpips_weight=0.0)
KINDS = ("l2", "l1", "charbonnier")


def reconstruction(pixels, moments):
    return Reconstruction(pixels=pixels, posterior=Posterior.from_moments(moments))


def mean_squares(reference, candidate):
    """A distance of frames that has a closed form."""
    return (reference - candidate).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("kind", "of_difference"),
    [("l2", lambda d: d * d), ("l1", abs), ("charbonnier", lambda d: math.sqrt(d * d + 1e-6))],
)
def test_pixel_losses_are_the_mean_of_their_formula(kind, of_difference):
    generator = torch.Generator().manual_seed(0)
    pixels, target = (torch.randn(2, 3, 2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    differences = (pixels - target).flatten().tolist()
    expected = sum(map(of_difference, differences)) / len(differences)
    assert pixel_loss(pixels, target, kind).item() == pytest.approx(expected, rel=1e-12)
    assert pixel_loss(target, pixels, kind).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "expected"), [("l2", 0.0), ("l1", 0.0), ("charbonnier", 1e-3)])
def test_equal_pixels_cost_the_least_and_pull_nowhere(kind, expected):
    pixels = torch.rand(1, 3, 1, 4, 4, requires_grad=True)
    loss = pixel_loss(pixels, pixels.detach(), kind)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert not pixels.grad.any()


def test_charbonnier_lies_within_eps_above_l1():
    pixels, target = torch.rand(2, 1, 3, 1, 8, 8, dtype=torch.float64)
    excess = pixel_loss(pixels, target, "charbonnier") - pixel_loss(pixels, target, "l1")
    assert 0 < excess < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_compared_in_float32(kind, target_dtype):
    pixels = torch.full((1, 3, 2, 4, 4), 0.1, dtype=torch.bfloat16)
    target = torch.full((1, 3, 2, 4, 4), -0.7).to(target_dtype)
    loss = pixel_loss(pixels, target, kind)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(pixel_loss(pixels.double(), target.double(), kind).item())


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind: got 'huber', expected one of l2, l1, charbonnier"):
        pixel_loss(torch.zeros(1), torch.zeros(1), "huber")
    with pytest.raises(ValueError, match="pixel: got 'huber', expected one of l2, l1, charbonnier"):
        StageOne(pixel="huber")


@pytest.mark.parametrize("name", ["kl_weight", "lpips_weight"])
@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_weights_that_weigh_nothing_are_refused(name, weight):
    with pytest.raises(ValueError, match=f"{name}: got {weight}, expected a finite number"):
        StageOne(**{name: weight})


def test_perfect_reconstruction_from_the_prior_costs_nothing():
    pixels = torch.randn(2, 3, 2, 4, 4)
    terms = stage_one_loss(reconstruction(pixels, torch.zeros(2, 1, 1, 1, 8)), pixels, StageOne(), mean_squares)
    assert terms.total == 0
    assert terms.parts == {"pixel": 0, "kl": 0, "lpips": 0}


def test_terms_of_known_errors():
    pixels = torch.zeros(2, 3, 2, 4, 4)
    target = pixels.clone()
    target[0] = 0.5
    moments = torch.cat([torch.full((2, 1, 1, 1, 4), 2.0), torch.zeros(2, 1, 1, 1, 4)], dim=-1)
    settings = StageOne(pixel="l1", kl_weight=0.1, lpips_weight=3.0)
    terms = stage_one_loss(reconstruction(pixels, moments), target, settings, mean_squares)
    assert {name: part.item() for name, part in terms.parts.items()} == pytest.approx(
        {"pixel": 0.25, "kl": 2.0, "lpips": 0.125}
    )
    assert list(terms.parts) == ["pixel", "kl", "lpips"]
    assert terms.total.item() == pytest.approx(0.25 + 0.1 * 2.0 + 3.0 * 0.125)


def test_the_papers_weights_are_the_default():
    pixels, target = torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 0.5)
    moments = torch.cat([torch.ones(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 4)], dim=-1)
    terms = stage_one_loss(reconstruction(pixels, moments), target, StageOne(), mean_squares)
    assert terms.total.item() == pytest.approx(0.25 + 1e-3 * 0.5 + 1.0 * 0.25)


def test_a_distance_is_there_exactly_where_it_has_a_weight():
    pixels = torch.zeros(1, 3, 2, 4, 4)
    result = reconstruction(pixels, torch.zeros(1, 1, 1, 1, 8))
    assert list(stage_one_loss(result, pixels, PIXELS_ONLY, None).parts) == ["pixel", "kl"]
    with pytest.raises(ValueError, match=r"lpips: got none with lpips_weight 1\.0"):
        stage_one_loss(result, pixels, StageOne(), None)
    with pytest.raises(ValueError, match=r"lpips: got a distance with lpips_weight 0\.0"):
        stage_one_loss(result, pixels, PIXELS_ONLY, mean_squares)


def test_only_the_total_carries_a_gradient():
    model, pixels = AutoEncoder(CONFIG), torch.rand(1, 3, 2, 8, 8)
    terms = stage_one_loss(model(pixels), pixels, StageOne(), mean_squares)
    assert terms.total.requires_grad
    assert [name for name, part in terms.parts.items() if part.requires_grad] == []


def test_targets_of_other_lengths_are_refused():
    torch.manual_seed(0)
    model, image = AutoEncoder(CONFIG), torch.rand(1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"got shape \(1, 3, 1, 8, 8\), expected \(1, 3, 2, 8, 8\).*pad_frames"):
        stage_one_loss(model(image), image, PIXELS_ONLY, None)
    assert stage_one_loss(model(image), model.pad_frames(image), PIXELS_ONLY, None).total > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind):
    torch.manual_seed(0)
    model = AutoEncoder(CONFIG)
    pixels = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    settings = StageOne(pixel=kind)
    stage_one_loss(model(pixels), model.pad_frames(pixels), settings, mean_squares).total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = AutoEncoder(CONFIG)
    pixels = (torch.rand(2, 3, 1, 1, 1) * 2 - 1).expand(2, 3, 4, 8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        terms = stage_one_loss(model(pixels), model.pad_frames(pixels), PIXELS_ONLY, None)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.total.item())
    assert losses[-1] < 0.3 * losses[0]
