"""Metrics by name."""

import pytest

from vitok.metrics.pixel import psnr, ssim
from vitok.metrics.registry import METRICS, PIXEL_METRICS, Kind, check_metrics
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


@pytest.mark.parametrize("names", [("psnr",), ("ssim", "psnr")])
def test_known_names_keep_their_order(names):
    assert check_metrics(names) == names
    assert check_metrics([*names, "fvd"], METRICS) == (*names, "fvd")


@pytest.mark.parametrize("names", [(), ("PSNR",), ("psnr", "vmaf"), ("psnr", "psnr"), ("psnr,ssim",), ("fvd",)])
def test_other_names_are_refused_and_the_known_ones_said(names):
    with pytest.raises(ValueError, match=r"expected different names, with spaces between, out of psnr, ssim$") as error:
        check_metrics(names)
    assert f"got {' '.join(names) or 'none'}," in str(error.value)


def test_all_that_may_be_asked_for_is_named():
    with pytest.raises(ValueError, match=r"got fid, .*fid_2015, fid_torchvision"):
        check_metrics(["fid"], METRICS)
