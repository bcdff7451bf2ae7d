"""The perceptual distance of clips, frame by frame.

Axes: B batch, T time (frames), N = B T frames, H height, W width.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

FrameDistance = Callable[[Tensor, Tensor], Tensor]
"""Reference and candidate frames, float [N, 3, H, W] in [-1, 1] each, to distances [N] >= 0, such as LPIPS."""


def perceptual_loss(pixels: Tensor, target: Tensor, distance: FrameDistance) -> Tensor:
    """Mean distance of a reconstruction's frames to the target's.

    Each frame is compared alone, as the paper does with videos (ViTok, arXiv:2501.09755, section 2.3), and counts the
    same. Pixels beyond [-1, 1] are not clamped, as in the v1 code: a clamp has no gradient there, and the term would
    stop calling them back. The frames go in as float32 at least; an autocast around the call still applies inside the
    distance.

    Args:
        pixels: Float [B, 3, T, H, W], about [-1, 1]: the candidate, which alone gets a gradient.
        target: Float [B, 3, T, H, W] in [-1, 1]: the reference.
        distance: Distance of frames.

    Returns:
        A scalar.

    Raises:
        ValueError: The two are not [B, 3, T, H, W] of one shape, or the distance is not one number a frame.
    """
    if pixels.shape != target.shape or pixels.ndim != 5 or pixels.shape[1] != 3:
        raise ValueError(
            f"pixels and target: got shapes {tuple(pixels.shape)} and {tuple(target.shape)}, "
            "expected one shape [B, 3, T, H, W]"
        )
    reference, candidate = (
        rearrange(clips.to(torch.promote_types(clips.dtype, torch.float32)), "b c t h w -> (b t) c h w")
        for clips in (target.detach(), pixels)
    )
    distances = distance(reference, candidate)
    if distances.shape != reference.shape[:1]:
        raise ValueError(
            f"distance: got shape {tuple(distances.shape)} for {len(reference)} frames, "
            f"expected {tuple(reference.shape[:1])}: one number a frame"
        )
    return distances.mean()
