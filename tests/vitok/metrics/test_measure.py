"""Clips measured one by one: the values of the metrics themselves, whatever clips are measured beside them."""

import numpy as np
import pytest
import torch

from vitok.metrics.features import frame_features
from vitok.metrics.measure import Measures
from vitok.metrics.perceptual import lpips
from vitok.metrics.pixel import psnr, ssim
from vitok.metrics.registry import FEATURES, METRICS, Kind
from vitok.networks.inception import InceptionV3
from vitok.networks.lpips import Lpips

CPU = torch.device("cpu")


def clips(count, shape=(2, 32, 32, 3)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture
def loaded(need_weights):
    def load(*metrics):
        need_weights("vgg16", "lpips_vgg", "inception_2015")
        return Measures(metrics, device=CPU)

    return load


def test_pairs_have_the_metrics_own_values(loaded):
    original, reconstruction = clips(2)
    original.flags.writeable = False  # as clips out of a shard are
    measures = loaded("psnr", "ssim", "lpips")
    found = measures.pair(("ssim", "psnr", "lpips", "fvd"), original, reconstruction)
    assert found == {
        "ssim": ssim(original[None], reconstruction[None]).item(),
        "psnr": psnr(original[None], reconstruction[None]).item(),
        "lpips": lpips(Lpips.load(), original[None], reconstruction[None]).item(),
    }
    assert measures.pair(("psnr",), original, reconstruction) == {"psnr": found["psnr"]}


def test_features_are_the_networks_of_each_frame(loaded):
    (clip,) = clips(1)
    (found,) = loaded("fid_2015").features(["inception_2015"], [clip])["inception_2015"]
    assert found.shape == (2, FEATURES["inception_2015"].width)
    expected = frame_features(InceptionV3.load("2015"), torch.from_numpy(clip[None]))
    assert np.array_equal(found, expected.numpy())


class ThreeAtOnce(Measures):
    """Passes of several clips, as on a GPU."""

    def clips_at_once(self, _num_frames):
        return 3


def test_what_fills_a_pass_changes_nothing_of_a_clip(loaded):
    measures = loaded("fid_2015")
    assert measures.clips_at_once(2) == 1
    (alone,) = measures.features(["inception_2015"], clips(1))["inception_2015"]
    filled = ThreeAtOnce(("fid_2015",), device=CPU).features(["inception_2015"], clips(1))["inception_2015"]
    assert len(filled) == 1
    both = ThreeAtOnce(("fid_2015",), device=CPU).features(["inception_2015"], clips(2))["inception_2015"]
    assert np.array_equal(filled[0], both[0])
    assert np.allclose(filled[0], alone, rtol=1e-4, atol=1e-5)


def test_no_metric_needs_no_network():
    assert Measures((), device=CPU).features((), clips(1)) == {}


def test_metrics_and_features_go_together():
    assert {metric.features for metric in METRICS.values()} == {None, *FEATURES}
    for metric in METRICS.values():
        assert (metric.features is None) == (metric.kind is Kind.MEAN)
        assert metric.definition


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("psnr", (1, 1, 1), None),
        ("ssim", (1, 11, 11), None),
        ("ssim", (1, 11, 10), "needs frames of at least 11x11 pixels"),
        ("lpips", (4, 15, 64), "needs frames of at least 16x16 pixels"),
        ("fvd", (9, 8, 8), None),
        ("fvd", (8, 256, 256), "needs clips of at least 9 frames"),
    ],
)
def test_clips_that_do_not_fit_a_metric(name, shape, reason):
    frames, height, width = shape
    assert METRICS[name].unfit(num_frames=frames, height=height, width=width) == reason
