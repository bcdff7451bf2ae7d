import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from pipeline.media.color_tags import color_tags, to_rgb
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

# Kr and Kb of ITU-R BT.601, BT.709, BT.2020 and SMPTE 240M, by the matrix's number.
WEIGHTS = {6: (0.299, 0.114), 5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 7: (0.212, 0.087)}


def flat(y, cb, cr, *, matrix, full, height=16, width=32):
    frame = av.VideoFrame.from_ndarray(
        np.concatenate([np.full(height * width, y), np.full(height * width // 4, cb), np.full(height * width // 4, cr)])
        .astype(np.uint8)
        .reshape(height * 3 // 2, width),
        format="yuv420p",
    )
    frame.colorspace = matrix
    frame.color_range = 2 if full else 1
    return frame


def by_formula(y, cb, cr, kr, kb, full):
    luma, blue, red = (
        (y, cb - 128, cr - 128) if full else ((y - 16) * 255 / 219, *((c - 128) * 255 / 224 for c in (cb, cr)))
    )
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    return np.clip([r, (luma - kr * r - kb * b) / (1 - kr - kb), b], 0, 255)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_pixels_follow_the_formula_of_the_tags(matrix, full):
    kr, kb = WEIGHTS[matrix]
    for code in [(81, 90, 140), (126, 128, 128), (145, 54, 94), (60, 160, 120), (190, 120, 135)]:
        frame = flat(*code, matrix=matrix, full=full)
        pixels = to_rgb(frame, VideoReformatter())
        assert pixels.shape == (16, 32, 3)
        np.testing.assert_allclose(pixels[5, 7], by_formula(*code, kr, kb, full), atol=2)


@pytest.mark.parametrize(
    ("height", "matrix", "full", "name"),
    [
        (720, 2, False, "bt709 limited (untagged)"),
        (704, 2, False, "bt601 limited (untagged)"),
        (704, 2, True, "bt601 full (untagged)"),
        (16, 1, False, "bt709 limited"),
        (720, 6, True, "bt601 full"),
        (16, 9, False, "bt2020 limited"),
    ],
)
def test_names_of_colours(height, matrix, full, name):
    assert str(color_tags(flat(0, 128, 128, matrix=matrix, full=full, height=height))) == name


def test_untagged_frames_are_read_as_their_name_says():
    def read(height, matrix):
        return to_rgb(flat(120, 60, 200, matrix=matrix, full=False, height=height), VideoReformatter())

    np.testing.assert_array_equal(read(704, 2), read(704, 6))
    np.testing.assert_array_equal(read(720, 2), read(720, 1))
    assert np.abs(read(720, 1).astype(int) - read(720, 6)).max() > 10


def test_rgb_passes_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="gbrp")
    np.testing.assert_array_equal(to_rgb(frame, VideoReformatter()), pixels)
    assert str(color_tags(frame)) == "rgb full"


def test_a_matrix_that_nobody_converts_is_refused():
    with pytest.raises(RejectClip) as caught:
        to_rgb(flat(0, 128, 128, matrix=8, full=False), VideoReformatter())
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
