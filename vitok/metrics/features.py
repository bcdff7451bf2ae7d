"""Features of clips by the networks behind FID and FVD.

Axes: B batch, T time (frames), H height, W width, D features.
"""

import torch
from einops import rearrange
from torch import Tensor

from vitok.networks import i3d
from vitok.networks.i3d import I3d
from vitok.networks.inception import InceptionV3

FRAMES_AT_ONCE = 32
"""Through Inception, whose widest maps take 5.5 MB a frame."""


@torch.no_grad()
def frame_features(network: InceptionV3, clips: Tensor) -> Tensor:
    """Inception's pooled features, each frame of each clip a sample of its own.

    FID over a corpus of clips is therefore that of all frames together. The v1 code of ViTok computes one FID for each
    frame index and averages those: T times fewer samples in each, so larger numbers.

    Args:
        network: On the clips' device.
        clips: uint8 [B, T, H, W, 3].

    Returns:
        Float32 [B T, 2048], frames of a clip one after the other.

    Raises:
        ValueError: The clips are not uint8 [B, T, H, W, 3].
    """
    if clips.ndim != 5 or clips.shape[-1] != 3:
        raise ValueError(f"clips: got shape {tuple(clips.shape)}, expected uint8 [B, T, H, W, 3]")
    frames = rearrange(clips, "B T H W C -> (B T) C H W")
    return torch.cat([network(part) for part in torch.split(frames, FRAMES_AT_ONCE)])


@torch.no_grad()
def clip_features(network: I3d, clips: Tensor) -> Tensor:
    """I3D's logits, each clip a sample.

    Args:
        network: On the clips' device.
        clips: uint8 [B, T, H, W, 3], at least 9 frames.

    Returns:
        Float32 [B, 400].

    Raises:
        ValueError: The clips are not uint8 [B, T, H, W, 3] of at least 9 frames.
    """
    # One clip at a time: its frames fill a device, and a clip's features do not depend on the clips beside it.
    return torch.cat([network(i3d.prepare(clip)) for clip in torch.split(clips, 1)])
