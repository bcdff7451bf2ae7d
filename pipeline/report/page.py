"""The audit's page: one HTML file, no network, with tables and pictures."""

import base64
import io
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.examples import Example
from pipeline.store.documents import canonical_json
from pipeline.store.files import Folder

_FRAME_MILLISECONDS = 125
_ERROR_GAIN = 4


def write_audit_page(folder: Folder, path: str, *, document: Mapping[str, object], examples: Sequence[Example]) -> None:
    """Write the report of a finished audit.

    Args:
        folder: The audit's folder.
        path: Name of the page in it.
        document: The audit's `store.json`.
        examples: Clips to picture, worst first.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipeline.report"), autoescape=True)
    html = environment.get_template("audit.html.j2").render(
        document=document,
        record=canonical_json(document).decode(),
        examples=[
            {
                "key": example.key,
                "media_uri": example.media_uri,
                "values": example.values,
                "pictures": {
                    "original": _data_url(example.original),
                    "reconstruction": _data_url(example.reconstruction),
                    f"difference x{_ERROR_GAIN}": _data_url(_difference(example)),
                },
            }
            for example in examples
        ],
    )
    folder.write_bytes(path, html.encode())


def _difference(example: Example) -> NDArray[np.uint8]:
    """Absolute error, amplified, uint8 [T, H, W, 3]."""
    error = np.abs(example.original.astype(np.int16) - example.reconstruction.astype(np.int16))
    amplified: NDArray[np.uint8] = np.minimum(error * _ERROR_GAIN, 255).astype(np.uint8)
    return amplified


def _data_url(frames: NDArray[np.uint8]) -> str:
    """A clip as a WebP that plays (one frame: a still), inside the page."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(
        buffer, "WEBP", quality=90, save_all=bool(rest), append_images=rest, duration=_FRAME_MILLISECONDS, loop=0
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
