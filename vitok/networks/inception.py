"""Inception-v3 in the two flavours that FID and Inception Score are computed with.

Axes: N images, C channels, H height, W width, D = 2048 features, K classes (1008 of 2015, 1000 of torchvision).

They are one architecture (Szegedy et al., arXiv:1512.00567) with different weights, pooling and preprocessing:

"2015"         the TensorFlow graph inception-2015-12-05 that FID was defined with (Heusel et al., arXiv:1706.08500)
               and that torch-fidelity, pytorch-fid and ADM's evaluator use. Its average pools leave the padding out
               of the mean, its last block pools by maximum, its logits are taken without their bias. Pixels are
               resized as TensorFlow 1 does and become (x - 128) / 128: equal to torch-fidelity 0.4.0. Others differ
               in the resize: pytorch-fid puts pixel centres elsewhere, torchmetrics 1.9 antialiases unless told not
               to, clean-fid resizes by Pillow's bicubic.
"torchvision"  inception_v3 with IMAGENET1K_V1, as the v1 code of ViTok has it: x / 127.5 - 1, resized with aligned
               corners, without torchvision's own transform_input. Its numbers compare with no other FID.
"""

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitok.networks.batchnorm import FrozenBatchNorm
from vitok.networks.inception_blocks import STEM, Branch, Convolution, Flavour, Pool, blocks, convolutions
from vitok.networks.weights import load_weights

SIDE = 299
FEATURES = 2048
CLASSES: Mapping[Flavour, int] = {"2015": 1008, "torchvision": 1000}


class InceptionV3(nn.Module):
    """Uint8 images to pooled features, and those to logits; frozen, always in inference mode, in float32.

    The state dict has torchvision's names, less the auxiliary head and the counters of batches.
    """

    def __init__(self, flavour: Flavour, *, with_logits: bool) -> None:
        super().__init__()
        self.flavour: Flavour = flavour
        self._blocks = blocks(flavour)
        channels = _add_branch(self, STEM, 3)
        for name, branches in self._blocks.items():
            block = nn.Module()
            channels = sum(_add_branch(block, branch, channels) for branch in branches)
            self.add_module(name, block)
        self.fc = nn.Linear(FEATURES, CLASSES[flavour]) if with_logits else None
        self.requires_grad_(False)

    @classmethod
    def load(cls, flavour: Flavour, *, with_logits: bool = False) -> Self:
        """The network with the published weights, on the CPU.

        Args:
            flavour: Which of the two.
            with_logits: Also the last layer, which Inception Score needs and not every file of the 2015 weights has.

        Raises:
            MissingWeightsError: The weights folder lacks them.
            ValueError: A file is there and is not what it should be.
        """
        name = "inception_2015_logits" if flavour == "2015" and with_logits else f"inception_{flavour}"
        network = cls(flavour, with_logits=with_logits)
        network.take_weights(load_weights(name))
        return network

    def take_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a state dict with torchvision's names, or with those of the TensorFlow graph.

        Raises:
            RuntimeError: A tensor is missing, unknown, or of another shape.
        """
        if any(name.startswith("net.layers.") for name in tensors):
            tensors = _from_graph_names(tensors, self._blocks)
        unused = ("AuxLogits.",) if self.fc is not None else ("AuxLogits.", "fc.")
        self.load_state_dict(
            {
                name: tensor
                for name, tensor in tensors.items()
                if not name.startswith(unused) and not name.endswith(".num_batches_tracked")
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features: uint8 [N, 3, H, W] to float32 [N, 2048], none below 0.

        Raises:
            ValueError: The images are not uint8 [N, 3, H, W].
        """
        with torch.autocast(images.device.type, enabled=False):
            maps = _run(self, STEM, prepare(images, self.flavour))
            for name, branches in self._blocks.items():
                block = self.get_submodule(name)
                maps = torch.cat([_run(block, branch, maps) for branch in branches], dim=1)
            return maps.mean(dim=(2, 3))

    def class_logits(self, features: Tensor) -> Tensor:
        """Features [N, 2048] to logits float32 [N, K].

        Raises:
            ValueError: The network was made without its last layer.
        """
        if self.fc is None:
            raise ValueError(
                "Inception-v3: made without its last layer; make it by InceptionV3.load(flavour, with_logits=True)"
            )
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features, self.fc.weight, None if self.flavour == "2015" else self.fc.bias)


