"""Metrics by name."""

import pytest

from vitok.metrics.pixel import psnr, ssim
from vitok.metrics.registry import METRICS, PIXEL_METRICS, Kind, parse_metrics
from vitok.networks.weights import WEIGHTS


def test_names():
    assert dict(PIXEL_METRICS) == {"psnr": psnr, "ssim": ssim}


def test_a_metric_needs_known_weights_or_none():
    assert {name for metric in METRICS.values() for name in metric.weights} == set(WEIGHTS)
    assert {name for name, metric in METRICS.items() if not metric.weights} == set(PIXEL_METRICS)


def test_a_metric_is_of_the_kind_its_name_says():
    for name, metric in METRICS.items():
        kinds = {"fid": Kind.FRECHET, "fvd": Kind.FRECHET, "inception": Kind.INCEPTION_SCORE}
        assert metric.kind is kinds.get(name.split("_")[0], Kind.MEAN)


@pytest.mark.parametrize(
    ("text", "names"), [("psnr", ("psnr",)), ("ssim,psnr", ("ssim", "psnr")), (" psnr , ssim ", ("psnr", "ssim"))]
)
def test_parse_keeps_the_order(text, names):
    assert parse_metrics(text) == names
    assert parse_metrics(text + ", fvd", METRICS) == (*names, "fvd")


@pytest.mark.parametrize("text", ["", "psnr,", "PSNR", "psnr,vmaf", "psnr,psnr", "fvd"])
def test_parse_names_the_known_metrics(text):
    with pytest.raises(ValueError, match=r"expected different names out of psnr, ssim$") as error:
        parse_metrics(text)
    assert repr(text) in str(error.value)


def test_parse_names_all_that_may_be_asked_for():
    with pytest.raises(ValueError, match=r"got 'fid'.*fid_2015, fid_torchvision"):
        parse_metrics("fid", METRICS)
