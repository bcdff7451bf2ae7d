import numpy as np

from pipeline.media.motion import is_frozen, is_near_black


def of_levels(*levels):
    return np.stack([np.full((4, 6, 3), level, np.uint8) for level in levels])


def test_one_bright_frame_makes_a_clip_not_black():
    assert is_near_black(of_levels(0, 3, 5), 8)
    assert not is_near_black(of_levels(0, 3, 9), 8)
    assert not is_near_black(of_levels(0), 0)


def test_black_is_measured_on_luma():
    blue = np.zeros((1, 4, 6, 3), np.uint8)
    blue[..., 2] = 100
    green = np.roll(blue, -1, axis=-1)
    assert is_near_black(blue, 7.3)
    assert not is_near_black(blue, 7.2)
    assert not is_near_black(green, 70)


def test_one_moving_pair_makes_a_clip_not_frozen():
    assert is_frozen(of_levels(100, 101, 100), 1.5)
    assert not is_frozen(of_levels(100, 100, 102), 1.5)
    assert not is_frozen(of_levels(7, 7), 0)
    # Differences of unsigned numbers must not wrap round.
    assert not is_frozen(of_levels(0, 255), 100)
    assert not is_frozen(of_levels(255, 0), 100)


def test_one_frame_is_never_frozen():
    assert not is_frozen(of_levels(7), 255)
