"""Latents as colours: their principal components, whatever the order, rotation or number of channels."""

import numpy as np
import pytest

from pipeline.report.latents import component_pictures

SHAPES = ((2, 3, 4), (1, 5, 2))


def latents(channels, seed=0):
    random = np.random.default_rng(seed)
    spread = 10.0 ** -np.arange(channels)
    return [(random.normal(size=(*shape, channels)) * spread).astype(np.float32) for shape in SHAPES]


def test_pictures_are_of_the_size_of_the_grids():
    assert [picture.shape for picture in component_pictures(latents(8))] == [(*shape, 3) for shape in SHAPES]


def test_red_follows_the_channel_that_varies_most():
    found = np.concatenate([picture[..., 0].ravel() for picture in component_pictures(latents(8))]).astype(float)
    strongest = np.concatenate([latent[..., 0].ravel() for latent in latents(8)])
    assert np.corrcoef(found, strongest)[0, 1] > 0.97


def test_a_rotation_of_the_channels_changes_no_colour_but_a_sign():
    given = latents(6)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    rotated = component_pictures([(latent @ rotation).astype(np.float32) for latent in given])
    for one, other in zip(component_pictures(given), rotated, strict=True):
        for channel in range(3):
            a, b = one[..., channel].astype(int), other[..., channel].astype(int)
            assert min(np.abs(a - b).max(), np.abs(a - (255 - b)).max()) <= 2


@pytest.mark.parametrize("channels", [1, 2])
def test_components_that_there_are_not_are_grey(channels):
    for picture in component_pictures(latents(channels)):
        assert (picture[..., channels:] == 128).all()
        assert picture[..., 0].std() > 10


def test_latents_that_never_vary_are_grey():
    assert (component_pictures([np.full((1, 2, 2, 4), 3.3, np.float32)])[0] == 128).all()
