"""The whole of it in small: a network that was trained gives each class its own latents, images and clips alike."""

import pytest
import torch

from vitok.config import Grid, TransformerConfig
from vitok.generator.config import DitConfig, GeneratorConfig
from vitok.generator.diffusion import diffusion_loss
from vitok.generator.dit import Dit, drop_classes
from vitok.generator.flow import flow_loss
from vitok.generator.sampler import SampleSettings, sample_latents

GRIDS = (Grid(frames=1, height=2, width=2), Grid(frames=2, height=2, width=1))
MEANS = torch.tensor([[1.5, -1.0], [-1.5, 1.0]])
"""Of each class, by channel."""
STD = 0.1


@pytest.mark.parametrize(("process", "learned", "solver"), [("flow", False, "heun"), ("diffusion", True, "ddim")])
def test_a_trained_generator_gives_each_class_its_latents(process, learned, solver):
    config = GeneratorConfig(
        dit=DitConfig(
            transformer=TransformerConfig(embed_dim=24, depth=2, num_heads=2),
            latent_channels=2,
            num_classes=2,
            learned_variance=learned,
        ),
        process=process,
        classes=("up", "down"),
        grids=GRIDS,
        num_frames=(1, 4),
        latents_mean=(0.0, 0.0),
        latents_std=(1.0, 1.0),
        tokenizer_fingerprint="",
    )
    torch.manual_seed(0)
    network = Dit(config.dit)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        grid = GRIDS[step % 2]
        classes = torch.randint(2, (64,), generator=generator)
        shape = (64, grid.frames, grid.height, grid.width, 2)
        clean = MEANS[classes].reshape(64, 1, 1, 1, 2) + STD * torch.randn(shape, generator=generator)
        labels = drop_classes(classes, null_class=config.dit.null_class, probability=0.1, generator=generator)

        def predict(latents, times, labels=labels):
            return network(latents, times, labels)

        if process == "flow":
            terms = flow_loss(predict, clean, time_law="uniform", generator=generator)
        else:
            terms = diffusion_loss(predict, clean, learned_variance=True, generator=generator)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    for grid in GRIDS:
        asked = SampleSettings(num_steps=25, guidance=1.0, solver=solver, batch_size=32)
        classes = [place % 2 for place in range(32)]
        found = sample_latents(config, network, classes=classes, seeds=range(32), settings=asked, grid=grid)
        for label in (0, 1):
            off = found[label::2].mean(dim=(0, 1, 2, 3)) - MEANS[label]
            assert off.abs().max() < 0.3, (grid, label, off)
        anything = sample_latents(config, network, classes=[2] * 32, seeds=range(32), settings=asked, grid=grid)
        signs = anything[..., 0].mean(dim=(1, 2, 3)).sign()
        assert {1.0, -1.0} == set(signs.tolist())  # the null class stands for both
