"""Sizes and their numbers of parameters, and configs that come back from JSON."""

import dataclasses

import pytest
import torch

from vitok.config import Grid
from vitok.generator.config import DIT_SIZES, DitConfig, GeneratorConfig
from vitok.generator.dit import Dit

GRID = Grid(frames=1, height=16, width=16)
CONFIG = GeneratorConfig(
    dit=DitConfig.from_name("N", latent_channels=2, num_classes=2),
    process="diffusion",
    classes=("cat", "dog"),
    grids=(GRID, Grid(frames=4, height=8, width=8)),
    num_frames=(1, 16),
    latents_mean=(0.5, -1.0),
    latents_std=(1.0, 0.0),
    tokenizer_fingerprint="f" * 64,
)


def parameters_in_millions(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Dit(config).parameters()) / 1e6


@pytest.mark.parametrize(("name", "expected"), [("B", 130.6), ("L", 458.4), ("XL", 675.5)])
def test_parameters_are_those_of_the_v1_module(name, expected):
    """At 256 tokens of 16 channels and 1000 classes, with learned positions and variance."""
    config = DitConfig.from_name(
        name, latent_channels=16, num_classes=1000, learned_variance=True, positions="learned_rope1d", grid=GRID
    )
    assert round(parameters_in_millions(config), 1) == expected


def test_the_papers_form_has_the_papers_number_of_parameters():
    assert int(parameters_in_millions(DitConfig.from_name("XL", latent_channels=16, num_classes=1000))) == 675


@pytest.mark.parametrize("name", DIT_SIZES)
def test_parameters_add_up(name):
    config = DitConfig.from_name(name, latent_channels=4, num_classes=10, learned_variance=False)
    side = config.transformer
    width, hidden = side.embed_dim, side.mlp_dim
    block = 3 * width**2 + width**2 + width + 2 * (width * hidden + hidden) + hidden * width + width
    block += 4 * width + 6 * (width**2 + width)
    ends = 4 * width + width + 256 * width + width + width**2 + width + 11 * width
    head = 2 * width + 2 * (width**2 + width) + width * 4 + 4
    assert parameters_in_millions(config) * 1e6 == pytest.approx(side.depth * block + ends + head, abs=0.5)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(
            CONFIG,
            process="flow",
            dit=DitConfig.from_name(
                "N",
                latent_channels=2,
                num_classes=2,
                learned_variance=False,
                positions="learned_rope1d",
                grid=GRID,
            ),
        ),
        dataclasses.replace(CONFIG, classes=(), dit=dataclasses.replace(CONFIG.dit, num_classes=0)),
    ],
)
def test_round_trip(config):
    assert GeneratorConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": "other"}, "process: got 'other', expected one of diffusion, flow"),
        ({"process": "flow"}, "has no variance to learn"),
        ({"classes": ("cat",)}, "classes: got 1 labels, 1 of them different, expected 2"),
        ({"classes": ("cat", "cat")}, "1 of them different"),
        ({"grids": ()}, r"grids and num_frames: got 0 and \[1, 16\]"),
        ({"num_frames": (1,)}, r"got 2 and \[1\]"),
        ({"num_frames": (1, 0)}, "a number of at least 1 for each"),
        ({"latents_std": (1.0,)}, "got 2 and 1 numbers, expected 2"),
        ({"latents_std": (1.0, -1.0)}, "deviations of at least 0"),
        ({"latents_mean": (float("nan"), 0.0)}, "expected finite"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 0}, "latent_channels and num_classes"),
        ({"positions": "other"}, "positions: got 'other'"),
        ({"positions": "learned_rope1d"}, "learned positions are of one grid"),
        ({"grid": GRID}, "RoPE alone takes any"),
    ],
)
def test_networks_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG.dit, **change)


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="got 'XXL', expected one of N, S, B, L, XL"):
        DitConfig.from_name("XXL", latent_channels=2, num_classes=2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: value.pop("grids"), r"missing keys \['grids'\]"),
        (lambda value: value["dit"].update(surprise=1), r"unknown keys \['surprise'\]"),
        (lambda value: value.update(dit=5), "dit: got 5, expected an object"),
        (lambda value: value.update(classes="cat"), "classes: got 'cat', expected a list"),
        (lambda value: value["dit"]["transformer"].update(depth=1.5), "depth: got 1.5, expected a whole number"),
        (lambda value: value.update(latents_mean=["1", "2"]), "latents_mean: got '1', expected a number"),
        (lambda value: value.update(grids=["16x16"]), "grid: got '16x16'"),
        (lambda value: value["dit"].update(learned_variance="yes"), "learned_variance: got 'yes', expected true"),
    ],
)
def test_other_json_is_refused(edit, message):
    value = CONFIG.to_json()
    edit(value)
    with pytest.raises(ValueError, match=message):
        GeneratorConfig.from_json(value)
