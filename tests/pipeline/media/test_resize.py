import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.media.reject import RejectClip
from pipeline.media.resize import ResizeProtocol, resize_frames
from schemas.outcome import Reason

KERNELS = ["box", "bilinear", "bicubic", "lanczos"]
SIDES = st.integers(1, 48)
LENGTHS = st.integers(1, 90)


def noise(num_frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def reference(frame, side, kernel):
    """Pillow's resize and crop, with torchvision's integers spelled out."""
    height, width = frame.shape[:2]
    short, long = min(height, width), max(height, width)
    new_long = int(side * long / short)
    new_height, new_width = (side, new_long) if height <= width else (new_long, side)
    image = Image.fromarray(frame).resize((new_width, new_height), Image.Resampling[kernel.upper()])
    top, left = int(round((new_height - side) / 2.0)), int(round((new_width - side) / 2.0))  # noqa: RUF046
    return np.asarray(image)[top : top + side, left : left + side]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, LENGTHS, SIDES, st.sampled_from(KERNELS), st.integers(1, 3), st.integers(0, 2**32))
def test_squares_equal_pillow_on_each_frame(height, width, side, kernel, num_frames, seed):
    frames = noise(num_frames, height, width, seed)
    resized = resize_frames(frames, (side, side), kernel)
    assert resized.pixels.shape == (num_frames, side, side, 3)
    for frame, square in zip(frames, resized.pixels, strict=True):
        np.testing.assert_array_equal(square, reference(frame, side, kernel))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LENGTHS, SIDES, SIDES, st.fractions(min_value="1/3", max_value=3, max_denominator=12))
def test_the_crop_is_the_centre_and_of_the_right_shape(height, width, new_height, new_width, aspect):
    resized = resize_frames(noise(1, height, width), (new_height, new_width), "bilinear", pixel_aspect=float(aspect))
    assert resized.pixels.shape == (1, new_height, new_width, 3)
    crop = resized.crop
    assert -1e-9 <= crop.top < crop.bottom <= height + 1e-9
    assert -1e-9 <= crop.left < crop.right <= width + 1e-9
    # Centred to one pixel of the resized frame, which is this long in the source's pixels.
    rows, columns = (crop.bottom - crop.top) / new_height, (crop.right - crop.left) / new_width
    assert abs(crop.top + crop.bottom - height) <= 2 * rows
    assert abs(crop.left + crop.right - width) <= 2 * columns
    # One side whole, and the shown shape kept but for the rounding of the other side.
    assert math.isclose(crop.bottom - crop.top, height) or math.isclose(crop.right - crop.left, width)
    assert abs(rows / (columns * float(aspect)) - 1) <= 1 / min(new_height, new_width)


