import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.media.keys import clip_key, media_key


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(0, 10**7))
@example("../../etc/passwd", 0)
@example("a\0b.jpg", 0)
@example("...", 0)
@example("", 0)
@example("/photos/.hidden", 0)
@example("\udcff.mp4", 0)
@example("İ" * 300, 0)
@example("C:\\clips\\..\\x.mp4", 0)
@example("x" * 10_000 + "/" + "y" * 10_000, 0)
def test_keys_are_safe_whatever_the_uri(uri, index):
    assert re.fullmatch(r"[a-z0-9_-]{1,40}-[0-9a-f]{20}-[0-9]{6,}", clip_key(uri, index))
    assert clip_key(uri, index).startswith(media_key(uri) + "-")


@given(st.lists(st.tuples(st.text(), st.integers(0, 99)), unique=True))
def test_keys_tell_clips_apart(clips):
    assert len({clip_key(*clip) for clip in clips}) == len(clips)


def test_key_is_readable_and_stable():
    assert clip_key("s3://bucket/Red Fox.jpg", 7) == "red-fox-" + media_key("s3://bucket/Red Fox.jpg")[8:] + "-000007"
    assert media_key("http://host/a/cat.JPG?size=big").startswith("cat-")
    assert media_key("/photos/猫.jpg").startswith("clip-")


def test_negative_index():
    with pytest.raises(ValueError, match="clip_index"):
        clip_key("a", -1)
