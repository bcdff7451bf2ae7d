"""Pixels to the model and back."""

import pytest
import torch

from vitok.pixels import from_uint8, to_uint8


def as_clip(values):
    return torch.as_tensor(values).reshape(1, 1, 1, 1, -1)


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 2, 8, 16, 1)
    pixels = from_uint8(levels)
    assert pixels.shape == (1, 1, 2, 8, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert torch.equal(to_uint8(pixels), levels)


def test_axes_keep_their_places():
    pixels = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    moved = from_uint8(pixels)
    assert moved.shape == (2, 3, 3, 4, 5)
    assert moved[1, 2, 0, 3, 4] == pixels[1, 0, 3, 4, 2] / 127.5 - 1.0
    assert torch.equal(to_uint8(moved), pixels)


def test_rounds_to_the_nearest_level():
    levels = torch.tensor([0.4, 0.6, 99.4, 99.6, 254.4, 254.6])
    assert to_uint8(as_clip(levels / 127.5 - 1)).flatten().tolist() == [0, 1, 99, 100, 254, 255]
    assert to_uint8(as_clip([0.0])).flatten().tolist() == [128]  # 127.5, the one half that [-1, 1] holds exactly


def test_clamps_beyond_the_range():
    assert to_uint8(as_clip([-1.5, 1.5, -torch.inf, torch.inf])).flatten().tolist() == [0, 255, 0, 255]


def test_takes_half_precision():
    assert to_uint8(torch.zeros(2, 3, 1, 4, 5, dtype=torch.bfloat16)).dtype == torch.uint8


def test_refuses_nan():
    with pytest.raises(ValueError, match="1 of 3 are NaN"):
        to_uint8(as_clip([0.0, torch.nan, 1.0]))
