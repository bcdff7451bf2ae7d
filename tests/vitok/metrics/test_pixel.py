"""PSNR and SSIM equal scikit-image's and torchmetrics' on real photographs."""

import importlib.metadata
import io
import json
import math

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from vitok.metrics.pixel import PSNR_CAP_DB, psnr, ssim

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png")


@pytest.fixture(scope="module")
def photographs():
    """Three frames of photographs [3, 200, 300, 3]."""
    try:
        files = {file.name: file.locate() for file in importlib.metadata.files("scikit-image") or []}
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-image, whose photographs this measures, is not installed")
    frames = []
    for name in PHOTOGRAPHS:
        with Image.open(files[name]) as image:
            frames.append(np.asarray(image.convert("RGB"))[40:240, 60:360])
    return np.stack(frames)


def through_jpeg(frames, quality):
    degraded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "jpeg", quality=quality)
        with Image.open(buffer) as image:
            degraded.append(np.asarray(image))
    return np.stack(degraded)


@pytest.fixture(scope="module")
def pairs(photographs):
    """Two clips of the photographs and the same through JPEG, at quality 10 and 80: [2, 3, 200, 300, 3] each."""
    return np.stack([photographs] * 2), np.stack([through_jpeg(photographs, quality) for quality in (10, 80)])


def test_psnr_equals_scikit_image(pairs):
    metrics = pytest.importorskip("skimage.metrics")
    expected = [
        np.mean([metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(*clips, strict=True)])
        for clips in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(psnr(*pairs).numpy(), expected, rtol=0, atol=1e-9)


def test_ssim_equals_scikit_image(pairs):
    metrics = pytest.importorskip("skimage.metrics")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [
        np.mean([metrics.structural_similarity(x, y, data_range=255, **options) for x, y in zip(*clips, strict=True)])
        for clips in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(ssim(*pairs).numpy(), expected, rtol=0, atol=1e-9)


def through_torchmetrics(pairs, measure):
    """Means over frames of measure(reference, candidate) of single frames, float64 [1, 3, H, W]."""
    clips = [rearrange(torch.from_numpy(clips).double(), "B T H W C -> B T 1 C H W") for clips in pairs]
    return [
        np.mean([measure(*frames).item() for frames in zip(*pair, strict=True)]) for pair in zip(*clips, strict=True)
    ]


def test_psnr_equals_torchmetrics_with_the_range_given(pairs):
    """Without data_range torchmetrics 1.9 takes the range of the batch, and of a batch one PSNR."""
    metrics = pytest.importorskip("torchmetrics.functional.image")
    expected = through_torchmetrics(pairs, lambda x, y: metrics.peak_signal_noise_ratio(y, x, data_range=255.0))
    np.testing.assert_allclose(psnr(*pairs).numpy(), expected, rtol=1e-6)


def test_ssim_equals_torchmetrics_over_whole_windows(pairs):
    """torchmetrics 1.9 also counts the windows that stick out, over mirrored pixels: 0.0005 more on these frames."""
    metrics = pytest.importorskip("torchmetrics.functional.image")

    def inside(x, y):
        _, similarity = metrics.structural_similarity_index_measure(y, x, data_range=255.0, return_full_image=True)
        return similarity[..., 5:-5, 5:-5].mean()

    small = [clips[:, :, :80, :80] for clips in pairs]
    np.testing.assert_allclose(ssim(*small).numpy(), through_torchmetrics(small, inside), rtol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_less_compression_scores_higher(metric, pairs):
    strong, weak = metric(*pairs)
    assert strong < weak - 0.05


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_clip_is_the_mean_of_its_frames_whatever_is_beside_it(metric, pairs):
    reference, candidate = pairs
    frames = [metric(reference[:1, [index]], candidate[:1, [index]]).item() for index in range(3)]
    assert len(set(frames)) == 3
    assert metric(reference, candidate)[0].item() == pytest.approx(np.mean(frames), abs=1e-12)
    assert metric(reference[:1], candidate[:1])[0].item() == metric(reference, candidate)[0].item()


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_symmetry(metric, pairs):
    np.testing.assert_allclose(metric(*pairs).numpy(), metric(*reversed(pairs)).numpy(), rtol=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_tensors_and_read_only_arrays_alike(metric, pairs):
    reference, candidate = (clips[:1, :1].copy() for clips in pairs)
    expected = metric(torch.from_numpy(reference), torch.from_numpy(candidate))
    reference.flags.writeable = candidate.flags.writeable = False
    assert torch.equal(metric(reference, candidate), expected)
    assert expected.dtype == torch.float64
    assert expected.shape == (1,)


def test_equal_frames_score_the_highest_and_stay_json(photographs):
    clips = photographs[None]
    assert psnr(clips, clips).tolist() == [PSNR_CAP_DB]
    assert ssim(clips, clips).item() == pytest.approx(1.0, abs=1e-12)
    json.dumps(psnr(clips, clips).tolist(), allow_nan=False)


def test_psnr_of_a_known_error():
    black = np.zeros((1, 2, 4, 4, 3), dtype=np.uint8)
    white = np.full_like(black, 255)
    assert psnr(black, white).tolist() == [0.0]
    assert psnr(black, black + np.uint8(5)).item() == pytest.approx(20 * math.log10(255 / 5))


def test_ssim_of_flat_frames_is_their_luminance_term():
    reference = np.full((1, 1, 16, 16, 3), 50, dtype=np.uint8)
    candidate = np.full((1, 1, 16, 16, 3), 80, dtype=np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(reference, candidate).item() == pytest.approx((2 * 50 * 80 + c1) / (50**2 + 80**2 + c1))


def test_ssim_takes_frames_of_one_window():
    clips = np.zeros((1, 1, 11, 11, 3), dtype=np.uint8)
    assert ssim(clips, clips).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="got 11x10 pixels, expected at least 11x11"):
        ssim(clips[..., :10, :], clips[..., :10, :])


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 2, 16, 16, 3), np.uint8), "got shapes"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8), "got shapes"),
        (np.zeros((1, 3, 1, 16, 16), np.uint8), np.zeros((1, 3, 1, 16, 16), np.uint8), "got shapes"),
        (np.zeros((1, 0, 16, 16, 3), np.uint8), np.zeros((1, 0, 16, 16, 3), np.uint8), "got shapes"),
        (np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 1, 16, 16, 3)), "candidate of float64"),
        (torch.zeros(1, 1, 16, 16, 3), torch.zeros(1, 1, 16, 16, 3).byte(), r"reference of torch\.float32"),
    ],
)
def test_other_inputs_are_refused(metric, reference, candidate, message):
    with pytest.raises(ValueError, match=message):
        metric(reference, candidate)
