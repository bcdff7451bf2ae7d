"""Crops and mirrors of clips: sizes, the same for all frames, and within the clip."""

import numpy as np
import pytest
from PIL import Image

from pipeline.training.augment import augment


@pytest.fixture(scope="module")
def photograph(wheel_media):
    with Image.open(wheel_media("scikit-image", "chelsea.png")) as image:
        return np.asarray(image.convert("RGB"))[:128, :160]


def clip_of(photograph, frames=3):
    return np.stack([photograph] * frames)


@pytest.mark.parametrize("how", ["none", "flip", "random_crop", "random_resized_crop"])
def test_frames_of_a_still_stay_equal(photograph, how):
    for seed in range(5):
        out = augment(clip_of(photograph), how=how, resolution=0, generator=np.random.default_rng(seed))
        assert out.shape == (3, 128, 160, 3)
        assert (out == out[:1]).all()


def test_the_same_draws_give_the_same_clip_and_others_another(photograph):
    def cut(seed):
        return augment(
            clip_of(photograph), how="random_resized_crop", resolution=64, generator=np.random.default_rng(seed)
        )

    assert (cut(1) == cut(1)).all()
    assert (cut(1) != cut(2)).any()


def test_a_crop_is_a_piece_of_the_clip_or_its_mirror(photograph):
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (32, 32), axis=(0, 1))
    mirrored = 0
    for seed in range(12):
        (piece,) = augment(
            clip_of(photograph, 1), how="random_crop", resolution=32, generator=np.random.default_rng(seed)
        )
        there = [
            (windows == np.moveaxis(turned, -1, 0)[None, None]).all((2, 3, 4)).any()
            for turned in (piece, piece[:, ::-1])
        ]
        assert sum(there) == 1
        mirrored += there[1]
    assert 2 <= mirrored <= 10


def test_a_resized_crop_keeps_most_of_the_area(photograph):
    """Of a ramp the range of values tells the box's width."""
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, None, :, None], (1, 128, 160, 3))
    widths = []
    for seed in range(200):
        out = augment(ramp, how="random_resized_crop", resolution=0, generator=np.random.default_rng(seed))
        widths.append((int(out.max()) - int(out.min())) / 160)
    assert 0.68 < min(widths) < 0.82
    assert max(widths) > 0.97


def test_a_crop_that_does_not_fit_says_so(photograph):
    for how, resolution in (("random_crop", 256), ("flip", 64)):
        with pytest.raises(
            ValueError, match=rf"got {resolution} for clips of 128x160 pixels with --augmentation {how}"
        ):
            augment(clip_of(photograph), how=how, resolution=resolution, generator=np.random.default_rng(0))
