"""Variants by name, and the sizes derived from them."""

import dataclasses
import json
import subprocess
import sys

import pytest

from vitok.config import SIZES, AutoEncoderConfig, Grid, TransformerConfig, Tubelet


@pytest.mark.parametrize("text", ["4x8", "1x16", "8x8"])
def test_tubelet_text_round_trip(text):
    assert str(Tubelet.parse(text)) == text


def test_tubelet_of_an_image_has_one_frame():
    assert Tubelet.parse("16") == Tubelet(frames=1, patch=16)


@pytest.mark.parametrize("text", ["", "4x", "x8", "4x8x8", "-1x8", "4 x 8"])
def test_tubelet_refuses_other_texts(text):
    with pytest.raises(ValueError, match="tubelet"):
        Tubelet.parse(text)


@pytest.mark.parametrize("text", ["0x8", "4x0"])
def test_tubelet_refuses_zero(text):
    with pytest.raises(ValueError, match="needs frames >= 1"):
        Tubelet.parse(text)


def test_grid_text_round_trip():
    grid = Grid(frames=4, height=16, width=12)
    assert Grid.parse(str(grid)) == grid
    assert str(grid) == "4x16x12"
    assert grid.num_tokens == 768


@pytest.mark.parametrize("text", ["4x16", "16", "ax1x1", "4x16x16x16"])
def test_grid_refuses_other_texts(text):
    with pytest.raises(ValueError, match="grid"):
        Grid.parse(text)


# Clips and tokens of the paper's tables.
@pytest.mark.parametrize(
    ("tubelet", "clip", "grid"),
    [
        ("16", (1, 256, 256), "1x16x16"),
        ("16", (1, 512, 512), "1x32x32"),
        ("4x8", (16, 128, 128), "4x16x16"),
        ("8x8", (16, 128, 128), "2x16x16"),
        ("4x16", (16, 128, 128), "4x8x8"),
        ("4x8", (1, 128, 64), "1x16x8"),
        ("4x8", (17, 128, 64), "5x16x8"),
    ],
)
def test_grid_of_a_clip(tubelet, clip, grid):
    num_frames, height, width = clip
    found = Grid.of_clip(num_frames=num_frames, height=height, width=width, tubelet=Tubelet.parse(tubelet))
    assert str(found) == grid


@pytest.mark.parametrize("clip", [(4, 100, 96), (4, 96, 100), (0, 96, 96), (4, 0, 96)])
def test_grid_refuses_clips_that_do_not_divide(clip):
    num_frames, height, width = clip
    with pytest.raises(ValueError, match="does not divide into tubelets 4x8"):
        Grid.of_clip(num_frames=num_frames, height=height, width=width, tubelet=Tubelet(frames=4, patch=8))


@pytest.mark.parametrize(("embed_dim", "num_heads"), [(10, 3), (9, 3)])
def test_transformer_refuses_head_dims_without_pairs(embed_dim, num_heads):
    with pytest.raises(ValueError, match="even whole number"):
        TransformerConfig(embed_dim=embed_dim, depth=1, num_heads=num_heads)


# Table 1 of the paper; 2050 and 3075 are the hidden widths of the v1 code.
@pytest.mark.parametrize(("size", "head_dim", "mlp_dim"), [("S", 64, 2050), ("B", 64, 2050), ("L", 72, 3075)])
def test_sizes_of_the_paper(size, head_dim, mlp_dim):
    assert (SIZES[size].head_dim, SIZES[size].mlp_dim) == (head_dim, mlp_dim)


def test_name_gives_each_side_its_own_width():
    config = AutoEncoderConfig.from_name("S-L/4x16", latent_channels=8)
    assert (config.encoder.embed_dim, config.decoder.embed_dim) == (768, 1152)
    assert config.tubelet == Tubelet(frames=4, patch=16)
    assert config.latent_channels == 8
    assert (config.activation, config.positions, config.bottleneck) == ("swiglu", "rope3d", "kl")


