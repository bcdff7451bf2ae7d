"""Counts equal the tables of the paper, and those of arithmetic by hand."""

import dataclasses

import pytest

from vitok.config import SIZES, AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.model.count import count

IMAGE = {"num_frames": 1, "height": 256, "width": 256}
LARGE_IMAGE = {"num_frames": 1, "height": 512, "width": 512}
CLIP = {"num_frames": 16, "height": 128, "width": 128}
LARGE_CLIP = {"num_frames": 16, "height": 256, "width": 256}

TINY = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=32, depth=2, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=5,
)


def counted(name, clip, *, latent_channels=16):
    return count(AutoEncoderConfig.from_name(name, latent_channels=latent_channels), **clip)


def millions(number):
    return round(number / 1e6, 3)


# What the v1 code's modules count; the paper prints 129.0 for S-B/16 and 426.8 for S-L/16.
@pytest.mark.parametrize(
    ("name", "latent_channels", "expected"),
    [
        ("S-B/16", 4, 128.835),
        ("S-B/16", 8, 128.844),
        ("S-B/16", 16, 128.863),
        ("S-B/16", 32, 128.900),
        ("S-B/16", 64, 128.974),
        ("S-B/8", 16, 127.978),
        ("S-B/32", 16, 132.402),
        ("S-B/4x8", 16, 128.863),
        ("S-B/2x8", 16, 128.273),
        ("S-B/8x8", 16, 130.042),
        ("S-B/4x16", 16, 132.402),
        ("S-B/8x16", 16, 137.120),
        ("S-S/16", 16, 86.316),
        ("B-B/16", 16, 171.410),
        ("B-S/16", 16, 128.863),
        ("S-L/16", 16, 426.839),
        ("B-L/16", 16, 469.386),
        ("L-L/16", 16, 767.368),
    ],
)
def test_parameters_of_the_variants(name, latent_channels, expected):
    clip = {"num_frames": 1, "height": 32, "width": 32}
    assert millions(counted(name, clip, latent_channels=latent_channels).parameters.total) == expected


@pytest.mark.parametrize(("size", "expected"), [("S", 43.139), ("B", 85.687), ("L", 383.656)])
def test_parameters_of_the_sizes(size, expected):
    parameters = counted(f"{size}-{size}/16", IMAGE).parameters
    assert millions(parameters.tubelet_embed + parameters.encoder) == expected
    assert parameters.decoder == parameters.encoder


@pytest.mark.parametrize(("encoder", "expected"), [("S", 480.292), ("B", 575.984)])
def test_parameters_where_the_encoder_takes_the_decoders_width(encoder, expected):
    config = AutoEncoderConfig.from_name(f"{encoder}-L/16")
    shared = dataclasses.replace(config, encoder=dataclasses.replace(SIZES["L"], depth=SIZES[encoder].depth))
    assert millions(count(shared, **IMAGE).parameters.total) == expected


# Table 1 of the paper: one size at 256 tokens, with the projection on its side.
@pytest.mark.parametrize(
    ("size", "printed", "exact"), [("S", 11.6, 11.634), ("B", 23.1, 23.116), ("L", 101.8, 101.759)]
)
def test_macs_of_the_sizes(size, printed, exact):
    macs = counted(f"{size}-{size}/16", IMAGE).macs
    assert (macs.tubelet_embed + macs.encoder) / 1e9 == pytest.approx(printed, rel=0.005)
    assert round((macs.tubelet_embed + macs.encoder) / 1e9, 3) == exact
    assert macs.decoder + macs.unembed == macs.tubelet_embed + macs.encoder


@pytest.mark.parametrize(
    ("name", "clip", "printed", "exact"),
    [
        ("S-B/16", IMAGE, 34.8, 34.760),
        ("S-B/16", LARGE_IMAGE, 160.8, 160.781),
        ("S-L/16", IMAGE, 113.4, 113.403),
        ("S-B/4x8", CLIP, 160.8, 160.781),
        ("S-B/8x8", CLIP, 73.2, 73.143),
        ("S-B/4x16", CLIP, 34.8, 34.760),
    ],
)
def test_macs_as_the_paper_prints_them(name, clip, printed, exact):
    macs = counted(name, clip).macs_as_printed / 1e9
    assert macs == pytest.approx(printed, rel=0.005)
    assert round(macs, 3) == exact


@pytest.mark.parametrize(
    ("name", "clip", "expected"),
    [
        ("S-B/16", IMAGE, 34.76),
        ("S-B/16", LARGE_IMAGE, 160.78),
        ("S-B/4x8", CLIP, 160.78),
        ("S-B/8x8", CLIP, 73.75),
        ("S-B/4x16", CLIP, 35.67),
    ],
)
def test_macs_as_they_run(name, clip, expected):
    assert round(counted(name, clip).macs.total / 1e9, 2) == expected


# Section 1.2 of the paper and its tables: L, c, E and pixels to one number of the latent.
@pytest.mark.parametrize(
    ("name", "latent_channels", "clip", "grid", "tokens", "latent_size", "compression"),
    [
        ("S-B/16", 16, IMAGE, "1x16x16", 256, 4096, 48),
        ("S-B/8", 4, IMAGE, "1x32x32", 1024, 4096, 48),
        ("S-B/8", 16, IMAGE, "1x32x32", 1024, 16384, 12),
        ("S-B/32", 32, IMAGE, "1x8x8", 64, 2048, 96),
        ("S-B/32", 64, IMAGE, "1x8x8", 64, 4096, 48),
        ("S-B/16", 16, LARGE_IMAGE, "1x32x32", 1024, 16384, 48),
        ("S-B/4x8", 16, CLIP, "4x16x16", 1024, 16384, 48),
        ("S-B/8x8", 16, CLIP, "2x16x16", 512, 8192, 96),
        ("S-B/4x16", 16, CLIP, "4x8x8", 256, 4096, 192),
        ("S-B/4x16", 16, LARGE_CLIP, "4x16x16", 1024, 16384, 192),
        ("S-B/4x8", 16, LARGE_CLIP, "4x32x32", 4096, 65536, 48),
    ],
)
def test_latents(name, latent_channels, clip, grid, tokens, latent_size, compression):
    found = counted(name, clip, latent_channels=latent_channels)
    assert (str(found.grid), found.grid.num_tokens) == (grid, tokens)
    assert (found.latent_size, found.compression) == (latent_size, compression)


def test_macs_by_hand():
    """Every matrix product of a tiny model: weights times tokens, and attention's two products of N^2 d."""
    found = count(TINY, num_frames=4, height=8, width=12)
    tokens = 2 * 2 * 3
    assert found.macs.tubelet_embed == tokens * 3 * 2 * 4 * 4 * 24
    assert found.macs.encoder == tokens * (4 * 24 * 24 + 3 * 24 * 64) + 2 * tokens**2 * 24
    assert found.macs.to_code == tokens * 24 * 10
    assert found.macs.from_code == tokens * 5 * 32
    assert found.macs.decoder == 2 * (tokens * (4 * 32 * 32 + 3 * 32 * 85) + 2 * tokens**2 * 32)
    assert found.macs.unembed == tokens * 3 * 2 * 4 * 4 * 32
    assert found.macs.total == found.macs.encode + found.macs.decode


def test_an_image_of_a_video_model_costs_one_tubelet_in_time():
    image, clip = (count(TINY, num_frames=frames, height=8, width=12) for frames in (1, 2))
    assert image.macs == clip.macs
    assert image.compression == clip.compression / 2


def test_a_clip_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide into tubelets 2x4"):
        count(TINY, num_frames=4, height=10, width=12)
