import os
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from pipeline.media.color import UNREADABLE, conversion_of
from pipeline.media.guard import MediaLimits
from pipeline.media.image import decode_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LIMITS = MediaLimits()


def swapped_red_and_green():
    """sRGB with the red and the green primary exchanged."""
    profile = SRGB.replace(b"rXYZ", b"----", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"----", b"gXYZ", 1)
    assert profile != SRGB
    return profile


def profile_of(space, device_class, connection, tags):
    """An ICC profile of version 2 by hand: header, table of tags, tags (ICC.1:2001-04, 6.1 and 6.2)."""
    offset, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += padded
    header = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02400000, device_class, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    whole = header.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


WHITE_POINT = b"XYZ \0\0\0\0" + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)


def linear_grey():
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 0x0100)
    return profile_of(b"GRAY", b"mntr", b"XYZ ", {b"wtpt": WHITE_POINT, b"kTRC": curve})


def inks():
    """CMYK of which the black ink takes lightness from 100 to 0 and the others do nothing."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    return profile_of(b"CMYK", b"prtr", b"Lab ", {b"wtpt": WHITE_POINT, b"A2B0": table})


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_no_profile():
    for mode, color in (("RGB", "srgb"), ("L", "grey"), ("1", "grey"), ("CMYK", "cmyk")):
        for profile in (None, b""):
            conversion = conversion_of(profile, mode)
            assert (conversion.color, conversion.changes_pixels) == (color, False)


def test_srgb_is_known_by_what_it_does():
    assert not conversion_of(SRGB, "RGB").changes_pixels
    assert conversion_of(SRGB, "RGB").color == "srgb"
    assert conversion_of(SRGB, "L").color == "grey"
    liar = swapped_red_and_green()
    assert conversion_of(liar, "RGB").color == "icc sRGB built-in"
    assert conversion_of(liar, "RGB").to_srgb(Image.new("RGB", (1, 1), "red")).getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_profiles_of_every_format_are_applied(kind):
    image = Image.new("RGB", (16, 16), "red")
    options = {"quality": 100} if kind in ("JPEG", "WEBP", "AVIF") else {}
    decoded = decode_image(encoded(image, kind, icc_profile=swapped_red_and_green(), **options), LIMITS)
    assert decoded.color == "icc sRGB built-in"
    np.testing.assert_allclose(decoded.pixels[8, 8], (0, 255, 0), atol=6)


def test_grey_by_its_own_profile():
    for mode, value in (("L", 128), ("1", 1)):
        decoded = decode_image(encoded(Image.new(mode, (2, 2), value), icc_profile=linear_grey()), LIMITS)
        assert decoded.color == "icc unnamed"
        # 0.5 of light is 188 in sRGB.
        assert decoded.pixels[0, 0].tolist() == ([188] * 3 if mode == "L" else [255] * 3)
    jpeg = decode_image(encoded(Image.new("L", (8, 8), 128), "JPEG", icc_profile=linear_grey()), LIMITS)
    assert jpeg.pixels[0, 0].tolist() == [188] * 3
    # 0x8000 of 16 bits is 128 of 8.
    wide = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert decode_image(encoded(wide, icc_profile=linear_grey()), LIMITS).pixels[0, 0].tolist() == [188] * 3


def test_grey_under_a_profile_of_rgb_is_rgb_with_equal_channels():
    # Equal amounts of light of all three primaries stay grey, whatever their order.
    decoded = decode_image(encoded(Image.new("L", (2, 2), 100), icc_profile=swapped_red_and_green()), LIMITS)
    np.testing.assert_allclose(decoded.pixels[0, 0], [100] * 3, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_by_their_profile(kind):
    half = Image.new("CMYK", (8, 8), (0, 200, 0, 128))
    with_profile = decode_image(encoded(half, kind, icc_profile=inks()), LIMITS)
    assert with_profile.color == "icc unnamed"
    # Lightness 49.8 is 118 in sRGB, and magenta does nothing in this profile.
    np.testing.assert_allclose(with_profile.pixels[0, 0], [118] * 3, atol=3)
    without = decode_image(encoded(half, kind), LIMITS)
    assert without.color == "cmyk"
    assert without.pixels[0, 0, 0] > without.pixels[0, 0, 1]


def test_alpha_and_palette_keep_their_transparency_under_a_profile():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    decoded = decode_image(encoded(picture, icc_profile=swapped_red_and_green()), LIMITS)
    assert decoded.pixels[0].tolist() == [[0, 255, 0], [255, 255, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 1, 2, 3])
    palette.putpixel((1, 0), 1)
    decoded = decode_image(encoded(palette, transparency=1, icc_profile=swapped_red_and_green()), LIMITS)
    assert decoded.pixels[0].tolist() == [[0, 255, 0], [255, 255, 255]]
    grey = Image.new("LA", (2, 1), (128, 255))
    grey.putpixel((1, 0), (128, 0))
    decoded = decode_image(encoded(grey, icc_profile=linear_grey()), LIMITS)
    assert decoded.pixels[0, :, 0].tolist() == [188, 255]


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile at all"),
        ("RGB", SRGB[: len(SRGB) // 2]),
        ("RGB", SRGB[:12] + b"link" + SRGB[16:]),
        ("RGB", inks()),
        ("RGB", linear_grey()),
        ("CMYK", SRGB),
        ("L", inks()),
        ("RGB", SRGB + bytes(9 * 2**20)),
    ],
)
def test_a_broken_profile_leaves_the_picture_as_without(mode, profile):
    image = Image.new(mode, (8, 8), 77)
    decoded = decode_image(encoded(image, "TIFF", icc_profile=profile), LIMITS)
    assert decoded.color == UNREADABLE
    np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))


def test_real_profiles_equal_plain_littlecms(data_media):
    profiles = {}
    for path in sorted(path for path in data_media("images").rglob("*") if path.is_file()):
        try:
            with Image.open(path, formats=("JPEG", "PNG", "AVIF", "WEBP", "TIFF")) as image:
                if image.mode == "RGB" and "icc_profile" in image.info and image.width < 2000:
                    profiles.setdefault(image.info["icc_profile"], path)
        except (OSError, RuntimeError):
            continue
    colors = set()
    for profile, path in profiles.items():
        with Image.open(path) as image:
            plain = ImageCms.profileToProfile(
                ImageOps.exif_transpose(image),
                ImageCms.ImageCmsProfile(BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        decoded = decode_image(path.read_bytes(), LIMITS)
        colors.add(decoded.color)
        # Profiles that count as sRGB are not applied at all.
        tolerance = 2 if decoded.color == "srgb" else 0
        np.testing.assert_allclose(decoded.pixels.astype(int), np.asarray(plain), rtol=0, atol=tolerance)
    assert {"srgb", "icc Adobe RGB (1998)", "icc XYB_Per"} <= colors


FUZZ = """
import numpy as np
from PIL import Image
from pipeline.media.color import conversion_of
from tests.pipeline.media.test_color import SRGB, inks, linear_grey
random = np.random.default_rng(0)
seen = set()
for whole, mode in ((SRGB, "RGB"), (inks(), "CMYK"), (linear_grey(), "L")):
    image = Image.new(mode, (3, 3), 77)
    for _ in range(60):
        broken = bytearray(whole)
        for place in random.integers(0, min(len(broken), 600), 4):
            broken[place] = random.integers(0, 256)
        conversion = conversion_of(bytes(broken), mode)
        assert conversion.to_srgb(image).mode == "RGB"
        seen.add(conversion.color.split()[0] + str(conversion.changes_pixels))
print(sorted(seen))
"""


def test_fuzzed_profiles_end_in_pixels():
    # In a process of its own, for a native crash would take pytest along.
    done = subprocess.run(
        [sys.executable, "-c", FUZZ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "iccFalse" in done.stdout
    assert "iccTrue" in done.stdout
