"""The losses of stage two: hinges, schedule, and who gets which gradient."""

import math

import pytest
import torch

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.losses.adversarial import (
    StageTwo,
    discriminator_hinge_loss,
    discriminator_loss,
    gan_weight,
    generator_hinge_loss,
    stage_two_loss,
)
from vitok.losses.reconstruction import StageOne, stage_one_loss
from vitok.model.autoencoder import AutoEncoder, Reconstruction
from vitok.model.posterior import Posterior
from vitok.networks.discriminator import StyleGanDiscriminator

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=4,
)
PIXELS_ONLY = StageOne(lpips_weight=0.0)
AT_ONCE = StageTwo(stage_one=PIXELS_ONLY, gan_weight=0.5, start_step=0, ramp_steps=0)


class Brightness(torch.nn.Module):
    """Logits with a closed form: gain times the mean of a frame."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, frames):
        return self.gain * frames.mean(dim=(1, 2, 3))


def reconstruction(pixels):
    return Reconstruction(pixels=pixels, posterior=Posterior.from_moments(torch.zeros(len(pixels), 1, 1, 1, 8)))


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return StyleGanDiscriminator(8, max_channels=4)


def test_hinges_equal_their_formula():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(7, generator=generator) * 2, torch.randn(5, generator=generator) * 2
    expected = sum(max(0.0, 1 - x) for x in real.tolist()) / 7 + sum(max(0.0, 1 + x) for x in fake.tolist()) / 5
    assert discriminator_hinge_loss(real, fake).item() == pytest.approx(expected)
    assert generator_hinge_loss(fake).item() == pytest.approx(-sum(fake.tolist()) / 5)


def test_a_discriminator_without_an_opinion_pays_two():
    assert discriminator_hinge_loss(torch.zeros(3), torch.zeros(4)) == 2


def test_beyond_the_margin_the_discriminator_learns_nothing_and_the_generator_still_does():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([1.5, 3.0], [-1.5, -3.0]))
    discriminator_hinge_loss(real, fake).backward()
    assert not real.grad.any()
    assert not fake.grad.any()
    generator_hinge_loss(fake).backward()
    assert fake.grad.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (5_000, 0.0), (5_001, 1e-6), (30_000, 0.025), (55_000, 0.05), (100_000, 0.05)],
)
def test_the_schedule_of_the_v1_code_is_the_default(step, expected):
    settings = StageTwo()
    weight = gan_weight(step, peak=settings.gan_weight, start_step=settings.start_step, ramp_steps=settings.ramp_steps)
    assert weight == pytest.approx(expected)


def test_the_weight_never_falls():
    weights = [gan_weight(step, peak=0.3, start_step=3, ramp_steps=7) for step in range(20)]
    assert weights == sorted(weights)
    assert (weights[3], weights[10], weights[19]) == (0.0, 0.3, 0.3)
    assert weights[4] > 0


def test_without_a_ramp_the_weight_is_there_at_once():
    assert [gan_weight(step, peak=0.1, start_step=2, ramp_steps=0) for step in (1, 2, 3)] == [0.0, 0.0, 0.1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("gan_weight", -1.0), ("gan_weight", math.nan), ("start_step", -1), ("ramp_steps", -1)],
)
def test_settings_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: got {value}"):
        StageTwo(**{name: value})


def test_stage_two_is_stage_one_and_the_weighted_hinge():
    pixels, target = torch.full((2, 3, 2, 4, 4), 0.5), torch.zeros(2, 3, 2, 4, 4)
    settings = StageTwo(stage_one=PIXELS_ONLY, gan_weight=0.2, start_step=0, ramp_steps=10)
    first = stage_one_loss(reconstruction(pixels), target, PIXELS_ONLY, None)
    terms = stage_two_loss(
        reconstruction(pixels), target, settings, step=5, lpips=None, discriminator=Brightness(gain=3.0)
    )
    assert list(terms.parts) == ["pixel", "kl", "gan"]
    assert terms.parts["gan"].item() == pytest.approx(-1.5)
    assert terms.total.item() == pytest.approx(first.total.item() + 0.1 * -1.5)


def test_discriminator_terms_of_known_logits():
    target, pixels = torch.full((1, 3, 2, 4, 4), 0.25), torch.full((1, 3, 2, 4, 4), -0.5)
    terms = discriminator_loss(pixels, target, Brightness(gain=4.0))
    assert {name: part.item() for name, part in terms.parts.items()} == pytest.approx(
        {"real": 0.0, "fake": 0.0, "real_logit": 1.0, "fake_logit": -2.0}
    )
    terms = discriminator_loss(target, pixels, Brightness(gain=4.0))
    assert terms.total.item() == pytest.approx((1 + 2) + (1 + 1))
    assert list(terms.parts) == ["real", "fake", "real_logit", "fake_logit"]


def test_clips_are_judged_frame_by_frame(discriminator):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 3, 8, 8, generator=generator)
    alone = [discriminator(pixels[clip : clip + 1, :, frame]).item() for clip in range(2) for frame in range(3)]
    assert max(alone) > min(alone)
    terms = stage_two_loss(reconstruction(pixels), pixels, AT_ONCE, step=1, lpips=None, discriminator=discriminator)
    assert terms.parts["gan"].item() == pytest.approx(-sum(alone) / 6, abs=1e-6)
    assert discriminator_loss(pixels, pixels, discriminator).parts["real_logit"].item() == pytest.approx(
        sum(alone) / 6, abs=1e-6
    )


def test_each_side_trains_its_own_parameters(discriminator):
    torch.manual_seed(0)
    model, pixels = AutoEncoder(CONFIG), torch.rand(2, 3, 2, 8, 8) * 2 - 1
    result = model(pixels)
    discriminator_loss(result.pixels, pixels, discriminator).total.backward()
    assert [name for name, parameter in discriminator.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []
    discriminator.zero_grad()
    stage_two_loss(result, pixels, AT_ONCE, step=1, lpips=None, discriminator=discriminator).total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    assert [name for name, parameter in discriminator.named_parameters() if parameter.grad is not None] == []


def test_the_generator_climbs_the_logit(discriminator):
    pixels = (torch.rand(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1).requires_grad_()
    settings = StageTwo(stage_one=StageOne(kl_weight=0, lpips_weight=0), gan_weight=1.0, start_step=0, ramp_steps=0)
    target = pixels.detach().clone()
    before = discriminator(pixels[:, :, 0]).item()
    stage_two_loss(
        reconstruction(pixels), target, settings, step=1, lpips=None, discriminator=discriminator
    ).total.backward()
    climbed = pixels.detach() - 0.1 * pixels.grad / pixels.grad.norm()
    assert discriminator(climbed[:, :, 0]).item() > before


def test_before_its_start_the_term_is_logged_and_changes_nothing(discriminator):
    pixels = torch.rand(1, 3, 1, 8, 8)
    gradients = []
    for loss in (
        lambda result: stage_one_loss(result, torch.zeros_like(pixels), PIXELS_ONLY, None),
        lambda result: stage_two_loss(
            result,
            torch.zeros_like(pixels),
            StageTwo(stage_one=PIXELS_ONLY, start_step=3),
            step=3,
            lpips=None,
            discriminator=discriminator,
        ),
    ):
        leaf = pixels.clone().requires_grad_()
        terms = loss(reconstruction(leaf))
        terms.total.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert terms.parts["gan"].item() == pytest.approx(-discriminator(pixels[:, :, 0]).item())


@pytest.mark.parametrize(("step", "flows"), [(3, False), (4, True)])
def test_before_its_start_no_graph_is_kept_through_the_discriminator(step, flows):
    class Spy(Brightness):
        def forward(self, frames):
            needed.append(frames.requires_grad)
            return super().forward(frames) / 0.0

    needed, pixels = [], torch.ones(1, 3, 1, 8, 8, requires_grad=True)
    settings = StageTwo(stage_one=PIXELS_ONLY, start_step=3)
    terms = stage_two_loss(
        reconstruction(pixels), pixels.detach(), settings, step=step, lpips=None, discriminator=Spy()
    )
    assert needed == [flows]
    assert terms.total.isfinite() != flows


def test_logits_that_are_not_one_a_frame_are_refused():
    patches, pixels = torch.nn.Conv2d(3, 1, 3), torch.zeros(2, 3, 2, 8, 8)
    with pytest.raises(ValueError, match=r"logits of shape \(4, 1, 6, 6\) for 4 frames, expected \(4,\)"):
        stage_two_loss(reconstruction(pixels), pixels, AT_ONCE, step=1, lpips=None, discriminator=patches)
    with pytest.raises(ValueError, match=r"logits of shape \(8, 1, 6, 6\) for 8 frames, expected \(8,\)"):
        discriminator_loss(pixels, pixels, patches)


def test_other_targets_are_refused(discriminator):
    with pytest.raises(
        ValueError, match=r"target: got shape \(1, 3, 1, 8, 8\), expected the pixels' \(1, 3, 2, 8, 8\)"
    ):
        discriminator_loss(torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 3, 1, 8, 8), discriminator)
