"""Measures clips: numbers of pairs, and features of clips, each independent of the clips that are measured beside it.

Axes: B batch, T time (frames), H height, W width, D features.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vitok.metrics.features import FRAMES_AT_ONCE, clip_features, frame_features
from vitok.metrics.perceptual import lpips
from vitok.metrics.registry import FEATURES, METRICS, PIXEL_METRICS, Kind
from vitok.networks.i3d import I3d
from vitok.networks.inception import InceptionV3
from vitok.networks.inception_blocks import Flavour
from vitok.networks.lpips import Lpips

_FLAVOURS: tuple[Flavour, ...] = ("2015", "torchvision")


class Measures:
    """The networks of some metrics, on one device."""

    def __init__(self, metrics: Collection[str], *, device: torch.device) -> None:
        """Load the networks.

        Args:
            metrics: Out of `vitok.metrics.registry.METRICS`.
            device: Where everything is measured.

        Raises:
            MissingWeightsError: The weights of one are not there.
        """
        self._device = device
        wanted = {METRICS[name].features for name in metrics}
        self._lpips = Lpips.load().to(device) if "lpips" in metrics else None
        self._i3d = I3d.load().to(device) if "i3d" in wanted else None
        self._inceptions = {
            flavour: InceptionV3.load(flavour, with_logits=f"inception_{flavour}_logits" in wanted).to(device)
            for flavour in _FLAVOURS
            if wanted & {f"inception_{flavour}", f"inception_{flavour}_logits"}
        }

    def pair(
        self, metrics: Sequence[str], original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]
    ) -> dict[str, float]:
        """Values by name of the metrics that are numbers of a pair of clips.

        Args:
            metrics: Out of those that the networks were loaded for; others than of pairs are passed over.
            original: [T, H, W, 3].
            reconstruction: The same shape.

        Raises:
            ValueError: The clips are too small for a metric.
        """
        # Copies, because torch warns when it shares an array it may not write to, as those out of a shard are.
        reference, candidate = (torch.tensor(clip[None]).to(self._device) for clip in (original, reconstruction))
        values = {}
        for name in metrics:
            if name in PIXEL_METRICS:
                values[name] = PIXEL_METRICS[name](reference, candidate).item()
            elif METRICS[name].kind is Kind.MEAN:
                assert self._lpips is not None, "loaded for other metrics"
                values[name] = lpips(self._lpips, reference, candidate).item()
        return values

    def clips_at_once(self, num_frames: int) -> int:
        """Clips of one length that are given to `features` together.

        A CPU does one frame as fast as many; on a GPU frames wait for others.
        """
        return 1 if self._device.type == "cpu" else max(1, FRAMES_AT_ONCE // num_frames)

    def features(
        self, names: Collection[str], clips: Sequence[NDArray[np.uint8]]
    ) -> dict[str, list[NDArray[np.float32]]]:
        """Features by name, [T, D] or [1, D] for each clip.

        Args:
            names: Keys of `vitok.metrics.registry.FEATURES`.
            clips: Up to `clips_at_once`, [T, H, W, 3] of one shape.
        """
        missing = self.clips_at_once(len(clips[0])) - len(clips)
        # Kernels are chosen by shape: of one shape, a pass gives a clip the same features whatever fills it.
        filled = np.stack([*clips, *[np.zeros_like(clips[0])] * missing])
        batch = torch.from_numpy(filled).to(self._device)
        found: dict[str, list[NDArray[np.float32]]] = {}
        for flavour, network in self._inceptions.items():
            pooled, logits = f"inception_{flavour}", f"inception_{flavour}_logits"
            if not {pooled, logits} & set(names):
                continue
            features = frame_features(network, batch)
            if pooled in names:
                found[pooled] = _by_clip(features, pooled, clips)
            if logits in names:
                found[logits] = _by_clip(network.class_logits(features), logits, clips)
        if "i3d" in names:
            assert self._i3d is not None, "loaded for other metrics"
            found["i3d"] = _by_clip(clip_features(self._i3d, batch), "i3d", clips)
        return found


def _by_clip(features: Tensor, name: str, clips: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Vectors of a batch, [(B n), D], to those of each clip, [n, D]; those of what filled the batch are dropped."""
    vectors = len(clips[0]) if FEATURES[name].per == "frame" else 1
    return list(rearrange(features.cpu().numpy(), "(B n) D -> B n D", n=vectors)[: len(clips)])