@pytest.mark.parametrize("name", ["S-B", "S/16", "X-B/16", "S-B/16x", "s-b/16", "S-B/4x8x8"])
def test_name_refuses_other_texts(name):
    with pytest.raises(ValueError, match="variant"):
        AutoEncoderConfig.from_name(name)


@pytest.mark.parametrize("changes", [{}, {"positions": "rope1d"}, {"bottleneck": "tanh", "bottleneck_noise": 0.25}])
def test_json_round_trip(changes):
    config = dataclasses.replace(AutoEncoderConfig.from_name("S-L/4x8", latent_channels=32), **changes)
    assert AutoEncoderConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert AutoEncoderConfig.from_json(config.identity()) == config


def test_json_without_the_later_keys_means_their_defaults():
    config = AutoEncoderConfig.from_name("S-B/16")
    value = {
        key: entry
        for key, entry in config.to_json().items()
        if key not in ("positions", "bottleneck", "bottleneck_noise")
    }
    assert AutoEncoderConfig.from_json(value) == config
    assert config.identity() == value
    assert set(dataclasses.replace(config, positions="none").identity()) == {*value, "positions"}


@pytest.mark.parametrize("positions", ["rope3d", "rope1d", "sincos3d", "none"])
@pytest.mark.parametrize("bottleneck", ["kl", "layer_norm", "tanh", "none"])
def test_identity_tells_configs_apart(positions, bottleneck):
    base = AutoEncoderConfig.from_name("S-B/16")
    config = dataclasses.replace(base, positions=positions, bottleneck=bottleneck)
    assert (config.identity() == base.identity()) == (config == base)


@pytest.mark.parametrize("bottleneck", ["kl", "layer_norm", "none"])
def test_only_tanh_has_noise(bottleneck):
    base = AutoEncoderConfig.from_name("S-B/16")
    assert dataclasses.replace(base, bottleneck="tanh", bottleneck_noise=0.0).bottleneck_noise == 0.0
    with pytest.raises(ValueError, match=f"got 0.2 with the bottleneck {bottleneck}: only tanh adds noise"):
        dataclasses.replace(base, bottleneck=bottleneck, bottleneck_noise=0.2)


def test_layer_norm_needs_two_channels():
    with pytest.raises(ValueError, match="layer norm of one channel"):
        dataclasses.replace(AutoEncoderConfig.from_name("S-B/16", latent_channels=1), bottleneck="layer_norm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"encoder": 7}, "encoder is 7"),
        ({"encoder": {"embed_dim": 192}}, "missing"),
        ({"latent_channels": "16"}, "latent_channels is '16'"),
        ({"rope_theta": "x"}, "rope_theta is 'x'"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"activation": "relu"}, "activation"),
        ({"positions": "rope2d"}, "positions: got 'rope2d', expected one of rope3d, rope1d, sincos3d, none"),
        ({"bottleneck": "vq"}, "bottleneck: got 'vq', expected one of kl, layer_norm, tanh, none"),
        ({"bottleneck": ["kl"]}, "bottleneck"),
        ({"bottleneck_noise": "loud"}, "bottleneck_noise is 'loud'"),
        ({"bottleneck": "tanh", "bottleneck_noise": -0.1}, "bottleneck_noise: got -0.1"),
        ({"bottleneck": "tanh", "bottleneck_noise": float("nan")}, "bottleneck_noise: got nan"),
    ],
)
def test_json_refuses_changes(change, message):
    value = AutoEncoderConfig.from_name("S-B/16").to_json()
    with pytest.raises(ValueError, match=message):
        AutoEncoderConfig.from_json({**value, **change})


def test_json_refuses_missing_keys():
    value = AutoEncoderConfig.from_name("S-B/16").to_json()
    del value["tubelet"]
    with pytest.raises(ValueError, match=r"missing keys \['tubelet'\]"):
        AutoEncoderConfig.from_json(value)


def test_config_loads_no_torch():
    script = "import sys, vitok.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
