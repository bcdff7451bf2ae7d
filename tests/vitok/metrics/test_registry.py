"""Metrics by name."""

import pytest

from vitok.metrics.pixel import psnr, ssim
from vitok.metrics.registry import PIXEL_METRICS, parse_metrics


def test_names():
    assert dict(PIXEL_METRICS) == {"psnr": psnr, "ssim": ssim}


@pytest.mark.parametrize(
    ("text", "names"), [("psnr", ("psnr",)), ("ssim,psnr", ("ssim", "psnr")), (" psnr , ssim ", ("psnr", "ssim"))]
)
def test_parse_keeps_the_order(text, names):
    assert parse_metrics(text) == names


@pytest.mark.parametrize("text", ["", "psnr,", "PSNR", "psnr,vmaf", "psnr,psnr"])
def test_parse_names_the_known_metrics(text):
    with pytest.raises(ValueError, match=r"expected different names out of psnr, ssim") as error:
        parse_metrics(text)
    assert repr(text) in str(error.value)
