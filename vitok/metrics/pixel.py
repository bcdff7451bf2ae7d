"""PSNR and SSIM of clips, frame by frame.

Axes: B batch, T time (frames), H height, W width, C = 3 channels (red, green, blue).

Each frame is measured alone and a clip's number is the mean over its frames, as in the v1 code of ViTok; unlike
there, a clip's number does not depend on the clips beside it.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

Frames = Tensor | npt.NDArray[np.uint8]
"""uint8 [B, T, H, W, 3] in [0, 255]."""

DATA_RANGE = 255
PSNR_CAP_DB = 100.0

SSIM_TAPS = 11
SSIM_SIGMA = 1.5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def psnr(reference: Frames, candidate: Frames) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(255^2 / MSE) in dB, the MSE over a frame's pixels and channels.

    At most 100 dB, which equal frames get: scikit-image, torchmetrics and ffmpeg say infinity there, which no mean
    survives and JSON lacks. libvmaf caps 8-bit PSNR for the same reason, at 60 dB; 100 dB is one grey level wrong in
    about one sample of a 256 x 256 frame, so this cap hides nothing but equality.

    Args:
        reference: uint8 [B, T, H, W, 3].
        candidate: The same shape.

    Returns:
        Mean over frames, float64 [B], on the reference's device.

    Raises:
        ValueError: The two are not uint8 [B, T, H, W, 3] of one shape.
    """
    reference, candidate = checked_pair(reference, candidate)
    num_samples = math.prod(reference.shape[2:])
    squared_error = (reference.int() - candidate.int()).square()
    # Summed in integers: exact, so independent of the order of summation.
    mean_squared_error = squared_error.sum(dim=(2, 3, 4), dtype=torch.int64).double() / num_samples
    decibels: Tensor = 20.0 * math.log10(DATA_RANGE) - 10.0 * torch.log10(mean_squared_error)
    return decibels.clamp(max=PSNR_CAP_DB).mean(dim=1)


def ssim(reference: Frames, candidate: Frames) -> Tensor:
    """Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) in [-1, 1], 1 for equal frames.

    The paper's Gaussian window of 11 x 11 taps with sigma 1.5, K1 = 0.01, K2 = 0.03, on each channel alone, averaged
    over the windows that lie wholly inside the frame and over channels. Equals scikit-image's structural_similarity
    with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255. torchmetrics 1.9 also counts the
    windows that stick out of the frame, over mirrored pixels, and without data_range takes the batch's own range, as
    the v1 code of ViTok does.

    Args:
        reference: uint8 [B, T, H, W, 3], H and W at least 11.
        candidate: The same shape.

    Returns:
        Mean over frames, float64 [B], on the reference's device.

    Raises:
        ValueError: The two are not uint8 [B, T, H, W, 3] of one shape, or smaller than the window.
    """
    reference, candidate = checked_pair(reference, candidate)
    height, width = reference.shape[2:4]
    if min(height, width) < SSIM_TAPS:
        raise ValueError(f"frames: got {height}x{width} pixels, expected at least {SSIM_TAPS}x{SSIM_TAPS} for SSIM")
    # Frame by frame: what is in work at once stays in the processor's cache.
    clips = [
        torch.stack([_frame_ssim(*pair) for pair in zip(*clip_pair, strict=True)]).mean()
        for clip_pair in zip(
            rearrange(reference, "b t h w c -> b t c h w"),
            rearrange(candidate, "b t h w c -> b t c h w"),
            strict=True,
        )
    ]
    return torch.stack(clips)


def _frame_ssim(reference: Tensor, candidate: Tensor) -> Tensor:
    # float64: a variance is the small difference of two large means.
    x, y = reference.double(), candidate.double()
    mean_x, mean_y, mean_squares, mean_product = _windowed_mean(torch.stack([x, y, x * x + y * y, x * y]))
    squares_of_means, product_of_means = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    c1, c2 = (SSIM_K1 * DATA_RANGE) ** 2, (SSIM_K2 * DATA_RANGE) ** 2
    luminance = (2 * product_of_means + c1) / (squares_of_means + c1)
    contrast_structure = (2 * (mean_product - product_of_means) + c2) / (mean_squares - squares_of_means + c2)
    similarity: Tensor = luminance * contrast_structure
    return similarity.mean()


def _windowed_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted means over every whole window: [..., H, W] to [..., H - 10, W - 10]."""
    weights = [math.exp(-0.5 * ((tap - SSIM_TAPS // 2) / SSIM_SIGMA) ** 2) for tap in range(SSIM_TAPS)]
    # Sums of shifted images: torch has no fast float64 convolution on CPUs.
    for axis in (-2, -1):
        length = images.shape[axis] - SSIM_TAPS + 1
        total = images.narrow(axis, 0, length) * (weights[0] / sum(weights))
        for tap in range(1, SSIM_TAPS):
            total.add_(images.narrow(axis, tap, length), alpha=weights[tap] / sum(weights))
        images = total
    return images


def checked_pair(reference: Frames, candidate: Frames) -> tuple[Tensor, Tensor]:
    """Both as tensors.

    Raises:
        ValueError: The two are not uint8 [B, T, H, W, 3] of one shape, no axis empty.
    """
    shape = tuple(reference.shape)
    if shape != tuple(candidate.shape) or len(shape) != 5 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"frames: got shapes {shape} and {tuple(candidate.shape)}, expected one shape [B, T, H, W, 3], "
            "no axis empty"
        )
    tensors = []
    for role, frames in (("reference", reference), ("candidate", candidate)):
        # A copy, because torch warns when it shares an array it may not write to, as those from Arrow are.
        tensor = frames if isinstance(frames, Tensor) else torch.tensor(frames)
        if tensor.dtype != torch.uint8:
            raise ValueError(f"frames: got {role} of {frames.dtype}, expected uint8")
        tensors.append(tensor)
    return tensors[0], tensors[1]
