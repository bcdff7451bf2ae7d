"""The loss of stage one: its terms, its target, its gradient."""

import pytest
import torch

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.losses.reconstruction import stage_one_loss
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.model.posterior import Posterior

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=2, num_heads=2),
    decoder=TransformerConfig(embed_dim=24, depth=2, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=4,
)


def reconstruction(pixels, moments):
    return Reconstruction(pixels=pixels, posterior=Posterior.from_moments(moments))


def test_perfect_reconstruction_from_the_prior_costs_nothing():
    pixels = torch.randn(2, 3, 2, 4, 4)
    terms = stage_one_loss(reconstruction(pixels, torch.zeros(2, 1, 1, 1, 8)), pixels)
    assert (terms.total, terms.reconstruction, terms.kl) == (0, 0, 0)


def test_terms_of_known_errors():
    pixels = torch.zeros(2, 3, 2, 4, 4)
    target = pixels.clone()
    target[0] = 0.5
    moments = torch.cat([torch.full((2, 1, 1, 1, 4), 2.0), torch.zeros(2, 1, 1, 1, 4)], dim=-1)
    terms = stage_one_loss(reconstruction(pixels, moments), target, kl_weight=0.1)
    assert terms.reconstruction.item() == pytest.approx(0.125)
    assert terms.kl.item() == pytest.approx(2.0)
    assert terms.total.item() == pytest.approx(0.125 + 0.1 * 2.0)


def test_the_papers_weight_is_the_default():
    pixels = torch.zeros(1, 3, 2, 4, 4)
    moments = torch.cat([torch.ones(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 4)], dim=-1)
    assert stage_one_loss(reconstruction(pixels, moments), pixels).total.item() == pytest.approx(0.5e-3)


def test_targets_of_other_lengths_are_refused():
    torch.manual_seed(0)
    model, image = AutoEncoder(CONFIG), torch.rand(1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"got shape \(1, 3, 1, 8, 8\), expected \(1, 3, 2, 8, 8\).*pad_frames"):
        stage_one_loss(model(image), image)
    assert stage_one_loss(model(image), model.pad_frames(image)).total > 0


@pytest.mark.parametrize("target_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_compared_in_float32(target_dtype):
    pixels = torch.full((1, 3, 2, 4, 4), 0.1, dtype=torch.bfloat16)
    target = torch.full((1, 3, 2, 4, 4), -0.7).to(target_dtype)
    terms = stage_one_loss(reconstruction(pixels, torch.zeros(1, 1, 1, 1, 8)), target)
    assert terms.total.dtype == torch.float32
    assert terms.reconstruction.item() == pytest.approx((pixels.double() - target.double()).square().mean().item())


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = AutoEncoder(CONFIG)
    pixels = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    stage_one_loss(model(pixels), model.pad_frames(pixels)).total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = AutoEncoder(CONFIG)
    pixels = (torch.rand(2, 3, 1, 1, 1) * 2 - 1).expand(2, 3, 4, 8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        terms = stage_one_loss(model(pixels), model.pad_frames(pixels))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.total.item())
    assert losses[-1] < 0.3 * losses[0]
