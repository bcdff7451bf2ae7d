"""The rule that a config states is what the pipelines of diffusers do with it."""

import pytest
import torch

from vitok.adapters.compression import Compression, stated_rule
from vitok.config import Grid


def stable_diffusion(z, config):
    return config["scaling_factor"] * z


def stable_diffusion_xl(z, config):
    mean, std = (torch.tensor(config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    return (z - mean) * config["scaling_factor"] / std


def flux(z, config):
    return (z - config["shift_factor"]) * config["scaling_factor"]


def wan(z, config):
    mean = torch.tensor(config["latents_mean"]).view(1, 4, 1, 1)
    return (z - mean) * (1.0 / torch.tensor(config["latents_std"])).view(1, 4, 1, 1)


def cosmos_without_statistics(z, config):
    return z


MEAN, STD = [0.1, -0.2, 0.3, -0.4], [1.5, 2.5, 3.5, 4.5]
NONE = {"latents_mean": None, "latents_std": None}


@pytest.mark.parametrize(
    ("pipeline", "config", "scaled"),
    [
        (stable_diffusion, {"scaling_factor": 0.18215, "shift_factor": None, **NONE}, True),
        (stable_diffusion, {"scaling_factor": 0.41407}, True),  # SANA, with AutoencoderDC
        (stable_diffusion_xl, {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD}, True),
        (flux, {"scaling_factor": 0.3611, "shift_factor": 0.1159, **NONE}, True),
        (wan, {"latents_mean": MEAN, "latents_std": STD}, False),
        (wan, {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD}, False),
        (cosmos_without_statistics, {"scaling_factor": 0.5, **NONE}, False),
    ],
)
def test_the_rule_is_the_pipelines(pipeline, config, scaled):
    z = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    rule = stated_rule(config, 4, scaled=scaled, where="the model")
    assert rule is not None
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (rule.mean, rule.std))
    torch.testing.assert_close((z - mean) / std, pipeline(z, config))


def test_statistics_for_every_latent_frame_are_no_rule_by_channel():
    config = {"latents_mean": MEAN * 16, "latents_std": STD * 16}
    assert stated_rule(config, 4, scaled=False, where="the model") is None


@pytest.mark.parametrize(("mean", "std"), [(MEAN[:3], STD), (MEAN, STD[:3]), (MEAN * 2, STD), (MEAN[:2], STD[:2])])
def test_statistics_of_another_number_of_channels_are_refused(mean, std):
    with pytest.raises(ValueError, match=r"the model: latents_(mean|std) has \d numbers, expected 4"):
        stated_rule({"latents_mean": mean, "latents_std": std}, 4, scaled=False, where="the model")


@pytest.mark.parametrize(
    "compression", [Compression(owner="it", patch=8), Compression(owner="it", patch=16, frames=4, step=4)]
)
def test_clips_that_fit_have_grids_of_their_own_and_their_length_back(compression):
    shapes = [(1 + compression.step * k, 16 * rows, 32) for k in range(4) for rows in range(1, 4)]
    compression.check(shapes)
    grids = [compression.grid(shape) for shape in shapes]
    assert len(set(grids)) == len(shapes)
    assert [compression.num_frames(grid.frames) for grid in grids] == [frames for frames, _, _ in shapes]
    assert grids[0] == Grid(frames=1, height=16 // compression.patch, width=32 // compression.patch)
