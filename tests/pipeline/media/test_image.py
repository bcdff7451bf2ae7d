import ast
import contextlib
import os
import struct
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
from pipeline.media.image import OVERSAMPLE, decode_image, probe_image, turn_upright
from pipeline.media.reject import RejectClip
from pipeline.media.resize import resize_frames
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
    facts = probe_image(data, LIMITS)
    assert (facts.height, facts.width) == (decoded.source_height, decoded.source_width) == decoded.pixels.shape[:2]
    assert facts.orientation == orientation


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


def test_one_transparent_grey_of_sixteen_bits_lies_on_white():
    # By hand, for Pillow writes no such file: 16-bit grey (0, 1) of which 1 is transparent.
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    data += chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", zlib.compress(b"\0\0\0\0\1")) + chunk(b"IEND", b"")
    assert decode_image(data, LIMITS).pixels[0, :, 0].tolist() == [0, 255]


def test_numbers_without_a_white_are_rejected():
    for mode in ("F", "I", "LAB"):
        assert reason_of(encoded(Image.new(mode, (2, 2)), "TIFF")) is Reason.UNKNOWN_FORMAT


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


def test_colors_are_told():
    for mode, kind, color in (
        ("RGB", "JPEG", "srgb"),
        ("L", "JPEG", "grey"),
        ("CMYK", "JPEG", "cmyk"),
        ("P", "GIF", "srgb"),
        ("LA", "PNG", "grey"),
        ("1", "PNG", "grey"),
        ("I;16", "PNG", "grey"),
        ("YCbCr", "TIFF", "srgb"),
    ):
        assert decode_image(encoded(Image.new(mode, (8, 8)), kind), LIMITS).color == color, (mode, kind)


def test_the_probe_reads_no_pixel_and_no_other_rejects():
    whole = encoded(Image.fromarray(noise(400, 300)), "PNG")
    file = BytesIO(whole[:200])
    assert (probe_image(file, LIMITS).height, probe_image(file, LIMITS).width) == (400, 300)
    assert reason_of(whole[:200]) is Reason.CORRUPT
    for data, limits, reason in (
        (b"", LIMITS, Reason.EMPTY_FILE),
        (b"not an image at all", LIMITS, Reason.UNKNOWN_FORMAT),
        (whole, MediaLimits(max_pixels=119_999), Reason.TOO_LARGE),
        (whole, MediaLimits(max_bytes=len(whole) - 1), Reason.TOO_LARGE),
    ):
        with pytest.raises(RejectClip) as caught:
            probe_image(data, limits)
        assert caught.value.reason is reason


