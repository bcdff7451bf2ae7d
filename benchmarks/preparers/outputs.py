"""What preparers wrote: JPEGs of WebDataset tars by the photograph they were made of, and how near two sets are."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pictures(folder: Path, source_field: str) -> dict[str, bytes]:
    """JPEGs of all tars under a folder by their photograph's file name, which each sample's JSON has in a field."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[extension] = file.read()
        for members in samples.values():
            (picture,) = (data for name, data in members.items() if name.endswith(("jpg", "jpeg")))
            source = json.loads(members["json"])[source_field]
            found[unquote(source).rsplit("/", 1)[-1]] = picture
    return found


def psnr_between(ours: Mapping[str, bytes], theirs: Mapping[str, bytes], *, size: int, limit: int) -> list[float]:
    """PSNR in dB of the first `limit` photographs in two outputs.

    Raises:
        ValueError: The outputs are not of the same photographs, or one is not a square of `size`.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"got {len(ours)} and {len(theirs)} photographs, {len(ours.keys() ^ theirs.keys())} in one only"
        )
    values = []
    for name in sorted(ours)[:limit]:
        error = _pixels(ours[name], size).astype(np.float64) - _pixels(theirs[name], size)
        values.append(float(10 * np.log10(255**2 / max(np.mean(error**2), 1e-10))))
    return values


def _pixels(data: bytes, size: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        if image.size != (size, size) or image.format != "JPEG":
            raise ValueError(f"got {image.format} of {image.size}, expected a JPEG of {(size, size)}")
        return np.asarray(image.convert("RGB"))
