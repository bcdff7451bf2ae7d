"""The audit's page is one file that shows what it says, whatever the media are called."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipeline.report.examples import Example
from pipeline.report.page import write_audit_page
from pipeline.store.files import Folder

HOSTILE = "/media/<script>alert('x')</script>\"&.mp4"
DOCUMENT = {
    "format": "vitok-audit",
    "counts": {"planned": 7, "stored": 4, "filtered": 1, "rejected": 2},
    "protocol": {"id": "protocol-5ca1ab1e", "metrics": ["psnr", "ssim"], "clips": {"fingerprint": "aa"}},
    "metrics": {
        "all": {"clips": 4, "psnr": 31.23456, "ssim": 0.875},
        "buckets": {"grid=1x2x2": {"clips": 4, "psnr": 30.5, "ssim": 0.875}},
    },
}


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def pictures(self):
        for tag, attributes in self.tags:
            if tag == "img":
                kind, _, data = attributes["src"].partition(",")
                assert kind == "data:image/webp;base64"
                yield Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(scope="module")
def make_example(wheel_media):
    with Image.open(wheel_media("scikit-image", "coffee.png")) as image:
        photograph = np.asarray(image.convert("RGB"))

    def make(num_frames, uri="/media/a.mp4", error=5):
        original = np.stack([photograph[8 * step :, 8 * step :][:48, :64] for step in range(num_frames)])
        reconstruction = np.clip(original.astype(int) + error, 0, 255).astype(np.uint8)
        return Example(
            key=f"a-{num_frames}",
            media_uri=uri,
            values={"psnr": 20.125, "ssim": 0.5},
            original=original,
            reconstruction=reconstruction,
        )

    return make


@pytest.fixture
def page(tmp_path):
    def page(examples, document=DOCUMENT):
        write_audit_page(Folder(str(tmp_path)), "report.html", document=document, examples=examples)
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return page


def test_the_page_needs_nothing_from_outside(page, make_example):
    html = page([make_example(4), make_example(1)])
    assert not re.search(r"https?:|@import|url\(", html)
    for tag, attributes in Page(html).tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:")


def test_a_hostile_name_is_text(page, make_example):
    html = page([make_example(1, uri=HOSTILE)])
    assert "<script" not in html
    parsed = Page(html)
    assert HOSTILE in parsed.text
    assert all(tag != "script" for tag, _ in parsed.tags)


def test_a_hostile_document_is_text(page):
    html = page([], DOCUMENT | {"tokenizer": "</pre><script>alert(1)</script>"})
    assert "<script" not in html
    assert "</pre><script>alert(1)</script>" in Page(html).text


@pytest.mark.parametrize("num_frames", [1, 4, 7])
def test_a_clip_is_three_pictures_of_its_frames(page, make_example, num_frames):
    example = make_example(num_frames)
    original, reconstruction, difference = Page(page([example])).pictures()
    for picture in (original, reconstruction, difference):
        assert picture.format == "WEBP"
        assert picture.size == (64, 48)
    for picture, frames in ((original, example.original), (reconstruction, example.reconstruction)):
        assert getattr(picture, "n_frames", 1) == num_frames
        for index, frame in enumerate(frames):
            picture.seek(index)
            shown = np.asarray(picture.convert("RGB")).astype(int)
            assert np.abs(shown - frame).mean() < 8


def test_the_difference_is_amplified_and_does_not_wrap(page, make_example):
    *_, difference = Page(page([make_example(1, error=5)])).pictures()
    assert np.abs(np.asarray(difference.convert("RGB")).astype(int) - 20).mean() < 3
    *_, difference = Page(page([make_example(1, error=200)])).pictures()
    assert np.asarray(difference.convert("RGB")).max() >= 250


def test_numbers_stand_as_they_were_measured(page, make_example):
    text = " ".join(Page(page([make_example(1)])).text.split())
    for shown in ("31.235", "30.500", "0.875", "grid=1x2x2", "PSNR 20.125", "protocol-5ca1ab1e"):
        assert shown in text
    assert "Planned 7 = stored 4 + filtered 1 + rejected 2." in text


def test_an_audit_that_measured_nothing_has_a_page_too(page):
    document = DOCUMENT | {
        "counts": {"planned": 3, "stored": 0, "filtered": 0, "rejected": 3},
        "metrics": {"all": {"clips": 0}, "buckets": {}},
    }
    text = " ".join(Page(page([], document)).text.split())
    assert "Planned 3 = stored 0 + filtered 0 + rejected 3." in text
    assert "all0" in text


def test_the_same_audit_is_the_same_page(page, make_example):
    assert page([make_example(3)]) == page([make_example(3)])
