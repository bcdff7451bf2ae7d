"""Clips of different grids in one batch: the mask against a loop over tokens, the model against each clip alone."""

import dataclasses
import itertools

import pytest
import torch

from vitok.config import AutoEncoderConfig, Grid, TransformerConfig, Tubelet
from vitok.model.autoencoder import AutoEncoder
from vitok.model.padding import Padding

GRID = Grid(frames=2, height=3, width=4)
GRIDS = [Grid(frames=1, height=3, width=2), GRID, Grid(frames=2, height=1, width=1)]
CPU = torch.device("cpu")

CONFIG = AutoEncoderConfig(
    encoder=TransformerConfig(embed_dim=24, depth=1, num_heads=2),
    decoder=TransformerConfig(embed_dim=32, depth=2, num_heads=2),
    tubelet=Tubelet(frames=4, patch=4),
    latent_channels=5,
)
POSITIONS = ["rope3d", "rope1d", "sincos3d", "none"]
CLIPS = [(1, 16, 8), (5, 8, 12), (8, 12, 20)]
"""Frames, height and width; no one of them is the largest along every axis."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""Of outputs about 4 large. A padded batch has other matrix shapes than a clip alone, so other roundings: measured at
most 4e-6 and 3e-2."""


@pytest.fixture
def padding():
    return Padding.of_grids(GRIDS, num_clips=3, grid=GRID, device=CPU)


def places(grid):
    return itertools.product(range(grid.frames), range(grid.height), range(grid.width))


def test_mask_and_indices_are_those_of_each_clips_own_grid(padding):
    for clip, own in enumerate(GRIDS):
        indices = padding.indices[clip].reshape(2, 3, 4)
        real = set(places(own))
        assert [indices[place].item() for place in places(own)] == list(range(own.num_tokens))
        assert all(padding.mask[clip][place].item() == (place in real) for place in places(GRID))


def test_key_mask_has_the_order_of_tokens(padding):
    assert padding.key_mask().shape == (3, 1, 1, 24)
    assert torch.equal(padding.key_mask().reshape(3, 2, 3, 4), padding.mask)


def test_blank_keeps_what_is_real_and_nothing_else(padding):
    tokens = torch.rand(3, 2, 3, 4, 5) + 1.0
    tokens[2, 1, 2, 3] = float("nan")
    blanked = padding.blank(tokens)
    assert torch.equal(blanked != 0, padding.mask[..., None].expand_as(tokens))
    assert torch.equal(blanked[padding.mask], tokens[padding.mask])


def test_blank_pixels_is_blank_by_tubelet(padding):
    tubelet = Tubelet(frames=2, patch=3)
    blanked = padding.blank_pixels(torch.full((3, 3, 4, 9, 12), 7.0), tubelet)
    for clip, own in enumerate(GRIDS):
        assert (blanked[clip, :, : 2 * own.frames, : 3 * own.height, : 3 * own.width] == 7).all()
        assert (blanked[clip] == 7).sum() == 3 * own.num_tokens * 18


@pytest.mark.parametrize("grids", [None, [GRID, GRID, GRID]])
def test_full_clips_have_no_padding(grids):
    assert Padding.of_grids(grids, num_clips=3, grid=GRID, device=CPU) is None


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (GRIDS[:2], "got 2, expected one for each of 3 clips"),
        ([GRID, GRID, Grid(frames=2, height=3, width=5)], "number 2 is 2x3x5, expected 1x1x1 to the batch's 2x3x4"),
        ([GRID, Grid(frames=2, height=0, width=4), GRID], "number 1 is 2x0x4"),
    ],
)
def test_grids_that_do_not_fit_are_refused(grids, message):
    with pytest.raises(ValueError, match=message):
        Padding.of_grids(grids, num_clips=3, grid=GRID, device=CPU)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoEncoder(CONFIG)


def mixed_clips():
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, *size, generator=generator) * 2 - 1 for size in CLIPS]


def at(dtype):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


@pytest.fixture(params=POSITIONS)
def padded_model(request):
    """A model with these positions, a padded batch, and where in it each clip is, in tubelets and in pixels."""
    torch.manual_seed(0)
    model = AutoEncoder(dataclasses.replace(CONFIG, positions=request.param))
    batch, grids = model.pad_clips(mixed_clips())
    return model, batch, grids


def cut(latents, row, grid):
    return latents[row, : grid.frames, : grid.height, : grid.width]


def cut_pixels(pixels, row, grid):
    return pixels[row, :, : 4 * grid.frames, : 4 * grid.height, : 4 * grid.width]


def test_pad_clips_holds_each_clip_and_grey(model):
    clips = mixed_clips()
    batch, grids = model.pad_clips(clips)
    assert batch.shape == (3, 3, 8, 16, 20)
    assert [str(grid) for grid in grids] == ["1x4x2", "2x2x3", "2x3x5"]
    for row, (clip_pixels, grid) in enumerate(zip(clips, grids, strict=True)):
        filled = model.pad_frames(clip_pixels[None])[0]
        assert torch.equal(cut_pixels(batch, row, grid), filled)
        assert batch[row].abs().sum() == filled.abs().sum()


def test_pad_clips_of_one_size_pads_nothing(model):
    clips = torch.rand(3, 3, 6, 8, 12)
    batch, grids = model.pad_clips(list(clips))
    assert torch.equal(batch, model.pad_frames(clips))
    assert len(set(grids)) == 1


