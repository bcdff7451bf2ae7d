import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.bucket import aspect_sizes, bucket_name, clip_grid, parse_bucket, parse_sizes
from pipeline.media.source import MediaKind
from vitok.config import Grid, Tubelet

SIZES = st.integers(1, 4096)
TUBELET = Tubelet(frames=4, patch=8)


@given(SIZES, SIZES, SIZES)
def test_round_trip(frames, height, width):
    grid = Grid(frames=frames, height=height, width=width)
    assert parse_bucket(bucket_name(grid)) == grid


@pytest.mark.parametrize("name", ["4x16x16", "grid=4x16", "grid=0x1x1", "grid=04x16x16", "grid=4x16x16/", "grid=٤x1x1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="got"):
        parse_bucket(name)


def test_an_image_is_a_clip_of_one_frame():
    assert clip_grid(MediaKind.IMAGE, (128, 192), 16, TUBELET) == Grid(frames=1, height=16, width=24)
    assert clip_grid(MediaKind.VIDEO, (128, 192), 16, TUBELET) == Grid(frames=4, height=16, width=24)


def test_a_size_off_the_patch():
    with pytest.raises(ValueError, match="multiples of 16"):
        clip_grid(MediaKind.IMAGE, (96, 100), 1, Tubelet(frames=1, patch=16))


@given(st.integers(1, 600), st.sampled_from([1, 8, 16]), st.floats(1, 4))
def test_aspect_sizes_are_all_and_only_those_that_cannot_grow(tokens, patch, max_aspect):
    sizes = aspect_sizes(tokens=tokens, tubelet=Tubelet(frames=1, patch=patch), max_aspect=max_aspect)

    def allowed(rows, columns):
        return rows * columns <= tokens and max(rows, columns) <= max_aspect * min(rows, columns)

    # The plain definition, over every shape: none that is allowed holds it and is larger.
    side = range(1, 2 * int(tokens**0.5) + 2)
    shapes = {(rows, columns) for rows in side for columns in side if allowed(rows, columns)}
    largest = {
        shape
        for shape in shapes
        if not any(other != shape and other[0] >= shape[0] and other[1] >= shape[1] for other in shapes)
    }
    assert {(height // patch, width // patch) for height, width in sizes} == largest
    assert all(height % patch == 0 and width % patch == 0 for height, width in sizes)
    assert list(sizes) == sorted(sizes, key=lambda size: size[1] / size[0])
    assert {(width, height) for height, width in sizes} == set(sizes)


def test_the_papers_budget():
    sizes = aspect_sizes(tokens=256, tubelet=Tubelet(frames=1, patch=16))
    assert (256, 256) in sizes
    assert (sizes[0], sizes[-1], len(sizes)) == ((352, 176), (176, 352), 11)


def test_impossible_budgets():
    with pytest.raises(ValueError, match="tokens: got 0"):
        aspect_sizes(tokens=0, tubelet=TUBELET)
    for aspect in (0.5, float("nan")):
        with pytest.raises(ValueError, match="max_aspect: got"):
            aspect_sizes(tokens=256, tubelet=TUBELET, max_aspect=aspect)


def test_sizes_are_height_by_width_in_the_order_given():
    assert parse_sizes("256x256, 192x320", TUBELET) == ((256, 256), (192, 320))


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, unique=True))
def test_sizes_round_trip(tokens):
    sizes = tuple((rows * 8, columns * 8) for rows, columns in tokens)
    assert parse_sizes(",".join(f"{height}x{width}" for height, width in sizes), TUBELET) == sizes


@pytest.mark.parametrize("text", ["", "256", "256x256,", "0x8", "100x96", "96x100", "8x8,8x8", "٨x8", "-8x8", "8x8x8"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="sizes: got"):
        parse_sizes(text, TUBELET)