def prepare(images: Tensor, flavour: Flavour) -> Tensor:
    """Uint8 [N, 3, H, W] to what the network sees: float32 [N, 3, 299, 299] in [-1, 1].

    Neither flavour antialiases, so a large picture is sampled, not averaged.

    Raises:
        ValueError: The images are not uint8 [N, 3, H, W].
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"images: got {images.dtype} {tuple(images.shape)}, expected uint8 [N, 3, H, W], no axis empty"
        )
    pixels = images.float()
    if flavour == "torchvision":
        return F.interpolate(pixels / 127.5 - 1.0, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return (_resize_as_tensorflow_1(_resize_as_tensorflow_1(pixels, 3), 2) - 128.0) / 128.0


def _resize_as_tensorflow_1(pixels: Tensor, axis: int) -> Tensor:
    """Linear interpolation of one axis to 299: sample i lies at i * size / 299, not at pixel centres."""
    size = pixels.shape[axis]
    position = torch.arange(SIDE, device=pixels.device) * torch.tensor(size / SIDE, device=pixels.device)
    before = position.long()
    after = (before + 1).clamp(max=size - 1)
    fraction = (position - before).reshape([SIDE if index == axis else 1 for index in range(4)])
    return torch.lerp(pixels.index_select(axis, before), pixels.index_select(axis, after), fraction)


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, spec: Convolution) -> None:
        super().__init__()
        height, width = spec.kernel
        padding = (height // 2, width // 2) if spec.padded else (0, 0)
        self.conv = nn.Conv2d(in_channels, spec.channels, spec.kernel, spec.stride, padding, bias=False)
        self.bn = FrozenBatchNorm(spec.channels)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(maps)))


def _add_branch(module: nn.Module, branch: Branch, channels: int) -> int:
    """Adds a branch's convolutions by name; the channels that leave it."""
    for specs in convolutions(branch):
        for spec in specs:
            module.add_module(spec.name, _ConvNorm(channels, spec))
        channels = sum(spec.channels for spec in specs)
    return channels


def _run(module: nn.Module, branch: Branch, maps: Tensor) -> Tensor:
    for step in branch:
        if isinstance(step, str):
            maps = _pool(step, maps)
        else:
            specs = step if isinstance(step, tuple) else (step,)
            maps = torch.cat([module.get_submodule(spec.name)(maps) for spec in specs], dim=1)
    return maps


def _pool(pool: Pool, maps: Tensor) -> Tensor:
    if pool == "halve":
        return F.max_pool2d(maps, 3, stride=2)
    if pool == "maximum":
        return F.max_pool2d(maps, 3, stride=1, padding=1)
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=pool == "average_with_padding")


def _from_graph_names(
    tensors: Mapping[str, Tensor], branches_by_block: Mapping[str, tuple[Branch, ...]]
) -> dict[str, Tensor]:
    """The 2015 graph's `net.layers.mixed_3.tower.conv_1.weight` as torchvision's `Mixed_6a.branch3x3dbl_2.conv.weight`.

    In the graph a block's convolutions are numbered: those of its first one-convolution branch bear no tower, those of
    each other branch the next tower; pairs are called mixed.
    """
    stem = [spec.name for specs in convolutions(STEM) for spec in specs]
    names = {_numbered("conv", index): name for index, name in enumerate(stem)}
    for block_index, (block, branches) in enumerate(branches_by_block.items()):
        tower = 0
        for branch in branches:
            place = _numbered("mixed", block_index) + "_"
            if len(branch) > 1:
                place += _numbered("tower", tower) + "_"
                tower += 1
            for index, specs in enumerate(convolutions(branch)):
                for half, spec in enumerate(specs):
                    number = _numbered("mixed_conv", half) if len(specs) > 1 else _numbered("conv", index)
                    names[place + number] = f"{block}.{spec.name}"
    renamed = {}
    for name, tensor in tensors.items():
        place, _, kind = name.removeprefix("net.layers.").rpartition(".")
        target = names[place.replace(".", "_")]
        renamed[f"{target}.{_GRAPH_KINDS[kind]}"] = tensor
        if kind == "beta":  # the graph's normalisation shifts and does not scale
            renamed[f"{target}.bn.weight"] = torch.ones_like(tensor)
    return renamed


_GRAPH_KINDS = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name
