import os
import subprocess
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image, turn_upright
from pipeline.media.reject import RejectClip
from schemas.outcome import Reason

LIMITS = MediaLimits()
TURNS = [
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
]


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data, limits=LIMITS):
    with pytest.raises(RejectClip) as caught:
        decode_image(data, limits)
    return caught.value.reason


def noise(height=7, width=5, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_upright_equals_pillow(orientation):
    turn = TURNS[orientation - 1]
    image = Image.fromarray(noise())
    expected = image if turn is None else image.transpose(turn)
    np.testing.assert_array_equal(turn_upright(noise(), orientation), np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise()), kind, exif=exif)
    decoded = decode_image(data, LIMITS)
    with Image.open(BytesIO(data)) as image:
        image.load()
        np.testing.assert_array_equal(decoded.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert decoded.orientation == orientation


@pytest.mark.parametrize(
    ("wheel", "name"),
    [("scikit-learn", "china.jpg"), ("scikit-image", "coffee.png"), ("scikit-image", "camera.png")],
)
def test_photographs_equal_pillow(wheel_media, wheel, name):
    path = wheel_media(wheel, name)
    decoded = decode_image(path.read_bytes(), LIMITS)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous


def test_alpha_lies_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    decoded = decode_image(encoded(Image.fromarray(pixels)), LIMITS)
    assert decoded.pixels[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_colour_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encoded(image, transparency=1), LIMITS)
    assert decoded.pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_grey_and_black_and_white_and_cmyk():
    assert decode_image(encoded(Image.new("L", (2, 2), 77)), LIMITS).pixels.tolist() == [[[77] * 3] * 2] * 2
    assert decode_image(encoded(Image.new("1", (2, 2), 1)), LIMITS).pixels.min() == 255
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode_image(encoded(cmyk, "TIFF"), LIMITS).pixels[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    assert decode_image(encoded(Image.fromarray(wide)), LIMITS).pixels[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_numbers_without_a_white_are_rejected():
    assert reason_of(encoded(Image.new("F", (2, 2), 0.5), "TIFF")) is Reason.UNKNOWN_FORMAT


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode_image(data, LIMITS).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_truncated_files_are_rejected_and_never_half_grey(kind):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    for share in (0.4, 0.7, 0.95):
        assert reason_of(data[: int(len(data) * share)]) in (Reason.CORRUPT, Reason.UNKNOWN_FORMAT)
    assert kind != "JPEG" or reason_of(data[: len(data) // 2]) is Reason.CORRUPT


def test_what_is_no_image():
    assert reason_of(b"") is Reason.EMPTY_FILE
    assert reason_of(b"not an image at all") is Reason.UNKNOWN_FORMAT


def test_formats_that_start_other_programs_are_not_opened():
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n") is Reason.UNKNOWN_FORMAT


def test_limits_hold_before_a_pixel_is_decoded():
    data = encoded(Image.fromarray(noise(10, 10)))
    assert decode_image(data, MediaLimits(max_bytes=len(data), max_pixels=100)).pixels.shape == (10, 10, 3)
    assert reason_of(data, MediaLimits(max_bytes=len(data) - 1)) is Reason.TOO_LARGE
    assert reason_of(data, MediaLimits(max_pixels=99)) is Reason.TOO_LARGE
    # Of a truncated bomb only the header is there: it must be judged by that.
    bomb = bytearray(data)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert reason_of(bytes(bomb)) is Reason.TOO_LARGE


def test_pillow_warnings_stay_inside():
    large = encoded(Image.new("1", (10_000, 9_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(large, LIMITS).pixels.shape == (9_000, 10_000, 3)


SWEEP = """
import sys
from collections import Counter
from pathlib import Path
from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image
from pipeline.media.reject import RejectClip

seen = Counter()
limits = MediaLimits(max_pixels=30_000_000)
for path in sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file()):
    print(path, file=sys.stderr, flush=True)
    try:
        decoded = decode_image(path.read_bytes(), limits)
        assert decoded.pixels.ndim == 3 and decoded.pixels.shape[2] == 3
        seen["decoded"] += 1
    except RejectClip as reject:
        seen[str(reject.reason)] += 1
print(dict(seen))
"""


def test_malformed_files_are_decoded_or_rejected_and_nothing_else(data_media):
    folder = data_media("malformed")
    # In a process of its own, for a native crash would take pytest along; its last line then names the file.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "decoded" in done.stdout
    assert "corrupt" in done.stdout
