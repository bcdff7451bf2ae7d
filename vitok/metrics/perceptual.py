"""LPIPS of clips, frame by frame.

Axes: B batch, T time (frames), H height, W width, C = 3 channels.
"""

import torch
from einops import rearrange
from torch import Tensor

from vitok.metrics.pixel import Frames, checked_pair
from vitok.networks.lpips import Lpips
from vitok.pixels import from_uint8


@torch.no_grad()
def lpips(network: Lpips, reference: Frames, candidate: Frames) -> Tensor:
    """Learned perceptual distance, 0 for equal frames; see `vitok.networks.lpips`.

    One frame at a time: VGG16's first maps take 17 MB for each of 256 x 256, and a clip's number does not depend on
    the clips beside it.

    Args:
        network: On the device the measuring is to happen on.
        reference: uint8 [B, T, H, W, 3], H and W at least 16.
        candidate: The same shape.

    Returns:
        Mean over frames, float64 [B], on the network's device.

    Raises:
        ValueError: The two are not uint8 [B, T, H, W, 3] of one shape, or smaller than 16 x 16.
    """
    pairs = (clips.to(network.shift.device) for clips in checked_pair(reference, candidate))
    x, y = (rearrange(from_uint8(clips), "B C T H W -> B T 1 C H W") for clips in pairs)
    distances = [network(*frames) for clip in zip(x, y, strict=True) for frames in zip(*clip, strict=True)]
    return rearrange(torch.cat(distances).double(), "(B T) -> B T", B=len(x)).mean(dim=1)