def whole_by_pillow(small, source, size, kernel):
    """One resize of the whole by Pillow, then the crop; `small` is `source` decoded at m/8, with m by its rows."""
    (height, width), (new_height, new_width) = source, size
    if new_height * width >= new_width * height:
        whole_height, whole_width = new_height, max(new_width, int(new_height * width / height))
    else:
        whole_height, whole_width = max(new_height, int(new_width * height / width)), new_width
    eighths = next(m for m in range(8, 0, -1) if -(-height * m // 8) == small.shape[0])
    image = Image.fromarray(small).resize(
        (whole_width, whole_height),
        Image.Resampling[kernel.upper()],
        box=(0, 0, width * eighths / 8, height * eighths / 8),
    )
    top, left = round((whole_height - new_height) / 2), round((whole_width - new_width) / 2)
    return np.asarray(image)[top : top + new_height, left : left + new_width]


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), SIDES, SIDES, st.integers(1, 8), st.sampled_from(KERNELS))
def test_equals_one_resize_of_the_whole(height, width, new_height, new_width, eighths, kernel):
    source, size = (height, width), (new_height, new_width)
    small = noise(1, -(-height * eighths // 8), -(-width * eighths // 8))
    kept = resize_frames(small, size, kernel, source=source).pixels[0]
    np.testing.assert_array_equal(kept, whole_by_pillow(small[0], source, size, kernel))


def test_equals_one_resize_of_the_whole_at_the_sizes_of_photographs():
    random = np.random.default_rng(0)
    pixels = noise(1, 600, 900)
    for _ in range(150):
        height, width = int(random.integers(40, 601)), int(random.integers(40, 901))
        size = (int(random.integers(16, 257)), int(random.integers(16, 257)))
        kernel = KERNELS[random.integers(4)]
        for side in (size, (size[0], size[0])):
            frame = pixels[:, :height, :width]
            kept = resize_frames(frame, side, kernel).pixels[0]
            np.testing.assert_array_equal(kept, whole_by_pillow(frame[0], (height, width), side, kernel))


def test_anamorphic_frames_are_shown_wide():
    frames = noise(2, 48, 30)
    resized = resize_frames(frames, (24, 30), "bicubic", pixel_aspect=2.0)
    for frame, kept in zip(frames, resized.pixels, strict=True):
        whole = Image.fromarray(frame).resize((30, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(kept, np.asarray(whole))
    assert (resized.crop.left, resized.crop.right) == (0, 30)


def test_a_frame_of_the_right_size_is_untouched():
    frames = noise(2, 32, 40)
    np.testing.assert_array_equal(resize_frames(frames, (32, 40), "lanczos").pixels, frames)


def test_crop_box_in_source_pixels():
    crop = resize_frames(np.zeros((1, 100, 300, 3), np.uint8), (50, 50), "bilinear").crop
    assert (crop.top, crop.left, crop.bottom, crop.right) == (0, 100, 100, 200)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 8), st.integers(1, 20), st.integers(1, 20))
def test_scaled_decoding_changes_no_geometry(height, width, eighths, new_height, new_width):
    small = noise(1, -(-height * eighths // 8), -(-width * eighths // 8))
    scaled = resize_frames(small, (new_height, new_width), "box", source=(height, width))
    whole = resize_frames(noise(1, height, width), (new_height, new_width), "box")
    assert scaled.crop == whole.crop
    assert scaled.pixels.shape == whole.pixels.shape


def test_the_half_pixel_outside_the_picture_is_left_out():
    # 9 x 9 at 4/8 is 5 x 5, of whose last row and column half lies outside.
    small = noise(1, 5, 5)
    kept = resize_frames(small, (3, 3), "bilinear", source=(9, 9)).pixels[0]
    inside = Image.fromarray(small[0]).resize((3, 3), Image.Resampling.BILINEAR, box=(0, 0, 4.5, 4.5))
    np.testing.assert_array_equal(kept, np.asarray(inside))
    assert (kept != resize_frames(small, (3, 3), "bilinear").pixels[0]).any()


def test_a_source_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="source: got 99x100 for frames of 50x60"):
        resize_frames(noise(1, 50, 60), (8, 8), "bilinear", source=(99, 100))


@pytest.mark.parametrize("shape", [(1, 65535), (65535, 1)])
def test_a_thread_of_pixels_is_rejected_before_it_fills_memory(shape):
    with pytest.raises(RejectClip) as caught:
        resize_frames(np.zeros((1, *shape, 3), np.uint8), (256, 256), "bilinear")
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_nearest_shape_is_taken():
    protocol = ResizeProtocol(sizes=((256, 256), (192, 320), (320, 192)))
    assert protocol.size_for(600, 700) == (256, 256)
    assert protocol.size_for(480, 640) == (192, 320)
    assert protocol.size_for(720, 1280) == (192, 320)
    assert protocol.size_for(1280, 720) == (320, 192)
    assert protocol.size_for(576, 720, pixel_aspect=64 / 45) == (192, 320)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6, unique=True), LENGTHS, LENGTHS)
def test_no_size_is_nearer_than_the_one_taken(sizes, height, width):
    distances = [abs(math.log(other[1] / other[0] * height / width)) for other in sizes]
    taken = sizes.index(ResizeProtocol(sizes=tuple(sizes)).size_for(height, width))
    assert distances[taken] <= min(distances) + 1e-12


@pytest.mark.parametrize("sizes", [((192, 320), (320, 192)), ((320, 192), (192, 320))])
def test_ties_go_to_the_earlier(sizes):
    assert ResizeProtocol(sizes=sizes).size_for(100, 100) == sizes[0]


def test_the_record_tells_all_that_changes_pixels():
    one = ResizeProtocol(sizes=((256, 256),))
    others = [ResizeProtocol(sizes=((256, 256), (192, 320))), ResizeProtocol(sizes=((256, 256),), kernel="lanczos")]
    assert len({protocol.describe() for protocol in (one, *others)}) == 3
    assert "256x256" in one.describe()


def test_scaled_decoding_is_not_for_the_box_kernel():
    allowed = [kernel for kernel in KERNELS if ResizeProtocol(sizes=((8, 8),), kernel=kernel).scaled_decoding]
    assert allowed == ["bilinear", "bicubic", "lanczos"]


def test_impossible_protocols():
    for sizes in ((), ((0, 8),), ((8, 8), (8, 8))):
        with pytest.raises(ValueError, match="sizes: got"):
            ResizeProtocol(sizes=sizes)
    with pytest.raises(ValueError, match="kernel"):
        ResizeProtocol(sizes=((8, 8),), kernel="nearest")
