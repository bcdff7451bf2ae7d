"""The protocol of an audit: everything that two must agree in before their numbers may stand beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import cast

from pipeline.runs.clips import stored_tubelet
from pipeline.stages.protocol import Filters
from pipeline.store.index import Store
from schemas.metadata import differences

PROTOCOL_VERSION = 1
_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg")
"""Whose versions may change a number."""
_PREPROCESSING = ("sizes", "resize", "kernel", "num_frames", "fps")
"""Of what made the clips, that which says what is seen in them; the pixels themselves are in the protocol by hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedProtocol:
    """An evaluation of the paper (arXiv:2501.09755, sections 3 and 4; v1 code where that is silent)."""

    resolution: int
    """Short side after the resize, and side of the centre crop, in pixels."""
    num_frames: int
    fps: str
    """Of a video's clip; of images no matter."""
    media: int
    """All of the data set; each gives one clip, or is a video too short for one."""
    metrics: tuple[str, ...]
    data: str
    """The files, in words."""

    def expected(self) -> dict[str, object]:
        """What the clip store must say."""
        clips: dict[str, object] = {
            "sizes": [[self.resolution, self.resolution]],
            "kernel": "bilinear",
            "pixels": "lossless",
            "filters": asdict(Filters()),
            "num_frames": self.num_frames,
            "media": {"planned": self.media, "rejected": 0},
        }
        if self.num_frames > 1:
            spans = {"kind": "random", "count": 1, "seed": 0}
            clips |= {"fps": self.fps, "spans": spans, "scene_threshold": 0.0}
        return clips

    def differences(self, source: Store) -> list[str]:
        """What of a clip store is otherwise, line by line."""
        preprocessing = cast(Mapping[str, object], source.document["preprocessing"])
        counts = cast(Mapping[str, int], source.document["counts"])
        codec = cast(Mapping[str, object], preprocessing.get("codec", {}))
        found = dict(preprocessing) | {
            "pixels": "lossless" if codec.get("name") in ("png", "raw") else dict(codec),
            "media": {name: counts[name] for name in ("planned", "rejected")},
        }
        expected = self.expected()
        return differences(expected, {name: found[name] for name in expected if name in found})

    def command(self, source: Store) -> str:
        """The `vitok prepare` that makes clips as they are expected."""
        words = [
            "vitok prepare --input YOUR_COPY --output CLIPS",
            f"--resolution {self.resolution} --kernel bilinear --codec png --tubelet {stored_tubelet(source)}",
            f"--num-frames {self.num_frames}",
        ]
        if self.num_frames > 1:
            words.append(f"--fps {self.fps} --clips random --clips-per-media 1 --seed 0")
        return " ".join(words)


_IMAGE_METRICS = ("psnr", "ssim", "fid_torchvision", "fid_2015")
_IMAGENET_METRICS = (*_IMAGE_METRICS, "inception_score_torchvision")

NAMED_PROTOCOLS: Mapping[str, NamedProtocol] = {
    "imagenet-256": NamedProtocol(
        resolution=256,
        num_frames=1,
        fps="8",
        media=50_000,
        metrics=_IMAGENET_METRICS,
        data="ImageNet-1K, the 50,000 validation images",
    ),
    "imagenet-512": NamedProtocol(
        resolution=512,
        num_frames=1,
        fps="8",
        media=50_000,
        metrics=_IMAGENET_METRICS,
        data="ImageNet-1K, the 50,000 validation images",
    ),
    "coco-256": NamedProtocol(
        resolution=256,
        num_frames=1,
        fps="8",
        media=5_000,
        metrics=_IMAGE_METRICS,
        data="COCO, the 5,000 images of val2017",
    ),
    # The paper says "UCF-101 train" and "11k"; its code takes the whole folder, of which some are under two seconds.
    "ucf101-16x128": NamedProtocol(
        resolution=128,
        num_frames=16,
        fps="8",
        media=13_320,
        metrics=("psnr", "ssim", "fid_torchvision", "fid_2015", "fvd"),
        data="UCF-101, all 13,320 videos",
    ),
}
"""The paper's evaluations by name. FID by torchvision's Inception is the paper's, that of 2015 everyone else's."""


def check_named(name: str, source: Store) -> None:
    """Refuse a clip store that was not prepared as a named protocol has it.

    Raises:
        ValueError: Says line by line what differs, and the command that prepares it so.
    """
    protocol = NAMED_PROTOCOLS[name]
    if lines := protocol.differences(source):
        raise ValueError(
            f"--protocol {name}: {source.folder.url} was prepared otherwise; expected of {protocol.data}, now found:\n"
            "  " + "\n  ".join(lines) + f"\nPrepare it with\n  {protocol.command(source)}"
        )


def measured_by(metrics: Sequence[str]) -> dict[str, object]:
    """Definition and weights of each metric, by name.

    Raises:
        MissingWeightsError: The weights of one are not there.
    """
    from vitok.metrics.registry import METRICS
    from vitok.networks.weights import find_weights

    found: dict[str, object] = {}
    for name in metrics:
        weights = {key: find_weights(key)[1] for key in METRICS[name].weights}
        found[name] = {
            "definition": METRICS[name].definition,
            "weights": {key: {"file": file.name, "sha256": file.sha256} for key, file in weights.items()},
        }
    return found


def shown_preprocessing(store: Store) -> dict[str, object]:
    """What made the clips of a store, or of its latents, as far as it says what is seen in them."""
    preprocessing = cast(Mapping[str, object], store.document["preprocessing"])
    return {name: preprocessing.get(name) for name in _PREPROCESSING}


def protocol_of(
    source: Store, *, content: str, metrics: Mapping[str, object], precision: str, device: str
) -> dict[str, object]:
    """The protocol of a finished audit; `pipeline.store.documents.fingerprint` of it is the protocol id.

    Neither where the clips lie nor how they stand in their shards is part of it, nor tubelets, batches and workers: two
    who measure the same pixels in the same way agree.

    Args:
        source: The clip store.
        content: `pipeline.stages.reconstruct.content_of`, summed over the clips, in hex.
        metrics: Of `measured_by`.
        precision: Of the networks.
        device: That they ran on.
    """
    counts = cast(Mapping[str, int], source.document["counts"])
    return {
        "version": PROTOCOL_VERSION,
        "clips": {"count": counts["stored"], "content": content},
        "preprocessing": shown_preprocessing(source),
        "pixels": {
            "range": "uint8, 0 to 255",
            "rounding": "clamp to [-1, 1], round half to even to uint8",
            "latent": "posterior mean",
        },
        "metrics": dict(metrics),
        "precision": precision,
        "device": device,
        "versions": {name: version(name) for name in _PACKAGES},
    }
