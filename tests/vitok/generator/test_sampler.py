"""Sampling: guidance, seeds, batches, and numbers that are latents again."""

import dataclasses

import pytest
import torch

from vitok.config import Grid
from vitok.generator.config import DitConfig, GeneratorConfig
from vitok.generator.diffusion import ddim
from vitok.generator.dit import Dit
from vitok.generator.flow import euler
from vitok.generator.sampler import SOLVERS, SampleSettings, guided, sample_latents

GRID = Grid(frames=1, height=3, width=2)
CONFIG = GeneratorConfig(
    dit=DitConfig.from_name("N", latent_channels=4, num_classes=3),
    process="diffusion",
    classes=("cat", "dog", "owl"),
    grids=(GRID,),
    num_frames=(1,),
    latents_mean=(0.5, -1.0, 0.0, 2.0),
    latents_std=(1.0, 2.0, 0.5, 0.0),
    tokenizer_fingerprint="",
)
FLOW = dataclasses.replace(
    CONFIG, process="flow", dit=dataclasses.replace(CONFIG.dit, learned_variance=False), latents_std=(1.0,) * 4
)
CLASSES, SEEDS = (0, 2, 3, 1, 1), (7, 8, 9, 10, 11)


@pytest.fixture(scope="module")
def networks():
    found = {}
    for config in (CONFIG, FLOW):
        torch.manual_seed(0)
        dit = Dit(config.dit)
        for parameter in dit.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        found[config.process] = dit
    return found


def settings(**changes):
    return SampleSettings(**{"num_steps": 4, "guidance": 2.0, "batch_size": 4, **changes})


@pytest.mark.parametrize(
    ("config", "solver"),
    [(config, solver) for config in (CONFIG, FLOW) for solver in SOLVERS[config.process]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sample_is_its_own_whatever_the_batch(networks, config, solver):
    network = networks[config.process]
    asked = settings(solver=solver)
    whole = sample_latents(config, network, classes=CLASSES, seeds=SEEDS, settings=asked)
    assert whole.shape == (5, 1, 3, 2, 4)
    assert len({latent.numpy().tobytes() for latent in whole}) == 5
    # To the bit, wherever it stands in a batch of that size; within rounding in a batch of another.
    order = [4, 2, 0]
    again = sample_latents(
        config, network, classes=[CLASSES[i] for i in order], seeds=[SEEDS[i] for i in order], settings=asked
    )
    assert torch.equal(again, whole[order])
    for batch_size in (1, 5):
        other = sample_latents(
            config, network, classes=CLASSES, seeds=SEEDS, settings=settings(solver=solver, batch_size=batch_size)
        )
        torch.testing.assert_close(other, whole, atol=1e-4, rtol=1e-4)


def test_a_guidance_of_one_is_the_condition_itself(networks):
    noise = torch.stack([torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    labels = torch.tensor(CLASSES)
    with torch.no_grad():
        expected = ddim(lambda latents, times: networks["diffusion"](latents, times, labels), noise, num_steps=4)
    found = sample_latents(
        CONFIG, networks["diffusion"], classes=CLASSES, seeds=SEEDS, settings=settings(guidance=1.0, batch_size=5)
    )
    torch.testing.assert_close(found, expected * torch.tensor(CONFIG.latents_std) + torch.tensor(CONFIG.latents_mean))


@torch.no_grad()
def test_guidance_leads_away_from_the_null_class(networks):
    network, labels = networks["diffusion"], torch.tensor(CLASSES)
    latents = torch.randn(5, 1, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    times = torch.full((5,), 300)
    conditional, null = network(latents, times, labels), network(latents, times, torch.full((5,), 3))
    for guidance in (0.0, 1.0 + 1e-9, 2.5):
        found = guided(network, labels, config=CONFIG, guidance=guidance)(latents, times)
        expected = null[..., :4] + guidance * (conditional[..., :4] - null[..., :4])
        torch.testing.assert_close(found[..., :4], expected)
        torch.testing.assert_close(found[..., 4:], conditional[..., 4:])
    # The third asks for the null class itself, which guidance cannot lead away from.
    torch.testing.assert_close(found[2], null[2])


def test_an_untrained_flow_gives_its_noise_back_denormalised():
    torch.manual_seed(0)
    config = dataclasses.replace(FLOW, latents_std=(1.0, 2.0, 0.5, 3.0))
    found = sample_latents(config, Dit(config.dit), classes=[1], seeds=[5], settings=settings())
    noise = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found[0], noise * torch.tensor([1.0, 2.0, 0.5, 3.0]) + torch.tensor(config.latents_mean))


def test_a_channel_that_never_varies_is_its_mean(networks):
    found = sample_latents(CONFIG, networks["diffusion"], classes=CLASSES, seeds=SEEDS, settings=settings())
    assert torch.equal(found[..., 3], torch.full_like(found[..., 3], 2.0))


def test_samples_of_another_grid(networks):
    found = sample_latents(
        FLOW, networks["flow"], classes=[0], seeds=[0], settings=settings(), grid=Grid(frames=2, height=4, width=4)
    )
    assert found.shape == (1, 2, 4, 4, 4)
    assert sample_latents(FLOW, networks["flow"], classes=[], seeds=[], settings=settings()).shape == (0, 1, 3, 2, 4)


def test_solvers_are_of_their_process(networks):
    asked = settings(guidance=1.0, batch_size=5)
    noise = torch.stack([torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    with torch.no_grad():
        expected = euler(lambda x, t: networks["flow"](x, t, torch.tensor(CLASSES)), noise, num_steps=4)
    found = sample_latents(FLOW, networks["flow"], classes=CLASSES, seeds=SEEDS, settings=asked)
    torch.testing.assert_close(found, expected + torch.tensor(FLOW.latents_mean))
    with pytest.raises(ValueError, match="got heun for a diffusion, expected ddim or ddpm"):
        settings(solver="heun").solver_of("diffusion")
    with pytest.raises(ValueError, match="num_steps: got 1001, a diffusion has 1000"):
        settings(num_steps=1001).solver_of("diffusion")


@pytest.mark.parametrize(
    ("classes", "message"), [((0, 4), r"unknown numbers \[4\]"), ((0,), "got 1 for 2 seeds"), ((-1, 0), r"\[-1\]")]
)
def test_classes_that_are_none_are_refused(networks, classes, message):
    with pytest.raises(ValueError, match=message):
        sample_latents(CONFIG, networks["diffusion"], classes=classes, seeds=(1, 2), settings=settings())


@pytest.mark.parametrize("change", [{"num_steps": 0}, {"batch_size": 0}, {"solver": "rk4"}, {"guidance": float("nan")}])
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        settings(**change)
