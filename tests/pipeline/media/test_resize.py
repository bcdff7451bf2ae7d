import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.media.reject import RejectClip
from pipeline.media.resize import ResizeProtocol, resize_frames
from schemas.outcome import Reason


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
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 48),
    st.sampled_from(["box", "bilinear", "bicubic", "lanczos"]),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_equals_pillow_on_each_frame(height, width, side, kernel, num_frames, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)
    resized = resize_frames(frames, ResizeProtocol(resolution=side, kernel=kernel))
    assert resized.pixels.shape == (num_frames, side, side, 3)
    for frame, square in zip(frames, resized.pixels, strict=True):
        np.testing.assert_array_equal(square, reference(frame, side, kernel))
    crop = resized.crop
    assert 0 <= crop.top < crop.bottom <= height + 1e-9
    assert 0 <= crop.left < crop.right <= width + 1e-9


def test_a_frame_of_the_right_size_is_untouched():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, ResizeProtocol(resolution=32)).pixels, frames)


def test_crop_box_in_source_pixels():
    crop = resize_frames(np.zeros((1, 100, 300, 3), np.uint8), ResizeProtocol(resolution=50)).crop
    assert (crop.top, crop.left, crop.bottom, crop.right) == (0, 100, 100, 200)


def test_a_thread_of_pixels_is_rejected_before_it_fills_memory():
    with pytest.raises(RejectClip) as caught:
        resize_frames(np.zeros((1, 1, 65535, 3), np.uint8), ResizeProtocol(resolution=256))
    assert caught.value.reason is Reason.TOO_LARGE


def test_impossible_protocols():
    with pytest.raises(ValueError, match="resolution"):
        ResizeProtocol(resolution=0)
    with pytest.raises(ValueError, match="kernel"):
        ResizeProtocol(resolution=8, kernel="nearest")