def photograph(height, width):
    """A JPEG of smooth waves and an edge."""
    rows, columns = np.mgrid[:height, :width] / 37
    waves = np.stack([np.sin(rows + columns), np.cos(rows - columns), np.sin(columns)], axis=-1)
    waves[height // 3 :] *= 0.5
    return encoded(Image.fromarray((waves * 100 + 128).astype(np.uint8)), "JPEG", quality=90)


@pytest.mark.parametrize(
    ("cover", "shape"),
    [
        (None, (600, 403)),
        ((200, 200), (600, 403)),
        ((50, 50), (300, 202)),
        ((50, 51), (600, 403)),
        ((76, 50), (600, 403)),
        ((75, 1), (300, 202)),
        ((1, 1), (300, 202)),
    ],
)
def test_scaled_decoding_keeps_both_sides_large_enough(cover, shape):
    decoded = decode_image(photograph(600, 403), LIMITS, cover=cover)
    assert decoded.pixels.shape[:2] == shape
    assert (decoded.source_height, decoded.source_width) == (600, 403)
    if shape != (600, 403):
        assert min(shape[0] / cover[0], shape[1] / cover[1]) >= OVERSAMPLE * 0.99


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(640, 400), (603, 397)])
def test_scaled_decoding_of_turned_pictures(height, width, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(BytesIO(photograph(height, width))) as image:
        data = encoded(image, "JPEG", quality=90, exif=exif)
    whole = decode_image(data, LIMITS)
    upright = (height, width) if orientation < 5 else (width, height)
    cover = (60, 40) if orientation < 5 else (40, 60)
    small = decode_image(data, LIMITS, cover=cover)
    assert (small.source_height, small.source_width) == whole.pixels.shape[:2] == upright
    # A flip would bring the part of a pixel at the end of 603 or 397 to the front: those are decoded whole.
    divides = (height, width) == (640, 400)
    assert (small.pixels.shape[:2] == upright) == (not divides and orientation not in (1, 5))
    resized = resize_frames(small.pixels[np.newaxis], cover, "bilinear", source=upright)
    expected = resize_frames(whole.pixels[np.newaxis], cover, "bilinear")
    assert resized.crop == expected.crop
    assert psnr(resized.pixels, expected.pixels) > 45


def test_only_jpeg_is_decoded_small():
    data = encoded(Image.fromarray(noise(400, 400)))
    assert decode_image(data, LIMITS, cover=(8, 8)).pixels.shape == (400, 400, 3)


def psnr(one, other):
    error = np.square(one.astype(float) - other).mean()
    return 10 * np.log10(255**2 / error) if error else np.inf


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos"])
def test_scaled_decoding_costs_no_quality_on_photographs(data_media, kernel):
    side, found = 40, []
    for path in sorted(data_media("images/imagenet").iterdir()):
        data = path.read_bytes()
        small = decode_image(data, LIMITS, cover=(side, side))
        source = (small.source_height, small.source_width)
        if small.pixels.shape[:2] == source:
            continue
        whole = decode_image(data, LIMITS)
        ours = resize_frames(small.pixels[np.newaxis], (side, side), kernel, source=source)
        theirs = resize_frames(whole.pixels[np.newaxis], (side, side), kernel)
        assert ours.crop == theirs.crop
        found.append(psnr(ours.pixels, theirs.pixels))
    assert len(found) > 200
    assert min(found) >= 45
    assert np.median(found) >= 50


def by_pillow(path):
    """Upright RGB on white by Pillow alone, whatever the profile says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.load()
            # A broken EXIF turns nothing.
            with contextlib.suppress(ValueError):
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                white.alpha_composite(image.convert("RGBA"))
                image = white
            return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("folder", "least"),
    [
        ("imagenet", 250),
        ("exif_orientation", 18),
        ("exif_cameras", 10),
        ("formats", 7),
        ("formats_avif", 20),
        ("formats_vips", 3),
        ("pngsuite", 150),
    ],
)
def test_real_files_equal_pillow(data_media, folder, least):
    compared = 0
    for path in sorted(path for path in data_media(f"images/{folder}").rglob("*") if path.is_file()):
        try:
            decoded = decode_image(path.read_bytes(), LIMITS)
        except RejectClip:
            continue
        facts = probe_image(path.read_bytes(), LIMITS)
        assert (facts.height, facts.width) == decoded.pixels.shape[:2], path.name
        if not decoded.color.startswith("icc "):
            np.testing.assert_array_equal(decoded.pixels, by_pillow(path), err_msg=path.name)
            compared += 1
    assert compared >= least


SWEEP = """
import sys
from collections import Counter
from pathlib import Path
from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image, probe_image
from pipeline.media.reject import RejectClip

seen = Counter()
limits = MediaLimits(max_pixels=30_000_000)
for path in sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file()):
    print(path, file=sys.stderr, flush=True)
    data = path.read_bytes()
    try:
        facts = probe_image(data, limits)
    except RejectClip as reject:
        facts = reject.reason
    try:
        decoded = decode_image(data, limits, cover=(16, 16))
        assert decoded.pixels.ndim == 3 and decoded.pixels.shape[2] == 3
        assert (facts.height, facts.width) == (decoded.source_height, decoded.source_width)
        seen["decoded"] += 1
    except RejectClip as reject:
        # What the header shows, the probe and the decoder see alike.
        assert facts in (reject.reason,) or not isinstance(facts, str)
        seen[str(reject.reason)] += 1
print(dict(seen))
"""


@pytest.mark.parametrize(
    ("folder", "reasons"),
    [
        ("malformed/pillow", {"decoded", "corrupt", "unknown_format", "too_large"}),
        ("malformed/libjpeg_turbo_afl", {"decoded", "corrupt"}),
        ("malformed/libjpeg_turbo_bugs", {"decoded", "corrupt"}),
        ("malformed/zune", {"decoded", "corrupt"}),
        ("malformed/image_rs", {"decoded", "corrupt"}),
        ("malformed/corkami", {"decoded"}),
        ("malformed/torchvision", {"corrupt"}),
        ("images/pngsuite", {"decoded", "corrupt"}),
    ],
)
def test_malformed_files_are_decoded_or_rejected_and_nothing_else(data_media, folder, reasons):
    # In a process of its own, for a native crash would take pytest along; its last line then names the file.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP, str(data_media(folder))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert reasons <= set(ast.literal_eval(done.stdout))
