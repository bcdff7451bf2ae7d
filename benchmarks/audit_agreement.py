"""What an audit says of a tokenizer, beside public implementations on the same reconstructions.

    pip install --no-deps lpips==0.1.4
    vitok audit --shards STORE --tokenizer TOKENIZER --metrics psnr ssim lpips fid_2015 --output AUDIT
    python benchmarks/audit_agreement.py --audit AUDIT --shards STORE --tokenizer TOKENIZER --json PATH

The audit ran as a job of many shards and workers. Here a plain loop reads the clips, gives each to the tokenizer by
itself, and hands originals and reconstructions to scikit-image (SSIM), torchmetrics (PSNR, and torch-fidelity's formula
of FID over the features of the published TorchScript Inception) and lpips. Needs the metrics extra, torchmetrics, and
the weights; of torchvision, which lpips asks for VGG16, there is no build beside CPU torch: it gets those layers from
here.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from einops import rearrange
from metrics import Agreement, agreement, by_torchmetrics
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from pipeline.store.clipshard import read_clips
from pipeline.store.files import Folder
from pipeline.store.index import open_store
from schemas.metadata import CLIP_STORE_FORMAT
from vitok.adapters.load import load_adapter
from vitok.networks.inception import prepare
from vitok.networks.weights import load_weights, weights_folder
from vitok.pixels import from_uint8, to_uint8

VGG16_LAYOUT = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions between poolings."""
CLIPS_A_FEATURE_BATCH = 32

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Frames of an original and of its reconstruction, [T, H, W, 3] each."""


@torch.inference_mode()
def reconstructions(shards: str, tokenizer: str) -> Iterator[Pair]:
    """Clips of a store and what the tokenizer gives back, one by one."""
    adapter = load_adapter(tokenizer)
    store = open_store(Folder(shards), format_name=CLIP_STORE_FORMAT)
    for row in store.rows:
        if row.path is None:
            continue
        with store.folder.open(row.path) as stream:
            for clip in read_clips(stream, where=row.path):
                pixels = from_uint8(torch.from_numpy(clip.pixels)[None])
                decoded = adapter.decode(adapter.encode(pixels).mode(), num_frames=len(clip.pixels))
                yield clip.pixels, to_uint8(decoded.float())[0].numpy()


def lpips_package() -> nn.Module:
    """lpips.LPIPS(net="vgg") with the published heads, over the published VGG16."""
    layers: list[nn.Module] = []
    inputs = 3
    for channels, count in VGG16_LAYOUT:
        for _ in range(count):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    vgg = nn.Module()
    vgg.features = nn.Sequential(*layers)
    vgg.load_state_dict(load_weights("vgg16"))
    torchvision = ModuleType("torchvision")
    vars(torchvision)["models"] = SimpleNamespace(vgg16=lambda **_: vgg)
    sys.modules.setdefault("torchvision", torchvision)
    import lpips  # asks for torchvision

    network: nn.Module = lpips.LPIPS(net="vgg", verbose=False)
    return network


@torch.inference_mode()
def measure(pairs: Iterator[Pair]) -> dict[str, tuple[str, float]]:
    """Implementation and value by metric: means over clips of means over frames; FID over all frames."""
    script = torch.jit.load(weights_folder() / "inception_2015_fid.pt", map_location="cpu")
    perceptual = lpips_package()
    windows = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    for original, copy in pairs:
        frames = list(zip(original, copy, strict=True))
        clips = [rearrange(torch.from_numpy(clip), "T H W C -> T C H W") for clip in (original, copy)]
        images = [list(clip.double()[:, None]) for clip in clips]
        decibels = [peak_signal_noise_ratio(b, a, data_range=255.0).item() for a, b in zip(*images, strict=True)]
        similarity = [structural_similarity(a, b, data_range=255, channel_axis=-1, **windows) for a, b in frames]
        values["psnr"].append(float(np.mean(decibels)))
        values["ssim"].append(float(np.mean(similarity)))
        values["lpips"].append(perceptual(*(clip / 127.5 - 1.0 for clip in clips)).mean().item())
        for found, clip in zip(features, clips, strict=True):
            found += [script(prepare(part, "2015")) for part in clip.split(CLIPS_A_FEATURE_BATCH)]
    names = {
        "psnr": f"torchmetrics {version('torchmetrics')}",
        "ssim": f"scikit-image {version('scikit-image')}",
        "lpips": f"lpips {version('lpips')}",
    }
    fid = by_torchmetrics(*(torch.cat(found) for found in features))
    return {name: (names[name], float(np.mean(found))) for name, found in values.items()} | {
        "fid_2015": ("TorchScript Inception, torchmetrics' formula", fid)
    }


def main() -> None:
    """Print the table; write it where `--json PATH` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audit", type=Path, required=True, help="finished audit of the tokenizer")
    parser.add_argument("--shards", required=True, help="clip store that it audited")
    parser.add_argument("--tokenizer", required=True, help="what it audited")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    record = json.loads((arguments.audit / "audit.json").read_text())
    fingerprint = load_adapter(arguments.tokenizer).fingerprint
    (candidate,) = [one for one in record["candidates"] if one["settings"].get("tokenizer") == fingerprint]
    theirs = measure(reconstructions(arguments.shards, arguments.tokenizer))
    rows: list[Agreement] = [
        agreement(metric, peer, candidate["metrics"][metric]["value"], other)
        for metric, (peer, other) in theirs.items()
        if metric in candidate["metrics"]
    ]
    for row in rows:
        sys.stdout.write(f"{row.metric:9} {row.peer:45} {row.ours:14.7f} {row.other:14.7f} {row.difference:11.1e}\n")
    if arguments.json is not None:
        document = {
            "command": "python benchmarks/audit_agreement.py --audit AUDIT --shards STORE --tokenizer TOKENIZER",
            "clips": candidate["counts"]["stored"],
            "protocol_id": record["protocol_id"],
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