def test_pad_clips_refuses_none_at_all(model):
    with pytest.raises(ValueError, match="clips: got none"):
        model.pad_clips([])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_a_padded_clip_is_encoded_and_decoded_as_it_is_alone(padded_model, dtype):
    model, batch, grids = padded_model
    tolerance = {"atol": TOLERANCES[dtype], "rtol": 0.0}
    with torch.no_grad(), at(dtype):
        posterior = model.encode(batch, grids)
        pixels = model.decode(posterior.mode(), grids=grids)
        unmasked = model.encode(batch)
        for row, (clip_pixels, grid) in enumerate(zip(mixed_clips(), grids, strict=True)):
            alone = model.encode(clip_pixels[None])
            torch.testing.assert_close(cut(posterior.mean, row, grid), alone.mean[0], **tolerance)
            torch.testing.assert_close(cut(posterior.logvar, row, grid), alone.logvar[0], **tolerance)
            torch.testing.assert_close(posterior.kl()[row], alone.kl()[0], atol=10 * tolerance["atol"], rtol=0.0)
            assert not torch.allclose(cut(unmasked.mean, row, grid), alone.mean[0], atol=0.1)
            decoded = model.decode(cut(posterior.mean, row, grid)[None])
            torch.testing.assert_close(cut_pixels(pixels, row, grid), decoded[0], **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_padding_and_neighbours_change_no_bit(padded_model, dtype):
    model, batch, grids = padded_model
    spoiled = torch.full_like(batch, float("nan"))
    cut_pixels(spoiled, 1, grids[1])[:] = cut_pixels(batch, 1, grids[1])
    others = [Grid(frames=1, height=1, width=1), grids[1], Grid(frames=2, height=4, width=5)]
    for row in (0, 2):
        cut_pixels(spoiled, row, others[row])[:] = 0.5
    with torch.no_grad(), at(dtype):
        first, second = model.encode(batch, grids), model.encode(spoiled, others)
        assert torch.equal(cut(first.mean, 1, grids[1]), cut(second.mean, 1, grids[1]))
        latents = [
            posterior.mean.masked_fill(~posterior.mask[..., None], float("nan")) for posterior in (first, second)
        ]
        pixels, other_pixels = model.decode(latents[0], grids=grids), model.decode(latents[1], grids=others)
    assert torch.equal(cut_pixels(pixels, 1, grids[1]), cut_pixels(other_pixels, 1, grids[1]))
    assert pixels.isfinite().all()
    assert other_pixels.isfinite().all()


def test_outputs_are_zero_at_padding(padded_model):
    model, batch, grids = padded_model
    found = model(batch, grids=grids)
    pixels = found.pixels.clone()
    latents = [found.posterior.mean.clone(), found.posterior.logvar.clone(), found.posterior.sample()]
    for row, grid in enumerate(grids):
        assert cut_pixels(pixels, row, grid).any()
        cut_pixels(pixels, row, grid)[:] = 0.0
        for values in latents:
            cut(values, row, grid)[:] = 0.0
    assert not pixels.any()
    assert not any(values.any() for values in latents)


def test_gradients_of_a_padded_batch_are_those_of_its_clips(padded_model):
    model, batch, grids = padded_model
    model, batch = model.double(), batch.double()
    spoiled = torch.full_like(batch, float("nan"))
    for row, grid in enumerate(grids):
        cut_pixels(spoiled, row, grid)[:] = cut_pixels(batch, row, grid)
    found = model(spoiled, sample=False, grids=grids)
    (found.pixels.square().sum() + found.posterior.kl().sum()).backward()
    together = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    for clip_pixels in mixed_clips():
        alone = model(clip_pixels[None].double(), sample=False)
        (alone.pixels.square().sum() + alone.posterior.kl().sum()).backward()
    for found_gradient, parameter in zip(together, model.parameters(), strict=True):
        torch.testing.assert_close(found_gradient, parameter.grad, rtol=1e-4, atol=1e-4)


def test_full_grids_are_no_grids(padded_model):
    model, batch, _ = padded_model
    grids = [Grid(frames=2, height=4, width=5)] * 3
    found, expected = model(batch, sample=False, grids=grids), model(batch, sample=False)
    assert found.posterior.mask is None
    assert torch.equal(found.posterior.mean, expected.posterior.mean)
    assert torch.equal(found.pixels, expected.pixels)


def test_a_padded_batch_is_cut_at_the_longest_clips_end(model):
    batch, grids = model.pad_clips(mixed_clips())
    latent = model.encode(batch, grids).mode()
    whole = model.decode(latent, grids=grids)
    assert torch.equal(model.decode(latent, num_frames=5, grids=grids), whole[:, :, :5])


def test_the_model_refuses_grids_that_do_not_fit(model):
    batch, grids = model.pad_clips(mixed_clips())
    with pytest.raises(ValueError, match="grids: got 2, expected one for each of 3 clips"):
        model.encode(batch, grids[:2])
    with pytest.raises(ValueError, match="number 0 is 1x4x2, expected 1x1x1 to the batch's 1x2x2"):
        model.decode(torch.zeros(1, 1, 2, 2, 5), grids=grids[:1])
