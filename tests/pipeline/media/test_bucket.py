import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.bucket import bucket_name, clip_grid, parse_bucket
from pipeline.media.resize import ResizeProtocol
from pipeline.media.source import MediaKind
from vitok.config import Grid, Tubelet

SIZES = st.integers(1, 4096)


@given(SIZES, SIZES, SIZES)
def test_round_trip(frames, height, width):
    grid = Grid(frames=frames, height=height, width=width)
    assert parse_bucket(bucket_name(grid)) == grid


@pytest.mark.parametrize("name", ["4x16x16", "grid=4x16", "grid=0x1x1", "grid=04x16x16", "grid=4x16x16/", "grid=٤x1x1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="got"):
        parse_bucket(name)


def test_an_image_is_a_clip_of_one_frame():
    protocol = ResizeProtocol(resolution=128)
    tubelet = Tubelet(frames=4, patch=8)
    assert clip_grid(MediaKind.IMAGE, protocol, 16, tubelet) == Grid(frames=1, height=16, width=16)
    assert clip_grid(MediaKind.VIDEO, protocol, 16, tubelet) == Grid(frames=4, height=16, width=16)


def test_resolution_off_the_patch():
    with pytest.raises(ValueError, match="multiples of 16"):
        clip_grid(MediaKind.IMAGE, ResizeProtocol(resolution=100), 1, Tubelet(frames=1, patch=16))
