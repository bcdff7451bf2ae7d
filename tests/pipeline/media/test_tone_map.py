import numpy as np
import pytest

from pipeline.media.tone_map import tone_map


def grey(levels):
    return np.repeat(np.asarray(levels, np.uint16)[np.newaxis, :, np.newaxis], 3, axis=-1)


def pq(nits):
    """16-bit code of a luminance by SMPTE ST 2084, written the other way round than in the module."""
    power = (nits / 10000) ** 0.1593017578125
    return round(65535 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def srgb(linear):
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_grey_stays_grey_in_order_from_black_to_white(transfer):
    ramp = tone_map(grey(np.arange(0, 65536, 64)), transfer).astype(int)
    assert ramp.shape == (1, 1024, 3)
    assert np.ptp(ramp, axis=-1).max() <= 1
    assert (np.diff(ramp[0], axis=0) >= 0).all()
    assert (ramp[0, 0] == 0).all()
    assert (ramp[0, -1] == 255).all()


@pytest.mark.parametrize("nits", [0.5, 5, 50, 101])
def test_up_to_the_knee_light_is_kept(nits):
    pixel = tone_map(grey([pq(nits)]), "pq")
    np.testing.assert_allclose(pixel[0, 0], srgb(nits / 203), atol=1)


def test_above_the_knee_light_is_rolled_off_to_the_peak():
    white, half_peak, peak, beyond = tone_map(grey([pq(203), pq(500), pq(1000), pq(4000)]), "pq")[0, :, 1]
    assert 215 < white < 235
    assert white < half_peak < peak
    assert peak >= 254
    assert beyond == 255


def test_reference_white_of_both_curves_is_one_brightness():
    # ITU-R BT.2408: 203 cd/m2 is 58 % of PQ and 75 % of HLG.
    by_pq, by_hlg = (
        tone_map(grey([round(share * 65535)]), curve)[0, 0, 1] for share, curve in ((0.58, "pq"), (0.75, "hlg"))
    )
    assert abs(int(by_pq) - int(by_hlg)) <= 2


def test_colours_of_bt709_within_bt2020_come_back():
    # Red of BT.709 in BT.2020 light (ITU-R BT.2087), at 50 cd/m2.
    red = np.array([0.6274, 0.0691, 0.0164]) * 50
    pixel = tone_map(np.array([[[pq(channel) for channel in red]]], np.uint16), "pq")[0, 0]
    np.testing.assert_allclose(pixel, [srgb(50 / 203), 0, 0], atol=3)


def test_frames_larger_than_a_strip():
    pixels = np.random.default_rng(0).integers(0, 65536, (700, 800, 3), np.uint16)
    whole = tone_map(pixels, "hlg")
    np.testing.assert_array_equal(whole[650:], tone_map(pixels[650:], "hlg"))
