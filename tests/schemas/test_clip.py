"""Clip metadata comes back as written, and no key can leave its folder."""

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clip import KEY_PATTERN, ClipMetadata

METADATA = ClipMetadata(
    key="red-fox-6683e5cb30d1804b0617-000001",
    media_uri="s3://bucket/Red Fox.mp4",
    media_sha256="0" * 64,
    clip_index=1,
    start_seconds=2.0,
    end_seconds=4.0,
    fps=29.97002997002997,
    num_frames=16,
    height=256,
    width=256,
    source_height=480,
    source_width=640,
    orientation=1,
    pixel_aspect=1.0,
    color="srgb",
    interlaced=False,
    crop_left=80.0,
    crop_top=0.0,
    crop_right=560.1,
    crop_bottom=480.0,
    label=None,
    caption=None,
    columns={},
)


def test_metadata_survives_json():
    assert ClipMetadata.from_json(json.loads(json.dumps(METADATA.to_json()))) == METADATA


@pytest.mark.parametrize("name", sorted(METADATA.to_json()))
def test_metadata_without_a_key_is_refused_and_the_key_named(name):
    value = METADATA.to_json()
    del value[name]
    with pytest.raises(ValueError, match=f"missing \\['{name}'\\]"):
        ClipMetadata.from_json(value)


def test_unknown_metadata_is_refused_and_named():
    with pytest.raises(ValueError, match=r"unknown \['title'\]"):
        ClipMetadata.from_json(METADATA.to_json() | {"title": "a fox"})


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a.b", "a b", "a\n", "a\0b", "é", "٣", "a" * 97]
)
def test_unsafe_keys_are_refused(key):
    with pytest.raises(ValueError, match="does not match"):
        ClipMetadata.from_json(METADATA.to_json() | {"key": key})


@given(st.from_regex(KEY_PATTERN, fullmatch=True) | st.text(max_size=100))
def test_a_key_that_matches_is_one_name_without_an_extension(key):
    if KEY_PATTERN.fullmatch(key) is not None:
        assert PurePosixPath(key).parts == (key,)
        assert PurePosixPath(key).suffix == ""
        assert key.isascii()
