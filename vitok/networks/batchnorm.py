"""Batch normalisation by stored statistics, whatever mode a surrounding model is put in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-3
"""Of Inception-v3 and of I3D, in TensorFlow and in torchvision alike."""


class FrozenBatchNorm(nn.Module):
    """Scale and shift per channel, all of it buffers: nothing here learns, and train() changes nothing.

    The buffers have the names of torch's BatchNorm2d and BatchNorm3d, less their count of batches.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, channels, ...] to the same shape."""
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=EPS)
