"""A film holds a clip's frames where the page looks for them, and a difference is that of the pixels."""

import io

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.report.pictures import LONGEST_SIDE, LOSSLESS_PIXELS, MOST_FRAMES, film_of, triptych
from tests.pipeline.report.pages import crops


def shown(film):
    """Frames of a film, [T, H, W, 3]."""
    with Image.open(io.BytesIO(film.webp)) as image:
        sheet = np.asarray(image.convert("RGB"))
    tiles = rearrange(sheet, "(r H) (c W) x -> (r c) H W x", H=film.height, W=film.width)
    assert sheet.shape[1] == film.num_columns * film.width
    return tiles[: film.num_frames]


@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(st.integers(1, 10), st.integers(1, 24), st.integers(1, 24)), seed=st.integers(0, 99))
def test_a_small_clip_comes_back_bit_for_bit(shape, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert frames[..., 0].size <= LOSSLESS_PIXELS
    film = film_of(frames)
    np.testing.assert_array_equal(shown(film), frames)
    assert film_of(frames).name == film.name != film_of(255 - frames).name


def test_a_large_clip_is_near(photograph):
    frames = crops(photograph, 7, side=256)
    found = shown(film_of(frames)).astype(float)
    assert 10 * np.log10(255**2 / np.square(found - frames).mean()) > 33


def test_what_is_too_large_for_a_page_is_made_smaller():
    frames = np.zeros((MOST_FRAMES + 1, 8, 4 * LONGEST_SIDE, 3), np.uint8)
    frames[:, :, 2 * LONGEST_SIDE :] = 200
    film = film_of(frames)
    assert (film.width, film.height, film.num_frames) == (LONGEST_SIDE, 2, MOST_FRAMES)
    assert abs(int(shown(film)[-1, 0, -9, 0]) - 200) < 4
    assert film_of(frames[:1], longest_side=4 * LONGEST_SIDE).width == 4 * LONGEST_SIDE


@pytest.mark.parametrize(("error", "expected"), [(5, 20), (-5, 20), (200, 255)])
def test_the_difference_is_amplified_and_does_not_wrap(error, expected):
    original = np.full((2, 8, 8, 3), 20 if error > 0 else 90, np.uint8)
    found = triptych(original, (original.astype(int) + error).astype(np.uint8))
    assert (shown(found.difference) == expected).all()


def test_what_cannot_be_pictured_is_refused():
    with pytest.raises(ValueError, match="frames: got none"):
        film_of(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"reconstruction: got \(1, 8, 9, 3\), expected the original's"):
        triptych(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8))
