"""I3D, the video network of FVD: RGB stream, Kinetics-400.

Axes: B clips, C channels, T time (frames), H height, W width, K = 400 classes.
"""

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitok.networks.batchnorm import FrozenBatchNorm
from vitok.networks.weights import load_weights

SIDE = 224
CLASSES = 400
MIN_FRAMES = 9
"""The last pool spans two steps in time, each of eight frames; a part of one counts."""

_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels that enter, and those of the convolutions of branch 0, branch 1 (two), branch 2 (two) and branch 3."""

_HALVING_POOLS = {"Mixed_4b": (3, 2), "Mixed_5b": (2, 2)}
"""Kernel and stride, in all three axes, of the pool before a block."""


class I3d(nn.Module):
    """Inflated Inception-v1 (Carreira & Zisserman, arXiv:1705.07750), frozen, always in inference mode, in float32.

    TensorFlow's SAME padding, logits averaged over time: what FVD (Unterthiner et al., arXiv:1812.01717) was defined
    with. The v1 code of ViTok takes the same logits from a TorchScript of the same weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (in_channels, channels) in _MIXED.items():
            self.add_module(name, _Mixed(in_channels, channels))
        self.logits = nn.Conv3d(1024, CLASSES, 1)
        self.requires_grad_(False)

    @classmethod
    def load(cls) -> Self:
        """The network with the published weights, on the CPU.

        Raises:
            MissingWeightsError: The weights folder lacks them.
            ValueError: The file is there and is not what it should be.
        """
        network = cls()
        network.take_weights(load_weights("i3d_kinetics400"))
        return network

    def take_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights in the layout of flax: kernels [t, h, w, in, out], one path a tensor.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: One is of another shape.
        """
        state = {
            "logits.weight": _kernel(tensors["params/Logits/Conv3d_0c_1x1/Conv_0/kernel"]),
            "logits.bias": tensors["params/Logits/Conv3d_0c_1x1/Conv_0/bias"],
        }
        for name, module in self.named_modules():
            if isinstance(module, _Unit):
                path = name.replace(".", "/")
                state[f"{name}.conv.weight"] = _kernel(tensors[f"params/{path}/Conv_0/kernel"])
                state[f"{name}.bn.weight"] = torch.ones_like(module.bn.weight)
                state[f"{name}.bn.bias"] = tensors[f"params/{path}/BatchNorm_0/bias"]
                for ours, theirs in (("running_mean", "mean"), ("running_var", "var")):
                    statistic = tensors[f"batch_stats/{path}/BatchNorm_0/{theirs}"]
                    state[f"{name}.bn.{ours}"] = rearrange(statistic, "1 1 1 1 C -> C")
        self.load_state_dict(state)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits, mean over time: float [B, 3, T, 224, 224] in [-1, 1], at least 9 frames, to float32 [B, 400].

        Raises:
            ValueError: The clips are of another shape.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[3:] != (SIDE, SIDE) or clips.shape[2] < MIN_FRAMES:
            raise ValueError(
                f"clips: got shape {tuple(clips.shape)}, expected [B, 3, T, {SIDE}, {SIDE}] "
                f"of at least {MIN_FRAMES} frames for I3D"
            )
        with torch.autocast(clips.device.type, enabled=False):
            maps = _max_pool(self.Conv3d_1a_7x7(clips.float()), (1, 3, 3), (1, 2, 2))
            maps = _max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(maps)), (1, 3, 3), (1, 2, 2))
            for name in _MIXED:
                if name in _HALVING_POOLS:
                    kernel, stride = _HALVING_POOLS[name]
                    maps = _max_pool(maps, (kernel,) * 3, (stride,) * 3)
                maps = self.get_submodule(name)(maps)
            logits: Tensor = self.logits(F.avg_pool3d(maps, (2, 7, 7), stride=1))
            return rearrange(logits, "B K T 1 1 -> B K T").mean(dim=2)


def prepare(clips: Tensor) -> Tensor:
    """Uint8 [B, T, H, W, 3] to what the network sees: float32 [B, 3, T, 224, 224] in [-1, 1].

    Bilinear per frame with half-pixel centres and no antialiasing: the v1 code's trilinear, which leaves time alone.

    Raises:
        ValueError: The clips are not uint8 [B, T, H, W, 3].
    """
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(
            f"clips: got {clips.dtype} {tuple(clips.shape)}, expected uint8 [B, T, H, W, 3], no axis empty"
        )
    frames = rearrange(clips, "B T H W C -> (B T) C H W").float()
    frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return rearrange(frames / 127.5 - 1.0, "(B T) C H W -> B C T H W", B=len(clips))


class _Unit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = FrozenBatchNorm(out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        padded = _pad_same(maps, self.conv.kernel_size, self.conv.stride)
        return F.relu_(self.bn(self.conv(padded)))


class _Mixed(nn.Module):
    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        alone, reduced_1, wide_1, reduced_2, wide_2, pooled = channels
        self.Branch_0 = nn.Sequential()
        self.Branch_1 = nn.Sequential()
        self.Branch_2 = nn.Sequential()
        self.Branch_3 = nn.Sequential()
        self.Branch_0.add_module("Conv3d_0a_1x1", _Unit(in_channels, alone, 1))
        self.Branch_1.add_module("Conv3d_0a_1x1", _Unit(in_channels, reduced_1, 1))
        self.Branch_1.add_module("Conv3d_0b_3x3", _Unit(reduced_1, wide_1, 3))
        self.Branch_2.add_module("Conv3d_0a_1x1", _Unit(in_channels, reduced_2, 1))
        self.Branch_2.add_module("Conv3d_0b_3x3", _Unit(reduced_2, wide_2, 3))
        self.Branch_3.add_module("Conv3d_0b_1x1", _Unit(in_channels, pooled, 1))

    def forward(self, maps: Tensor) -> Tensor:
        pooled = _max_pool(maps, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.Branch_0(maps), self.Branch_1(maps), self.Branch_2(maps), self.Branch_3(pooled)], dim=1)


def _max_pool(maps: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Padding by zeros is padding by minus infinity here: every map that is pooled comes out of a ReLU.
    return F.max_pool3d(_pad_same(maps, kernel, stride), kernel, stride)


def _pad_same(maps: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around maps [B, C, T, H, W] for ceil(size / stride) steps, the odd zero behind: TensorFlow's SAME."""
    padding: list[int] = []
    for size, taps, step in zip(maps.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + taps - size, 0)
        padding = [total // 2, total - total // 2, *padding]
    return F.pad(maps, padding)


def _kernel(kernel: Tensor) -> Tensor:
    return rearrange(kernel, "T H W C_in C_out -> C_out C_in T H W")
