"""Laws of tiles: they cover evenly, weights sum to one, a local model cannot tell, nothing begins at once."""

import dataclasses

import pytest
import torch
from einops import repeat
from torch import nn

from vitok.config import AutoEncoderConfig, TransformerConfig, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.tiling import AxisTiles, Tiling, decode_tiled, encode_tiled, reconstruct_tiled

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=32, depth=2, num_heads=2),
    tubelet=Tubelet(frames=2, patch=4),
    latent_channels=5,
)
TILING = Tiling(frames=4, height=16, width=12, overlap_frames=2, overlap_height=8, overlap_width=4)
WHOLE = Tiling(frames=64, height=64, width=64, overlap_frames=2, overlap_height=8, overlap_width=4)
PLACEMENTS = [
    (extent, length, overlap)
    for extent in (1, 3, 4, 5, 7, 9, 11, 30)
    for length in (1, 4, 6)
    for overlap in range(length)
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoEncoder(CONFIG).requires_grad_(False)


@pytest.fixture
def local_model(model):
    """Attention adds nothing, so that every tubelet is encoded and decoded alone."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module in [
            block.attn.proj for side in (model.encoder, model.decoder) for block in side.blocks
        ]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def clip(*, num_frames=9, height=40, width=28):
    return torch.rand(2, 3, num_frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def summed(tiles):
    totals = torch.zeros(tiles.extent)
    for start, weights in zip(tiles.starts, tiles.weights(), strict=True):
        totals[start : start + tiles.length] += weights
    return totals


@pytest.mark.parametrize(("extent", "length", "overlap"), PLACEMENTS)
def test_tiles_cover_evenly(extent, length, overlap):
    tiles = AxisTiles.place(extent, length=length, overlap=overlap)
    assert tiles.extent == extent
    assert tiles.starts[0] == 0
    assert tiles.length == min(extent, length)
    steps = [second - first for first, second in zip(tiles.starts, tiles.starts[1:], strict=False)]
    assert all(0 < step <= length - overlap for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1


@pytest.mark.parametrize(("extent", "length", "overlap"), PLACEMENTS)
def test_no_fewer_tiles_would_do(extent, length, overlap):
    tiles = AxisTiles.place(extent, length=length, overlap=overlap)
    assert len(tiles.starts) == 1 or length + (len(tiles.starts) - 2) * (length - overlap) < extent


@pytest.mark.parametrize(("extent", "length", "overlap"), PLACEMENTS)
@pytest.mark.parametrize("factor", [1, 8])
def test_weights_sum_to_one(extent, length, overlap, factor):
    tiles = AxisTiles.place(extent, length=length, overlap=overlap).scaled(factor)
    assert (tiles.weights() > 0).all()
    torch.testing.assert_close(summed(tiles), torch.ones(tiles.extent), atol=1e-6, rtol=0)


def test_weights_of_two_tiles_are_a_linear_fade():
    first, second = AxisTiles.place(10, length=7, overlap=4).weights()
    fade = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(second, torch.cat([fade, torch.ones(3)]))
    torch.testing.assert_close(first, torch.cat([torch.ones(3), fade.flip(0)]))


@pytest.mark.parametrize(("extent", "length", "overlap"), [(30, 8, 2), (30, 8, 4), (31, 8, 6), (7, 4, 2)])
def test_no_weight_jumps(extent, length, overlap):
    """From place to place, and from nothing at an inner border: a straight fade's step, twice it where three meet."""
    tiles = AxisTiles.place(extent, length=length, overlap=overlap).scaled(4)
    for index, (start, weights) in enumerate(zip(tiles.starts, tiles.weights(), strict=True)):
        over_axis = torch.zeros(tiles.extent)
        over_axis[start : start + tiles.length] = weights
        assert over_axis.diff().abs().max() <= 2 / (4 * overlap), index


@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_one_tile_is_the_whole(model, num_frames):
    pixels = clip(num_frames=num_frames)
    whole, tiled = model.encode(pixels), encode_tiled(model, pixels, WHOLE)
    assert torch.equal(tiled.mean, whole.mean)
    assert torch.equal(tiled.logvar, whole.logvar)
    assert torch.equal(
        decode_tiled(model, whole.mean, WHOLE, num_frames), model.decode(whole.mean, num_frames=num_frames)
    )


@pytest.mark.parametrize("num_frames", [1, 7, 8, 9])
def test_a_local_model_cannot_tell(local_model, num_frames):
    pixels = clip(num_frames=num_frames)
    whole, tiled = local_model.encode(pixels), encode_tiled(local_model, pixels, TILING)
    assert tiled.mean.shape == whole.mean.shape
    torch.testing.assert_close(tiled.mean, whole.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.logvar, whole.logvar, atol=1e-5, rtol=0)
    decoded = decode_tiled(local_model, whole.mean, TILING)
    torch.testing.assert_close(decoded, local_model.decode(whole.mean), atol=1e-5, rtol=0)
    reconstructed = reconstruct_tiled(local_model, pixels, TILING)
    assert reconstructed.shape == pixels.shape
    torch.testing.assert_close(reconstructed, local_model.decode(whole.mean, num_frames=num_frames), atol=1e-5, rtol=0)


def test_a_deterministic_posterior_stays_one():
    torch.manual_seed(0)
    model = AutoEncoder(dataclasses.replace(CONFIG, bottleneck="tanh", bottleneck_noise=0.3)).requires_grad_(False)
    tiled = encode_tiled(model, clip(), TILING)
    assert tiled.logvar is None
    assert tiled.noise_std == 0.3
    assert tiled.mean.abs().max() <= 1.0


def test_a_model_with_attention_can(model):
    assert not torch.allclose(encode_tiled(model, clip(), TILING).mean, model.encode(clip()).mean, atol=1e-5, rtol=0)


def test_a_clip_that_is_the_same_everywhere_is_the_same_in_tiles(model):
    """Attention over equal tokens gives one answer whatever their number."""
    pixels = clip(num_frames=2, height=4, width=4).repeat(1, 1, 4, 10, 7)
    torch.testing.assert_close(encode_tiled(model, pixels, TILING).mean, model.encode(pixels).mean, atol=1e-5, rtol=0)
    expected = model.decode(model.encode(pixels).mean, num_frames=8)
    torch.testing.assert_close(reconstruct_tiled(model, pixels, TILING), expected, atol=1e-5, rtol=0)


def test_a_result_is_the_fade_of_its_tiles(model):
    """Two tiles along the width: each alone outside the overlap, half of each in its middle."""
    latent = torch.randn(1, 2, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    tiling = Tiling(frames=8, height=16, width=12, overlap_frames=0, overlap_height=0, overlap_width=4)
    left, right = model.decode(latent[:, :, :, :3]), model.decode(latent[:, :, :, 2:])
    fade = (torch.arange(4) + 0.5) / 4
    middle = left[..., 8:] * (1 - fade) + right[..., :4] * fade
    expected = torch.cat([left[..., :8], middle, right[..., 4:]], dim=-1)
    torch.testing.assert_close(decode_tiled(model, latent, tiling), expected)


@pytest.mark.parametrize("seed", range(3))
def test_no_seam_in_a_smooth_image(seed):
    """Cut hard, the picture jumps where tiles meet; cross-faded it jumps no more there than elsewhere.

    Tubelets of one pixel: with larger ones an untrained decoder jumps between any two of them.
    """
    torch.manual_seed(seed)
    one_pixel = dataclasses.replace(CONFIG, tubelet=Tubelet(frames=1, patch=1))
    model = AutoEncoder(one_pixel).requires_grad_(False)
    row = torch.stack([torch.sin(torch.arange(96.0) / 16 + phase) for phase in range(3)])
    pixels = repeat(row, "c w -> 1 c 1 h w", h=2)
    ratios = {}
    for overlap in (0, 8):
        tiling = Tiling(frames=1, height=2, width=32, overlap_frames=0, overlap_height=0, overlap_width=overlap)
        tiles = AxisTiles.place(96, length=32, overlap=overlap)
        borders = {*tiles.starts[1:], *(start + tiles.length for start in tiles.starts[:-1])}
        jumps = reconstruct_tiled(model, pixels, tiling).diff(dim=-1).abs().amax(dim=(0, 1, 2, 3))
        at_borders = jumps[[place - 1 for place in borders]].max()
        elsewhere = jumps[[place - 1 for place in range(1, 96) if place not in borders]].max()
        ratios[overlap] = (at_borders / elsewhere).item()
    assert ratios[8] < 1.0
    assert ratios[0] > 5.0


def test_memory_is_that_of_one_tile(model):
    shapes = set()
    model.tubelet_embed.register_forward_pre_hook(lambda _, arguments: shapes.add(tuple(arguments[0].shape)))
    model.tubelet_decode.register_forward_pre_hook(lambda _, arguments: shapes.add(tuple(arguments[0].shape)))
    reconstruct_tiled(model, clip(), TILING)
    assert shapes == {(2, 3, 4, 16, 12), (2, 2, 4, 3, 32)}


def test_half_precision_stays(model):
    model.bfloat16()
    pixels = clip().bfloat16()
    latent = model.encode(pixels).mean.bfloat16()
    tiled = decode_tiled(model, latent, TILING)
    assert tiled.dtype == torch.bfloat16
    assert encode_tiled(model, pixels, TILING).mean.dtype == torch.float32


def test_results_are_put_together_where_asked(model):
    device = torch.device("cpu")
    assert torch.equal(
        reconstruct_tiled(model, clip(), TILING, output_device=device), reconstruct_tiled(model, clip(), TILING)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames of 0"),
        ({"overlap_height": 16}, "height of 16 with an overlap of 16"),
        ({"overlap_width": -4}, "width of 12 with an overlap of -4"),
    ],
)
def test_tilings_that_cannot_be_are_refused(changes, message):
    sizes = {name: getattr(TILING, name) for name in Tiling.__slots__}
    with pytest.raises(ValueError, match=message):
        Tiling(**sizes | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 5}, "frames of 5 .* multiples of 2"),
        ({"overlap_frames": 1}, "overlap of 1, expected multiples of 2"),
        ({"width": 14}, "width of 14 .* multiples of 4 for a model of tubelet 2x4"),
    ],
)
def test_tilings_of_other_tubelets_are_refused(model, changes, message):
    sizes = {name: getattr(TILING, name) for name in Tiling.__slots__}
    with pytest.raises(ValueError, match=message):
        encode_tiled(model, clip(), Tiling(**sizes | changes))


@pytest.mark.parametrize("num_frames", [0, 8, 11])
def test_lengths_of_other_grids_are_refused(model, num_frames):
    latent = encode_tiled(model, clip(), TILING).mode()
    with pytest.raises(ValueError, match=f"num_frames: got {num_frames}, expected 9 to 10"):
        decode_tiled(model, latent, TILING, num_frames)


def test_other_shapes_are_refused(model):
    with pytest.raises(ValueError, match=r"got shape \(3, 8, 8\)"):
        encode_tiled(model, torch.zeros(3, 8, 8), TILING)
    with pytest.raises(ValueError, match="does not divide into tubelets"):
        encode_tiled(model, clip(width=30), TILING)
    with pytest.raises(ValueError, match=r"got shape \(2, 2, 3, 5\)"):
        decode_tiled(model, torch.zeros(2, 2, 3, 5), TILING)
