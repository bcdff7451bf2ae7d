"""Keys: names of media and clips that are safe as file names and as tar members, whatever the uri holds."""

import hashlib
import re

_UNSAFE = re.compile(r"[^a-z0-9_-]+")
_MAX_SLUG = 40
_HASH_DIGITS = 20


def media_key(uri: str) -> str:
    """Name of a media: a readable slug of its stem, then a hash of its whole uri.

    >>> media_key("s3://bucket/Red Fox.jpg")
    'red-fox-6683e5cb30d1804b0617'

    Only [a-z0-9_-] occur: no dot (WebDataset splits a member's name there), no slash, never empty.
    """
    path = uri.split("://", 1)[-1].split("?", 1)[0]
    stem = path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    slug = _UNSAFE.sub("-", stem.lower())[:_MAX_SLUG].strip("-") or "clip"
    # A file name need not be UTF-8; Python then holds its bytes as lone surrogates.
    digest = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:_HASH_DIGITS]}"


def clip_key(uri: str, clip_index: int) -> str:
    """Name of one clip of a media: the media's key and the clip's index in at least six digits.

    Raises:
        ValueError: The index is negative.
    """
    if clip_index < 0:
        raise ValueError(f"clip_index: got {clip_index}, expected at least 0")
    return f"{media_key(uri)}-{clip_index:06d}"
