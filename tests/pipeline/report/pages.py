"""A page as a parser sees it, and an audit to write one of."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from pipeline.report.audit_data import (
    AuditData,
    AuditExample,
    Candidate,
    Distribution,
    Estimate,
    LatentHealth,
    Skipped,
    Slice,
    SliceRow,
)
from pipeline.report.pictures import triptych


class Page(HTMLParser):
    """Tags with their attributes, the text that is shown, and the films."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.words = []
        self.films = {}
        self._inside = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self._inside = attributes.get("id", "")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.words.append(data)
        elif self._inside:
            self.films[self._inside] = self.films.get(self._inside, "") + data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def frames(self):
        """By what each canvas says it shows: its frames [T, H, W, 3], cut out of its film as the script does."""
        found = {}
        for tag, attributes in self.tags:
            if tag == "canvas":
                film = json.loads(attributes["data-film"])
                with Image.open(io.BytesIO(base64.b64decode(self.films[film["name"]]))) as image:
                    assert image.format == "WEBP"
                    sheet = np.asarray(image.convert("RGB"))
                width, height, columns = film["width"], film["height"], film["columns"]
                corners = [(width * (k % columns), height * (k // columns)) for k in range(film["frames"])]
                frames = [sheet[top : top + height, left : left + width] for left, top in corners]
                found[attributes["aria-label"]] = np.stack(frames)
        return found


def check_alone(html, *, links=()):
    """Nothing on the page is fetched, and no script or style runs but those that it was written with.

    A link is fetched by whoever follows it: there are these, in this order.
    """
    assert not re.search(r"@import|url\(", html)
    page = Page(html)
    (policy,) = (attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            assert tag == "a" or attributes.get(name, "data:").startswith("data:")
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == list(links)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 1
    return page


def crops(photograph, num_frames, *, side=64):
    """A window that moves over a photograph: uint8 [T, side, side, 3]."""
    return np.stack([photograph[8 * step :, 8 * step :][:side, :side] for step in range(num_frames)])


def example(original, *, key="a", candidate="ours", error=5, **changes):
    reconstruction = np.clip(original.astype(int) + error, 0, 255).astype(np.uint8)
    values = {
        "candidate": candidate,
        "key": key,
        "media_uri": f"/media/{key}.mp4",
        "metrics": {"psnr": 34.125, "ssim": 0.5},
        "fps": 8.0 if len(original) > 1 else None,
        "pictures": triptych(original, reconstruction),
    }
    return AuditExample(**values | changes)


def audit(examples=(), **changes):
    """Two tokenizers, a codec at three settings and one that stands alone."""
    ours = Candidate(
        name="ours",
        kind="tokenizer",
        detail="S-B/4x8",
        planned=7,
        stored=4,
        filtered=1,
        rejected=2,
        metrics={"psnr": Estimate(value=31.23456, low=30.5, high=32.0), "ssim": Estimate(value=0.875)},
        bytes_per_clip=8192.0,
        floats_per_clip=4096.0,
        gmac_per_clip=34.7,
        clips_per_second=46.25,
    )
    whole = {"planned": 7, "stored": 7, "filtered": 0, "rejected": 0}
    other = Candidate(name="theirs", kind="tokenizer", **whole, metrics={"psnr": Estimate(value=28.0)})
    codecs = [
        Candidate(
            name=f"jpeg {quality}",
            kind="codec",
            line="jpeg",
            **whole,
            metrics={"psnr": Estimate(value=25.0 + quality / 10), "ssim": Estimate(value=quality / 100)},
            bytes_per_clip=100.0 * quality,
        )
        for quality in (90, 30, 60)
    ]
    values = {
        "clips": "s3://corpus/held-out",
        "metrics": ["psnr", "ssim", "fvd"],
        "candidates": [ours, other, *codecs],
        "intervals": "95 %, bootstrap over clips",
        "distributions": [
            Distribution(metric="psnr", edges=(20.0, 25.0, 30.0), counts={"ours": (1, 3), "jpeg 30": (2, 2)})
        ],
        "slices": [
            Slice(
                column="label",
                rows=[
                    SliceRow(value=value, candidate="ours", clips=clips, metrics={"psnr": Estimate(value=psnr)})
                    for value, clips, psnr in (("cat", 10, 30.0), ("ant", 9, 31.0), ("bee", 11, 29.0))
                ],
            )
        ],
        "latents": [
            LatentHealth(
                candidate="ours",
                mean=(0.5, -1.0, 0.0),
                std=(1.0, 0.25, 0.0),
                kl=(1.5, 0.5, 0.0),
                dead=(2,),
                correlation=((1.0, -0.75, float("nan")), (-0.75, 1.0, float("nan")), (float("nan"),) * 3),
                nan_count=3,
            )
        ],
        "examples": list(examples),
        "skipped": [Skipped(metric="fvd", reason="clips have 4 frames, it needs 10")],
        "protocol_id": "protocol-5ca1ab1e",
        "protocol": {"rounding": "half to even"},
        "record": {"format": "vitok-audit", "clips": 7},
    }
    return AuditData(**values | changes)
