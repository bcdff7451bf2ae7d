"""Pictures of clips beside each other."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report.samples import grid_of, png_of, webp_of

CLIPS = [np.full((2, 4, 6, 3), value, np.uint8) for value in (10, 20, 30)]


def test_clips_stand_in_rows_and_what_is_missing_is_black():
    grid = grid_of(CLIPS, num_columns=2)
    assert grid.shape == (2, 8, 12, 3)
    found = [int(grid[1, row, column, 0]) for row in (0, 4) for column in (0, 6)]
    assert found == [10, 20, 30, 0]
    with pytest.raises(ValueError, match="clips: got none"):
        grid_of([], num_columns=2)


def test_files_hold_every_frame():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_of(frames[0])))), frames[0])
    with Image.open(io.BytesIO(webp_of(frames))) as moving:
        assert moving.n_frames == 3
        for number, frame in enumerate(frames):
            moving.seek(number)
            assert np.array_equal(np.asarray(moving.convert("RGB")), frame)
